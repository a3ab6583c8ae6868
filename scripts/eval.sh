#!/usr/bin/env bash
# `make eval`: the report half of benches/tasks, asked of both models and of the demo policy.
# Uses the demo upstream that runs already, or starts one and ends it. Arguments go to `weir eval`.
set -euo pipefail
cd "$(dirname "$0")/.."

weir=${CARGO_TARGET_DIR:-target}/release/weir
admin=http://127.0.0.1:8091
upstream=''

fail() {
    echo "eval: $*" >&2
    exit 1
}

end() {
    [[ -z "$upstream" ]] && return
    kill -TERM "$upstream" 2>/dev/null || true
    wait "$upstream" 2>/dev/null || true
}

ready() {
    curl -fs -o /dev/null --max-time 2 "$admin/readyz"
}

trap end EXIT
trap 'exit 130' INT TERM
if ! ready; then
    "$weir" serve --config config/demo-upstream.toml &
    upstream=$!
    until ready; do
        kill -0 "$upstream" 2>/dev/null || fail "the demo upstream has ended; its reason stands above"
        sleep 0.2
    done
fi

"$weir" eval --data benches/tasks/tasks.jsonl.gz --config config/demo.toml \
    --model local/qwen2.5-coder-0.5b-instruct --model large/qwen2.5-coder-1.5b-instruct \
    --policy policies/demo.toml --policy-rows 60 --constrained --out benches/eval/results "$@"
