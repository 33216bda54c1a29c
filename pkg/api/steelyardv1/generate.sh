#!/bin/sh
# Generates the Go of steelyard.proto with the plugins that go.mod pins.
set -eu
messages=$(go tool -n protoc-gen-go)
service=$(go tool -n protoc-gen-connect-go)
exec protoc --proto_path=.. \
	--plugin=protoc-gen-go="$messages" --go_out=.. --go_opt=paths=source_relative \
	--plugin=protoc-gen-connect-go="$service" --connect-go_out=.. --connect-go_opt=paths=source_relative,simple=true \
	steelyardv1/steelyard.proto
