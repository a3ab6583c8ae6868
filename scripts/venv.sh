#!/usr/bin/env bash
# venv.sh REQUIREMENTS: a virtual environment in the cache folder that has these packages; prints its python.
# It is made once per content of the file and never inside the tree.
set -euo pipefail

requirements=$1
cache=${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
sum=$(sha256sum "$requirements")
folder=$cache/venvs/$(basename "$requirements" .txt)-${sum:0:12}

mkdir -p "$cache/venvs"
exec 9>"$cache/venvs/.lock"
flock 9
if [[ ! -e "$folder/complete" ]]; then
    rm -rf "$folder"
    python3 -m venv "$folder" >&2
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
    touch "$folder/complete"
fi
echo "$folder/bin/python"
