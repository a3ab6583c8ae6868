#!/usr/bin/env bash
# `make test-deploy`: deploy/ against schemas, Helm's engine, hadolint, systemd's own checks and, where it is built, `weir check`.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ "$(uname -sm)" != "Linux x86_64" ]]; then
    echo "deploy: the tools that check it are made for Linux on x86_64: nothing is checked here"
    exit 0
fi
python=$(scripts/venv.sh tests/scripts/deploy.txt)
weir=${CARGO_TARGET_DIR:-target}/release/weir
if [[ -x "$weir" ]]; then
    exec "$python" -B tests/deploy/check.py --weir "$weir"
fi
exec "$python" -B tests/deploy/check.py
