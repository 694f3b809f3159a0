# SparkOps control plane. `make help` lists the targets.
#
# Needed: Go 1.26 or newer and make. What else a target needs (Postgres
# binaries, a C compiler for the race detector) it looks for, installs where it
# may (Debian and Ubuntu, as root or with password-free sudo) and says so.

GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X main.version=$(VERSION)
BIN       := bin/sparkops
TEST_FLAGS ?= -race -timeout 20m
BENCH_EVENTS ?= 1000000
SHELL     := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help run build test check bench generate prices docker postgres compiler fmt

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: postgres build ## Start everything on this machine with embedded defaults
	@exec $(BIN) dev

build: ## Build bin/sparkops
	@echo "building $(BIN) (the first build downloads the modules)"
	@mkdir -p bin && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/sparkops

test: postgres compiler ## Run all tests with the race detector
	$(GO) test $(TEST_FLAGS) ./...

check: ## Formatting, vet, staticcheck, generated files fresh
	@unformatted=$$(gofmt -l cmd commands domain eventstore http processes projections readmodels worker $$(ls -d web 2>/dev/null)); \
	if [ -n "$$unformatted" ]; then echo "not formatted (run make fmt):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@$(MAKE) --no-print-directory generate
	@git diff --exit-code --stat -- docs/events.md http/openapi.yaml .env.example \
	  || { echo "generated files were stale: commit what make generate wrote"; exit 1; }

fmt: ## Format the Go code
	gofmt -w cmd commands domain eventstore http processes projections readmodels worker

generate: ## Write docs/events.md, http/openapi.yaml and .env.example anew
	$(GO) run ./cmd/sparkops docs events > docs/events.md.tmp && mv docs/events.md.tmp docs/events.md
	$(GO) run ./cmd/sparkops openapi > http/openapi.yaml.tmp && mv http/openapi.yaml.tmp http/openapi.yaml
	$(GO) run ./cmd/sparkops docs env > .env.example.tmp && mv .env.example.tmp .env.example

bench: postgres ## Measure speed, each figure beside a baseline of the same run (about five minutes)
	@echo "event store: BENCH_EVENTS=$(BENCH_EVENTS) events for the catch-up pair"
	@EMBEDDED_BENCH_EVENTS=$(BENCH_EVENTS) $(GO) test -run '^$$' -bench 'Append|GRPC|PebbleSync|CatchUp' -timeout 30m ./eventstore/embedded | awk -f .ci/ratios.awk
	@echo && echo "projections: a rebuild against the same SQL sent by raw pgx batches (ratio)"
	@$(GO) test -run '^$$' -bench Rebuild -benchtime 1x -timeout 30m ./projections
	@echo && echo "the whole program: durable runs of three no-op steps"
	@$(GO) test -run '^$$' -bench Runs -benchtime 1x -timeout 30m ./cmd/sparkops

prices: ## Take the model prices anew from @pydantic/genai-prices (needs npm)
	@dir=$$(mktemp -d) && cd $$dir && npm init -y >/dev/null && npm install --silent @pydantic/genai-prices@0.1.8 \
	  && node $(CURDIR)/worker/llm/prices.cjs > $(CURDIR)/worker/llm/prices.json && rm -rf $$dir

docker: ## Build the container image (needs Docker)
	docker build --build-arg VERSION=$(VERSION) -t sparkops/control-plane:$(VERSION) .

# Postgres refuses nothing but root and absence: the launcher drops to another
# user by itself, here only absence is mended.
postgres:
	@if [ -n "$$DATABASE_URL$$SPARKOPS_PG_BIN" ] || command -v initdb >/dev/null 2>&1 \
	    || ls /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb /opt/homebrew/opt/postgresql*/bin/initdb /usr/local/opt/postgresql*/bin/initdb >/dev/null 2>&1; then \
	  true; \
	elif command -v apt-get >/dev/null 2>&1 && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	  echo "Postgres binaries not found: installing the package postgresql"; \
	  SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; \
	  $$SUDO mkdir -p /etc/postgresql-common; \
	  [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' | $$SUDO tee /etc/postgresql-common/createcluster.conf >/dev/null; \
	  $$SUDO apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$SUDO apt-get install -y -qq --no-install-recommends postgresql >/dev/null \
	    && echo "installed: $$(ls -d /usr/lib/postgresql/*/bin)"; \
	else \
	  echo "Postgres binaries (15 or newer) not found. Install them with one command:"; \
	  echo "  Debian, Ubuntu:  sudo apt-get install -y postgresql"; \
	  echo "  macOS:           brew install postgresql@17"; \
	  echo "or set SPARKOPS_PG_BIN to their folder, or DATABASE_URL to a running server."; exit 1; \
	fi

compiler:
	@if command -v $${CC:-cc} >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1; then true; \
	elif command -v apt-get >/dev/null 2>&1 && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then \
	  echo "no C compiler, which the race detector needs: installing the packages gcc and libc6-dev"; \
	  SUDO=; [ "$$(id -u)" = 0 ] || SUDO=sudo; \
	  $$SUDO apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$SUDO apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null; \
	else \
	  echo "The race detector needs a C compiler: install gcc, or run make test TEST_FLAGS=-timeout=20m"; exit 1; \
	fi
