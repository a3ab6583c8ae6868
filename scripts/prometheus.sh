#!/usr/bin/env bash
# prometheus.sh: prints a folder that holds `prometheus` and `promtool`.
# Installed ones, else those of the Debian package, unpacked in the cache folder: nothing is installed, no service starts.
set -euo pipefail

if installed=$(command -v prometheus) && command -v promtool >/dev/null; then
    dirname "$installed"
    exit 0
fi

cache=${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}
folder=$cache/prometheus
mkdir -p "$cache"
exec 9>"$cache/.prometheus.lock"
flock 9
if [[ ! -x "$folder/usr/bin/promtool" ]]; then
    command -v apt-get >/dev/null || {
        echo "prometheus: prometheus and promtool are missing; install Prometheus 2.42 or newer" >&2
        exit 1
    }
    rm -rf "$folder" && mkdir -p "$folder"
    if [[ "$(id -u)" == 0 ]]; then
        apt-get update -q >&2
    fi
    (cd "$folder" && apt-get download -q prometheus >&2 && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
fi
echo "$folder/usr/bin"
