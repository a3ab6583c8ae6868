#!/usr/bin/env bash
# `make run`: fetches the models while the binary builds, then serves with the demo upstream beside it.
# Ctrl-C or TERM ends both servers.
set -euo pipefail
cd "$(dirname "$0")/.."

weir=${CARGO_TARGET_DIR:-target}/release/weir
gateway_url=http://127.0.0.1:8080
gateway_admin=http://127.0.0.1:8081
upstream_url=http://127.0.0.1:8090
upstream_admin=http://127.0.0.1:8091
fetch='' upstream='' gateway=''

fail() {
    echo "run: $*" >&2
    exit 1
}

# Ends what this script started, by pid, and waits until it is gone.
end() {
    local pid
    trap '' INT TERM
    for pid in $gateway $upstream $fetch; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in $gateway $upstream $fetch; do
        wait "$pid" 2>/dev/null || true
    done
}

# Once the gateway runs, a signal goes to it, and its end is the end of the script.
signal() {
    [[ -n "$gateway" ]] || exit 130
    kill -TERM "$gateway" 2>/dev/null || true
}

# await NAME PID ADMIN_URL: until /readyz says 200; fails when the process has ended before.
await() {
    local name=$1 pid=$2 admin=$3
    until curl -fs -o /dev/null --max-time 2 "$admin/readyz"; do
        kill -0 "$pid" 2>/dev/null || fail "$name has ended; its reason stands above"
        sleep 0.2
    done
}

# outlive PID: waits for its end, signals or not, and returns its exit status.
outlive() {
    local code=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do
        code=0
        wait "$1" || code=$?
    done
    return "$code"
}

# ask QUESTION: the line that puts it to the gateway.
ask() {
    echo "  curl -i $gateway_url/v1/chat/completions -H 'content-type: application/json' \\"
    echo "    -d '{\"model\": \"auto\", \"messages\": [{\"role\": \"user\", \"content\": \"$1\"}]}'"
}

for port in 8080 8081 8090 8091; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        fail "port $port of 127.0.0.1 is taken; end the program that listens there"
    fi
done

trap end EXIT
trap signal INT TERM

python3 models/fetch.py > >(sed -u 's/^/models: /' >&2) 2>&1 &
fetch=$!
cargo build --release --locked
echo "run: built $weir; waiting for the models"
wait "$fetch" || fail "the models are not there; the reason stands above"
fetch=''

"$weir" serve --config config/demo-upstream.toml &
upstream=$!
await "the demo upstream" "$upstream" "$upstream_admin"

"$weir" serve --config config/demo.toml &
gateway=$!
await "the gateway" "$gateway" "$gateway_admin"

echo
echo "Weir listens on $gateway_url (OpenAI API, no key needed); metrics: $gateway_admin/metrics"
echo "The demo upstream, which plays the large model, listens on $upstream_url"
echo
echo "Answered by the small model inside (see the header x-weir-served-by):"
ask "What is the capital of France? Answer with one word."
echo
echo "Harder, so that it goes on to the upstream:"
ask "A shop sells pens at 3 for 2 euros. Tom buys 18 pens and pays with a 20 euro note. How much change does he get? Think step by step."
echo
echo "Ctrl-C ends both."

outlive "$gateway"
