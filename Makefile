# Steelyard. `make` alone lists the targets.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX ?= /usr/local
UNITDIR ?= /usr/lib/systemd/system
SYSCONFDIR ?= /etc

# Linters, tests and product are compiled in one way, so that every package is compiled once and
# what is tested is what is shipped. Only the race detector wants another, with cgo.
export CGO_ENABLED := 0
export GOFLAGS := $(filter-out -trimpath,$(GOFLAGS)) -trimpath

# Flags for every go test, such as: make test GOTESTFLAGS=-v
ifdef CI
GOTESTFLAGS ?= -v
endif

# Tests and labs make network namespaces and load BPF programs, which needs root.
# Everything is built as the user who calls; only the result runs under sudo.
ifneq ($(shell id -u),0)
AS_ROOT := -exec "sudo env PATH=$$PATH STEELYARD_CONNECTIONS=$$STEELYARD_CONNECTIONS \
	STEELYARD_FUZZ_RUNS=$$STEELYARD_FUZZ_RUNS STEELYARD_FUZZ_SEED=$$STEELYARD_FUZZ_SEED STEELYARD_FUZZ_CASE=$$STEELYARD_FUZZ_CASE"
endif

UNIT := ./cmd/... ./pkg/... ./tools/...
C_FILES = $(wildcard bpf/*.c bpf/*.h tools/*/*.c tools/*/*.h tools/*/*/*.c tools/*/*/*.h)
# The version comes from here, so that a build needs no git.
GO_BUILD = go build -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)"
LAB = go run $(AS_ROOT) ./tools/lab $(if $(MODE),--mode $(MODE))

.PHONY: help build generate check-generated fmt lint test test-unit test-e2e \
	test-connections test-kernels fuzz nightly build-next demo demo-shell demo-down bench throughput scale sim clean install setup setup-lab \
	setup-kernels

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/steelyard, one static binary
	$(GO_BUILD) -o bin/steelyard ./cmd/steelyard

# The upgrade in the tests is to this.
build-next: VERSION := $(VERSION)-next
build-next: ## build bin/steelyard-next, the same under another version
	$(GO_BUILD) -o bin/steelyard-next ./cmd/steelyard

demo: setup-lab build ## show Steelyard at work in a lab of network namespaces; MODE=nat, MODE=fullnat
	$(LAB) demo

demo-shell: setup-lab build ## the same lab, with a shell to play in
	$(LAB) shell

demo-down: ## take down what an interrupted demo left
	$(LAB) down

test: setup build ## run all tests, end to end included
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-e2e

test-unit: build ## run the tests of the packages, with the race detector
	CGO_ENABLED=1 go test -race -timeout 15m $(GOTESTFLAGS) $(AS_ROOT) $(UNIT)

test-e2e: build build-next ## run the tests of the built binary in network namespaces
	go test -count 1 -timeout 15m $(GOTESTFLAGS) $(AS_ROOT) ./test/...

test-connections: export STEELYARD_CONNECTIONS = full
test-connections: setup build build-next ## check that nothing breaks thousands of connections
	go test -count 1 -timeout 90m -v $(AS_ROOT) ./test/connections

test-kernels: setup setup-kernels build ## run tests on Linux 6.1 and 6.12, in virtual machines
	@go run ./tools/kernels $(filter -v,$(GOTESTFLAGS)) $(KERNELS)

# Every night other packets. A case that failed: make fuzz SEED=... CASE=...
fuzz: export STEELYARD_FUZZ_RUNS = $(or $(RUNS),10000000)
fuzz: export STEELYARD_FUZZ_SEED = $(or $(SEED),$(shell date +%s))
fuzz: export STEELYARD_FUZZ_CASE = $(CASE)
fuzz: setup ## send ten million mutated packets through the packet path; RUNS, SEED, CASE
	go test -count 1 -timeout 2h -v -run 'TestFuzz$$' $(AS_ROOT) ./pkg/dataplane

nightly: ## run what takes too long for every change: fuzz, then test-connections
	@$(MAKE) --no-print-directory fuzz
	@$(MAKE) --no-print-directory test-connections

# With -trimpath, a cache for all clones names files of the one that was first.
lint: setup ## check format, imports, lengths, and what vet and staticcheck know
	@unformatted=$$(gofmt -l cmd pkg test tools); if [ -n "$$unformatted" ]; then \
		echo "not formatted, run 'make fmt':" $$unformatted >&2; exit 1; fi
	clang-format-19 --dry-run -Werror $(C_FILES)
	go run ./tools/lint
	go vet ./...
	STATICCHECK_CACHE=$(CURDIR)/.cache/staticcheck go tool staticcheck ./...

fmt: setup ## format all code
	gofmt -w cmd pkg test tools
	clang-format-19 -i $(C_FILES)

generate: setup ## regenerate BPF objects and protobuf code
	go generate ./...

check-generated: setup ## fail if generated code is out of date
	tools/check-generated.sh

bench: setup build ## measure the packet path and write docs/performance.md; BENCH=-quick: a short run that writes nothing
	go run $(AS_ROOT) ./tools/bench $(or $(BENCH),-json docs/performance.json -page docs/performance.md)

throughput: setup build ## measure packets and HTTP requests per second and write docs/throughput.md; THROUGHPUT=-quick: a short run that writes nothing
	go run $(AS_ROOT) ./tools/throughput $(or $(THROUGHPUT),-json docs/throughput.json -page docs/throughput.md)

# Figures of the control plane, from benchmarks where the code lives.
SCALE = go test $(AS_ROOT) -timeout 20m -run '^$$' -count $(or $(RUNS),5)
scale: setup build ## measure the control plane under large states and write docs/scale.md; RUNS: 5
	mkdir -p bin && rm -f bin/scale.txt
	$(SCALE) -bench 'Build/weights=equal/size=65|Move' ./pkg/maglev ./pkg/flux >>bin/scale.txt
	$(SCALE) -bench '^BenchmarkTransition$$' -benchtime 50x ./pkg/dataplane >>bin/scale.txt
	$(SCALE) -bench '^Benchmark(ApplyCold|ApplyChange|Sweep)$$' -benchtime 3x ./pkg/dataplane >>bin/scale.txt
	$(SCALE) -bench 'Failover/backends=1000' -benchtime 5x ./pkg/reconcile >>bin/scale.txt
	$(SCALE) -bench . -benchtime 1x ./test/scale >>bin/scale.txt
	go run ./tools/scale -json docs/scale.json -page docs/scale.md <bin/scale.txt

sim: setup ## count the connections that churn breaks in a tenth of a large fleet's; FULL=1: in all
	@go run ./tools/fluxsim -scale $(if $(FULL),1,0.1)

setup: ## install what building and testing need (Debian 12)
	@tools/setup.sh dev

setup-lab: ## install what the demo needs (Debian 12)
	@tools/setup.sh lab

setup-kernels: ## install what virtual machines of other kernels need (Debian 12)
	@tools/setup.sh kernels

install: ## install binary, configuration and units; see PREFIX and DESTDIR
	@test -x bin/steelyard || { echo "build first: make build" >&2; exit 1; }
	install -D -m 0755 bin/steelyard $(DESTDIR)$(PREFIX)/bin/steelyard
	@test -e $(DESTDIR)$(SYSCONFDIR)/steelyard/steelyard.yaml || \
		install -D -m 0644 packaging/steelyard.yaml $(DESTDIR)$(SYSCONFDIR)/steelyard/steelyard.yaml
	@for unit in steelyard steelyard-backend; do \
		install -D -m 0644 packaging/$$unit.service $(DESTDIR)$(UNITDIR)/$$unit.service && \
		sed -i 's|=/usr/bin/|=$(PREFIX)/bin/|' $(DESTDIR)$(UNITDIR)/$$unit.service || exit 1; done

clean: ## remove what was built
	rm -rf bin
