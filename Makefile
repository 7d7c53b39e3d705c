# Everything that the project does to itself. Each target installs what it
# lacks (deploy/dev/setup.sh) and is quick the second time.
.DEFAULT_GOAL := help
SHELL := /usr/bin/env bash
include deploy/dev/versions.env

version := $(shell git describe --tags --always --dirty 2>/dev/null)
lint_tool := .cache/bin/golangci-lint-$(GOLANGCI_LINT_VERSION)
vuln_tool := .cache/bin/govulncheck-$(GOVULNCHECK_VERSION)

.PHONY: help build demo run test race race-all race-some fuzz lint vuln bench eval generate setup demo-kafka kafka-up kafka-down

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | column -t -s@

build: ## make bin/mcpaudit
	@CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$(version)" -o bin/mcpaudit ./cmd/mcpaudit

setup: ## install what a Debian-like machine lacks, and say what
	@deploy/dev/setup.sh

demo: build ## real MCP servers behind mcpaudit, and their events
	@go build -trimpath -o bin/library ./ingest/emit/gosdk/example
	@deploy/demo/demo.sh

demo-kafka: build ## two instances behind a Kafka topic, one of them killed
	@deploy/demo/kafka.sh

run: build setup ## the service, on loopback, data in your data folder
	@bin/mcpaudit serve

# Those that take longest first, so that no core is idle while the last of them runs.
slow := ./cmd/mcpaudit ./query/verify ./detect/live ./ingest/kafka ./ingest/store ./query

test: setup ## all tests
	deploy/dev/inmemory.sh go test $(slow) ./...

race: setup ## the tests of everything concurrent under the race detector
	deploy/dev/inmemory.sh $(MAKE) --no-print-directory -j2 -Orecurse race-all race-some

race-all:
	go test -race -skip "OnAServer|PastSchema|HostileRequests|EachRole|TenThousand" ./ingest/store/... ./ingest ./ingest/anchor/... ./ingest/auth ./ingest/client ./ingest/diary ./ingest/emit ./ingest/emit/gosdk ./ingest/rpc ./ingest/wrap ./internal/app ./internal/transport

race-some:
	go test -race -run "OfATopic|DeadLetter|Rebalance|JoinAndLeave" ./ingest/kafka
	go test -race -run "Reload|Runner|RunFollows|Watch|WhileEventsArrive|LeavesEnds" ./detect/live ./query ./query/findings

fuzz: ## each fuzz target for FUZZTIME (default 10s)
	@deploy/dev/fuzz.sh $${FUZZTIME:-10s}

lint: $(lint_tool) ## vet, golangci-lint, buf lint, breaking changes of the API
	$(lint_tool) run
	@deploy/dev/lint-api.sh

$(lint_tool):
	@echo "setup: building golangci-lint $(GOLANGCI_LINT_VERSION)" >&2
	@GOBIN=$(CURDIR)/.cache/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv .cache/bin/golangci-lint $@

vuln: $(vuln_tool) ## known vulnerabilities in code that is called (GOVULNDB: which database)
	@deploy/dev/vuln.sh $(vuln_tool)

$(vuln_tool):
	@echo "setup: building govulncheck $(GOVULNCHECK_VERSION)" >&2
	@GOBIN=$(CURDIR)/.cache/bin go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@mv .cache/bin/govulncheck $@

bench: build setup ## speed, memory and size beside their limits
	bin/mcpaudit bench all

eval: ## how well the detectors find what public data has labelled
	@deploy/dev/eval.sh

generate: ## make generated code anew
	deploy/dev/generate.sh
	go generate ./...

kafka-up: ## N brokers of Apache Kafka on this machine (default 1)
	@deploy/dev/setup.sh kafka
	@deploy/dev/kafka.sh up $(or $(N),1)

kafka-down: ## stop them and remove their data
	@deploy/dev/kafka.sh down
