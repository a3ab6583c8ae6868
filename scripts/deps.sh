#!/usr/bin/env bash
# Installs what the build needs and this machine lacks, by name of Debian package.
#   deps.sh [bench|console]      bench: also what the comparisons need; console: a browser
# As root, or with sudo that asks for no password, it installs; else it prints the line to run.
set -euo pipefail

has() { command -v "$1" >/dev/null; }

has_libclang() {
    [[ -n "${LIBCLANG_PATH:-}" ]] || compgen -G '/usr/lib/llvm-*/lib/libclang.so' >/dev/null ||
        ldconfig -p 2>/dev/null | grep -q 'libclang\.so '
}

fail() {
    echo "deps: $*" >&2
    exit 1
}

has cargo || fail "cargo is missing; install Rust 1.95 or newer"
has python3 || fail "python3 is missing; on Debian and Ubuntu: apt-get install python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is older than 3.11"

missing=()
{ has gcc && has g++ && has make; } || missing+=(build-essential)
has cmake || missing+=(cmake)
has curl || missing+=(curl)
has_libclang || missing+=(libclang-dev)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
if [[ "${1:-}" == bench ]]; then
    { has nginx || [[ -x /usr/sbin/nginx ]]; } || missing+=(nginx-light)
    has wrk || missing+=(wrk)
fi
if [[ "${1:-}" == console ]]; then
    { has chromium || has chromium-browser || has google-chrome; } || missing+=(chromium)
fi
((${#missing[@]})) || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
has apt-get || fail "missing, by their names on Debian: ${missing[*]}"
if [[ "$(id -u)" == 0 ]]; then
    as_root=(env)
elif has sudo && sudo -n true 2>/dev/null; then
    as_root=(sudo)
else
    fail "missing: ${missing[*]}; run: sudo ${install[*]}"
fi
echo "deps: installing ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" DEBIAN_FRONTEND=noninteractive "${install[@]}"
