#!/usr/bin/env python3
"""What clients notice of changes: `make bench-swap`.

A steady load of streaming and non-streaming requests, to the local model, to an upstream and through a cascade,
while everything is changed: the policy (a new text each time, told by its name and rule), broken files, the model's
file (canary, promote, with roll-backs of generations between). Every answer must be whole, and come of one
generation: its policy's name, its rule and its generation must be those of one text. Told: requests and failures by
phase, latency with and without changes, and the process's memory before and after.

    swap.py --weir target/release/weir --mock target/release/examples/mock-upstream [--model FILE.gguf]
            [--reloads 200] [--broken 50] [--swaps 20] [--back 5]
"""

import argparse
import http.client
import json
import shutil
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from process import Failed, Server, free_address, machine, models_folder  # noqa: E402

CLIENTS = 6
CONFIG = """
listen = "{data}"
admin = "{admin}"
state = "{folder}/state"
engine_threads = 1
[[model]]
name = "local/small"
file = "{folder}/a.gguf"
context = 512
slots = 4
[[upstream]]
name = "up"
endpoints = ["http://{mock}/v1"]
models = ["mock"]
[[virtual]]
name = "auto"
policy = "policy.toml"
"""
POLICY = """name = "p{number}"
[[rule]]
name = "r{number}"
then = {{ cascade = ["local/small", "up/mock"], accept = {{ score = "min_logprob", at_least = -1.5 }} }}
"""


class Seen:
    """What the clients saw, by phase."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.phase = "before"
        self.times: dict[tuple[str, str], list[float]] = {}
        self.failed: list[str] = []
        self.texts: dict[str, str] = {}
        self.stop = False

    def note(self, kind: str, seconds: float, wrong: str | None, policy: str) -> None:
        with self.lock:
            self.times.setdefault((self.phase, kind), []).append(seconds)
            if wrong:
                self.failed.append(f"{self.phase}, {kind}: {wrong}")
            if not policy.startswith("p"):
                return
            told, _, rule = policy.partition("; rule=r")
            name, _, generation = told.partition("@")
            if name != f"p{rule}" or self.texts.setdefault(generation, name) != name:
                self.failed.append(f"{self.phase}, {kind}: mixed generations: {policy}")


def client(address: str, seen: Seen, number: int) -> None:
    """Asks until it is told to stop, one request after the other on one connection."""
    host, port = address.rsplit(":", 1)
    line = http.client.HTTPConnection(host, int(port), timeout=60)
    turn = number
    while not seen.stop:
        turn += 1
        model, stream = ("auto", "local/small", "up/mock")[turn % 3], turn % 2 == 0
        said = [{"role": "user", "content": f"Say {turn}."}]
        body = {"model": model, "stream": stream, "max_tokens": 8, "messages": said}
        began, wrong, policy = time.monotonic(), None, ""
        try:
            line.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            answer = line.getresponse()
            policy = answer.getheader("x-weir-policy", "")
            text = answer.read()
            whole = text.rstrip().endswith(b"data: [DONE]") if stream else b'"finish_reason"' in text
            if answer.status != 200 or not whole:
                wrong = f"{answer.status} {text[-200:]!r}"
        except (OSError, http.client.HTTPException) as error:
            wrong = repr(error)
            line.close()
        seen.note(f"{model}{' stream' if stream else ''}", time.monotonic() - began, wrong, policy)
        time.sleep(0.02)


def ask(admin: str, path: str, body: Any = None) -> tuple[int, Any]:
    host, port = admin.rsplit(":", 1)
    line = http.client.HTTPConnection(host, int(port), timeout=120)
    text = None if body is None else json.dumps(body)
    line.request("GET" if body is None else "POST", path, text, {"content-type": "application/json"} if text else {})
    answer = line.getresponse()
    return answer.status, json.loads(answer.read() or b"null")


def want(status: int, got: tuple[int, Any]) -> Any:
    if got[0] != status:
        raise Failed(f"want {status}, got {got[0]}: {json.dumps(got[1])[:400]}")
    return got[1]


def memory(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def changes(args: argparse.Namespace, admin: str, folder: Path, seen: Seen, pid: int) -> list[tuple[str, float]]:
    """Changes everything, phase by phase; memory after each."""
    told = []

    def phase(name: str, work: Any) -> None:
        seen.phase = name
        work()
        told.append((name, memory(pid)))

    def reloads() -> None:
        for number in range(1, args.reloads + 1):
            write(folder / "policy.toml", POLICY.format(number=number))
            want(200, ask(admin, "/admin/reload", {}))
            time.sleep(args.pause)
            if number % max(1, args.reloads // max(1, args.broken)) == 0:
                write(folder / "policy.toml", POLICY.format(number=number) + "[[rule]\n")
                status, _ = ask(admin, "/admin/reload", {})
                if status == 200:
                    raise Failed("a broken file was taken")
                write(folder / "policy.toml", POLICY.format(number=number))

    def swaps() -> None:
        for number in range(args.swaps):
            file = str(folder / ("b.gguf" if number % 2 == 0 else "a.gguf"))
            tried = {"model": "local/small", "file": file, "share": 0.5, "shadow": 0.0}
            want(200, ask(admin, "/admin/models/canary", tried))
            time.sleep(0.5)
            want(200, ask(admin, "/admin/models/promote", {"model": "local/small", "accept_uncertified": True}))

    def back() -> None:
        for _ in range(args.back):
            write(folder / "policy.toml", POLICY.format(number=9000))
            want(200, ask(admin, "/admin/reload", {}))
            known = want(200, ask(admin, "/admin/generations"))["generations"]
            numbers = sorted(one["number"] for one in known)
            want(200, ask(admin, "/admin/rollback", {"generation": numbers[-2]}))
            time.sleep(args.pause)
            write(folder / "policy.toml", POLICY.format(number=9001))
            want(200, ask(admin, "/admin/reload", {}))

    phase("before", lambda: time.sleep(args.calm))
    phase("reloads", reloads)
    phase("between", lambda: time.sleep(args.calm))
    if args.swaps:
        phase("swaps", swaps)
    phase("roll-backs", back)
    phase("after", lambda: time.sleep(args.calm))
    return told


def table(seen: Seen, told: list[tuple[str, float]]) -> None:
    print("| phase | requests | p50 ms | p99 ms | resident MiB at its end |")
    print("|---|---|---|---|---|")
    for name, resident in told:
        times = [one for (phase, _), some in seen.times.items() if phase == name for one in some]
        if times:
            half, most = 1e3 * quantile(times, 0.5), 1e3 * quantile(times, 0.99)
            print(f"| {name} | {len(times)} | {half:.1f} | {most:.1f} | {resident:.0f} |")
    print()
    print("| request | p99 ms without changes | p99 ms with |")
    print("|---|---|---|")
    calm = ("before", "between", "after")
    for kind in sorted({kind for _, kind in seen.times}):

        def most(is_calm: bool, kind: str = kind) -> str:
            some = [(phase in calm, times) for (phase, other), times in seen.times.items() if other == kind]
            times = [one for it, times in some if it == is_calm for one in times]
            return f"{1e3 * quantile(times, 0.99):.1f}" if times else "-"

        print(f"| {kind} | {most(True)} | {most(False)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", required=True)
    parser.add_argument("--mock", required=True)
    parser.add_argument("--model", default=models_folder() / "smollm2-135m-instruct-q4_1.gguf")
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--broken", type=int, default=50)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--back", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0.15)
    parser.add_argument("--calm", type=float, default=15)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("a.gguf", "b.gguf"):
            shutil.copy(args.model, folder / name)
        data, admin, mock = free_address(), free_address(), free_address()
        write(folder / "policy.toml", POLICY.format(number=0))
        (folder / "weir.toml").write_text(CONFIG.format(data=data, admin=admin, mock=mock, folder=folder))
        upstream = [args.mock, "--listen", mock]
        stack.enter_context(Server("mock", upstream, f"http://{mock}/v1/models", folder / "mock.log"))
        command = [args.weir, "serve", "--config", str(folder / "weir.toml")]
        weir = stack.enter_context(Server("weir", command, f"http://{admin}/readyz", folder / "weir.log"))
        seen = Seen()
        clients = [threading.Thread(target=client, args=(data, seen, number)) for number in range(CLIENTS)]
        for one in clients:
            one.start()
        try:
            told = changes(args, admin, folder, seen, weir.child.pid)
        finally:
            seen.stop = True
            for one in clients:
                one.join()
        print(machine())
        table(seen, told)
        asked = sum(len(some) for some in seen.times.values())
        failed = f"{len(seen.failed)} failed or of mixed generations"
        print(f"\n{asked} requests, {failed}; {len(seen.texts)} generations seen")
        for line in seen.failed[:20]:
            print(f"  {line}")
        return 1 if seen.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(f"swap.py: {failed}")
