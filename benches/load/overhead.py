#!/usr/bin/env python3
"""What passing a request through costs: `make bench-overhead`.

One mock upstream that answers at once, asked directly, through nginx as reverse proxy, and through Weir:
by a model named directly and by a virtual model whose policy has one rule. The targets take turns in
short rounds, so that a busy moment of the machine meets all of them; medians over the rounds are told.
JSON (about 570 bytes in, 1 KB out) and SSE (32 chunks), 64 connections; latency also with 1.

    overhead.py --weir target/release/weir [--mock target/release/examples/mock-upstream] [--rounds N]

Needs nginx and wrk. Weir and nginx have two workers each, Weir a small model loaded and idle, metrics on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from process import Failed, Server, free_address, machine  # noqa: E402

WORKERS = 2
CONNECTIONS = 64
PATH = "/v1/chat/completions"
TARGETS = ("direct", "nginx", "weir", "weir, one rule")
KINDS = ("JSON", "SSE")
FILLER = "Say what a gateway is, in one paragraph that a newcomer to the whole field understands. "
Run = dict[str, float]
Runs = dict[tuple[str, str], list[Run]]

NGINX = """
{user}
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log; worker_processes {workers};
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream mock {{ server {mock}; keepalive {connections}; keepalive_requests 100000000; }}
  server {{
    listen {listen};
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

WEIR = """
workers = {workers}

[[model]]
name = "local/idle"
file = "smollm2-135m-instruct"

[[upstream]]
name = "up"
endpoints = ["http://{mock}/v1"]
models = ["mock"]

[[virtual]]
name = "routed"
policy = "one-rule.toml"

[[price]]
model = "up/mock"
input = 0.4
output = 1.6
"""

POLICY = 'name = "one-rule"\n\n[[rule]]\nname = "everything goes up"\nthen = { serve = "up/mock" }\n'


def body(model: str, stream: bool) -> bytes:
    """A request of about 570 bytes."""
    messages = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": FILLER * 4}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": 256, "temperature": 0.7, "stream": stream}).encode()


def start_mock(mock: Path, seconds: int, folder: Path, stack: ExitStack) -> str:
    address = free_address()
    command = [str(mock), "--listen", address, "--seconds", str(seconds)]
    stack.enter_context(Server("the mock", command, f"http://{address}/v1/models", folder / "mock.log"))
    return address


def start_nginx(mock: str, folder: Path, stack: ExitStack) -> tuple[str, Server]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Failed("nginx is missing; on Debian: apt-get install nginx-light")
    address, config = free_address(), folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(NGINX.format(user=user, folder=folder, workers=WORKERS, mock=mock, connections=CONNECTIONS, listen=address))
    command = [program, "-e", str(folder / "nginx-error.log"), "-p", str(folder), "-c", str(config)]
    return address, stack.enter_context(Server("nginx", command, f"http://{address}/v1/models", folder / "nginx.log"))


def start_weir(weir: Path, mock: str, folder: Path, stack: ExitStack) -> tuple[str, Server]:
    address, admin, config = free_address(), free_address(), folder / "weir.toml"
    config.write_text(WEIR.format(workers=WORKERS, mock=mock))
    (folder / "one-rule.toml").write_text(POLICY)
    command = ["env", "WEIR_LOG=warn", str(weir), "serve", "--config", str(config), "--listen", address, "--admin", admin]
    return address, stack.enter_context(Server("weir", command, f"http://{admin}/readyz", folder / "weir.log"))


def load(url: str, payload: Path, connections: int, seconds: int, server: Server | None) -> Run:
    """One run of wrk; with the server's CPU time per request."""
    before = server.cpu_seconds() if server else 0.0
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "post.lua"), url, "--", str(payload)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise Failed(f"{url}: {found['failed']} of {found['requests']} requests failed")
    spent = server.cpu_seconds() - before if server else float("nan")
    return {
        "rps": found["requests"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "cpu_us": 1e6 * spent / found["requests"],
    }


def measure(options: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[int, Runs]:
    """All runs by connections, then by (kind, target)."""
    runs = len(KINDS) * len(TARGETS) * options.rounds
    mock = start_mock(options.mock, 120 + 3 * runs * options.seconds, folder, stack)
    nginx_address, nginx = start_nginx(mock, folder, stack)
    weir_address, weir = start_weir(options.weir.resolve(), mock, folder, stack)
    places = {
        "direct": (mock, "mock", None),
        "nginx": (nginx_address, "mock", nginx),
        "weir": (weir_address, "up/mock", weir),
        "weir, one rule": (weir_address, "routed", weir),
    }
    found: dict[int, Runs] = {CONNECTIONS: {}, 1: {}}
    for connections, seconds in ((CONNECTIONS, options.seconds), (1, max(1, options.seconds // 2))):
        for turn in range(options.rounds):
            print(f"overhead: {connections} connections, round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for kind in KINDS:
                for target, (address, model, server) in places.items():
                    payload = folder / "payload.json"
                    payload.write_bytes(body(model, kind == "SSE"))
                    one = load(f"http://{address}{PATH}", payload, connections, seconds, server)
                    found[connections].setdefault((kind, target), []).append(one)
    return found


def middle(runs: list[Run]) -> Run:
    """The median of each figure over the rounds."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def ratios(runs: Runs, kind: str, target: str) -> float:
    """The median over the rounds of the throughput against nginx in the same round."""
    return median(one["rps"] / other["rps"] for one, other in zip(runs[kind, target], runs[kind, "nginx"]))


def numbers(found: dict[int, Runs], options: argparse.Namespace) -> dict[str, Any]:
    """Everything as JSON holds it."""
    return {
        "machine": machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "runs": [
            {"connections": connections, "kind": kind, "target": target, **{key: none_if_nan(value) for key, value in run.items()}}
            for connections, runs in found.items()
            for (kind, target), several in runs.items()
            for run in several
        ],
    }


def none_if_nan(value: float) -> float | None:
    return round(value, 4) if value == value else None


def row(found: dict[int, Runs], kind: str, target: str) -> str:
    many, one = middle(found[CONNECTIONS][kind, target]), middle(found[1][kind, target])
    added = 1000 * (one["p50_ms"] - middle(found[1][kind, "direct"])["p50_ms"])
    cpu = "–" if many["cpu_us"] != many["cpu_us"] else f"{many['cpu_us']:.1f}"
    cells = [
        target,
        f"{many['rps']:,.0f}",
        f"{ratios(found[CONNECTIONS], kind, target):.2f}",
        f"{many['p50_ms']:.2f}",
        f"{many['p99_ms']:.2f}",
        cpu,
        f"{one['p50_ms']:.3f}",
        f"{added:+.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def render(found: dict[int, Runs], options: argparse.Namespace) -> str:
    about = machine()
    head = ["", "requests/s", "against nginx", "p50 ms", "p99 ms", "CPU µs per request", "p50 ms, 1 connection", "added µs"]
    parts = [
        "# What passing a request through costs\n",
        f"{about['cpu']}, {about['cores']} cores shared by load generator (wrk, 1 thread), mock upstream (1 worker), nginx and Weir "
        f"({WORKERS} workers each): nothing is pinned, so throughput is that of the whole box and the ratio is what counts. Weir has a "
        f"135M model loaded and idle, metrics on, logs at warn. SSE throughput is bound by the mock: there the CPU time ranks. Medians of {options.rounds} interleaved rounds of {options.seconds} s; "
        f"{CONNECTIONS} connections unless said. Made by `make bench-overhead`.\n",
    ]
    for kind, what in zip(KINDS, ("570 bytes in, 1 KB out", "32 chunks, each flushed by itself")):
        lines = [f"## {kind} ({what})\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        parts.append("\n".join(lines + [row(found, kind, target) for target in TARGETS]) + "\n")
    return "\n".join(parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weir", type=Path, required=True, help="the binary")
    parser.add_argument("--mock", type=Path, help="the mock upstream [default: examples/mock-upstream beside the binary]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of one run")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.mock = options.mock or options.weir.resolve().parent / "examples" / "mock-upstream"
    return options


def main() -> None:
    options = arguments()
    if shutil.which("wrk") is None:
        raise Failed("wrk is missing; on Debian: apt-get install wrk")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = measure(options, folder, stack)
    options.out.mkdir(parents=True, exist_ok=True)
    text = render(found, options)
    (options.out / "overhead.md").write_text(text, encoding="utf-8")
    (options.out / "overhead.json").write_text(json.dumps(numbers(found, options), indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"overhead: {error}")
