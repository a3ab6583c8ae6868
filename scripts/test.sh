#!/usr/bin/env bash
# `make test`: fetches the models of the tests while they build, then runs every test; cargo's come last.
#   test.sh [ARGUMENT…]      arguments go to `cargo test`
set -euo pipefail
cd "$(dirname "$0")/.."

fetch=''
end() {
    if [[ -n "$fetch" ]]; then
        kill -TERM "$fetch" 2>/dev/null || true
        wait "$fetch" 2>/dev/null || true
    fi
}
trap end EXIT
trap 'exit 130' INT TERM

python3 models/fetch.py smollm2-135m-instruct qwen2.5-coder-0.5b-instruct all-minilm-l6-v2 \
    > >(sed -u 's/^/models: /' >&2) 2>&1 &
fetch=$!
cargo build --release --tests --bins --locked
wait "$fetch"
fetch=''

WEIR_TEST_PYTHON=$(scripts/venv.sh tests/scripts/openai.txt)
WEIR_TELEMETRY_PYTHON=$(scripts/venv.sh tests/scripts/telemetry.txt)
WEIR_MODELS=${WEIR_MODELS:-${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/models}
export WEIR_TEST_PYTHON WEIR_TELEMETRY_PYTHON WEIR_MODELS

python3 -m unittest discover -s tests/scripts
scripts/test-deploy.sh
python3 tests/boards/live.py --weir "${CARGO_TARGET_DIR:-target}/release/weir" --prometheus "$(scripts/prometheus.sh)"
cargo test --release --locked "$@"
