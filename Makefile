# make run      serves on 127.0.0.1:8080, from nothing
# make test     everything that must hold
# make help     the rest

.DEFAULT_GOAL := help
.PHONY: help run demo-upstream build test test-boards test-console test-deploy test-foreign check check-scripts bench bench-overhead bench-local \
        bench-certificates bench-drift bench-live bench-swap bench-pacing bench-replay bench-scores eval \
        models deps deps-bench deps-console

target := $(or $(CARGO_TARGET_DIR),target)
weir := $(target)/release/weir

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: deps  ## fetch the models, build, serve on 127.0.0.1:8080 with the demo upstream beside it
	@scripts/run.sh

demo-upstream: build  ## only the demo upstream: the large model on 127.0.0.1:8090
	@python3 models/fetch.py qwen2.5-coder-1.5b-instruct
	@exec $(weir) serve --config config/demo-upstream.toml

build: deps  ## target/release/weir
	cargo build --release --locked

test: deps  ## fetch the test models, build, run all tests
	@scripts/test.sh

test-boards: deps build  ## only the boards: a real Prometheus over a real Weir runs every query
	@python3 models/fetch.py smollm2-135m-instruct
	@python3 tests/boards/live.py --weir $(weir) --prometheus "$$(scripts/prometheus.sh)" --list

test-deploy: deps  ## deploy/: schemas of Kubernetes and Compose, the chart rendered, the units, the Containerfile
	@scripts/test-deploy.sh
test-console: deps-console  ## the console in a headless Chromium (Debian package); pictures of it in target/console
	cargo build --release --locked --example stand-in
	python3 tests/console/test_console.py --binary $(target)/release/examples/stand-in --pictures $(target)/console

test-foreign: deps  ## against a foreign server (compiles llama.cpp once more)
	@scripts/test-foreign.sh

check: deps  ## formatting, lints, docs, scripts; licences where cargo-deny is installed
	@if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else echo "check: rustfmt is not installed"; fi
	@if cargo clippy --version >/dev/null 2>&1; then cargo clippy --release --all-targets --locked -- -D warnings; \
	    else echo "check: clippy is not installed"; fi
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --locked
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; fi
	@$(MAKE) --no-print-directory check-scripts

check-scripts:
	python3 -m unittest discover -s tests/scripts
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; fi

bench: deps  ## the pure rooms: parse, decide, SSE
	cargo bench --locked --bench pure

bench-swap: build  ## what clients notice while policies, files and models are changed
	python3 models/fetch.py smollm2-135m-instruct
	cargo build --release --locked --example mock-upstream
	python3 benches/load/swap.py --weir $(weir) --mock $(target)/release/examples/mock-upstream

bench-overhead: deps-bench build  ## pass-through against nginx and against the upstream directly
	python3 models/fetch.py smollm2-135m-instruct
	cargo build --release --locked --example mock-upstream
	python3 benches/load/overhead.py --weir $(weir)

bench-local: deps build  ## tokens per second and time to first token: the bare decode loop, a peer (compiles llama.cpp once more)
	python3 models/fetch.py smollm2-135m-instruct qwen2.5-coder-0.5b-instruct
	cargo bench --locked --bench local -- --json $(abspath $(target))/bench-local.json
	python3 benches/load/local.py --weir $(weir) --engine $(target)/bench-local.json \
		--python "$$(scripts/venv.sh tests/scripts/foreign.txt)"

bench-certificates: deps  ## do promises hold: certificates from samples of the answers that `make eval` recorded
	cargo bench --locked --bench certificates -- $(if $(LOGS),--logs $(abspath $(LOGS)))

bench-drift: deps  ## does the alarm fire when the traffic of a slice turns, and only then
	cargo bench --locked --bench drift

bench-live: deps build  ## certified and best-effort cascades over HTTP, the large model's recorded answers as upstream: about an hour
	python3 models/fetch.py qwen2.5-coder-0.5b-instruct
	python3 benches/eval/live.py --weir $(weir)
	python3 benches/eval/live_report.py

bench-replay: deps  ## routers and cascades on public logs: make bench-replay LOGS=FOLDER
	cargo bench --locked --bench replay -- --logs $(abspath $(LOGS))

bench-scores: deps  ## which score tells right from wrong answers: on what `make eval` and benches/scores/collect.py recorded
	cargo bench --locked --bench scores

bench-pacing: deps  ## does a budget hold over a varying load, and what value per dollar is worth; public logs too: LOGS=FOLDER
	cargo bench --locked --bench pacing -- --out benches/pacing/results.md $(if $(LOGS),--routellm $(abspath $(LOGS))/routellm/gsm8k.csv.gz --routellm $(abspath $(LOGS))/routellm/mmlu.csv.gz)

eval: deps build  ## accuracy and cost of the cascade on graded tasks; N=100 for the first 100 rows
	python3 models/fetch.py
	@scripts/eval.sh $(if $(N),--rows $(N))

models: deps  ## every model of the catalogue into the cache folder
	@python3 models/fetch.py --all

deps:
	@scripts/deps.sh

deps-bench:
	@scripts/deps.sh bench

deps-console:
	@scripts/deps.sh console
