// Package steelyardv1 is the generated Go of steelyard.proto, the API's first
// version. Use it through pkg/api.
package steelyardv1

//go:generate ./generate.sh
