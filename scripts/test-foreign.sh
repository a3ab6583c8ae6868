#!/usr/bin/env bash
# `make test-foreign`: the tests named foreign, against the server of llama-cpp-python. Installing that
# package compiles llama.cpp once more, so this is no part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 models/fetch.py smollm2-135m-instruct qwen2.5-coder-0.5b-instruct
WEIR_FOREIGN_PYTHON=$(scripts/venv.sh tests/scripts/foreign.txt)
WEIR_MODELS=${WEIR_MODELS:-${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/models}
export WEIR_FOREIGN_PYTHON WEIR_MODELS

cargo test --release --locked --features foreign --test all foreign::
