#!/usr/bin/env python3
"""Local answers over HTTP, beside a peer: `make bench-local`.

Weir and the server of llama-cpp-python answer the same streamed chats with the same model file and one
compute thread each. They take turns, 1, 4 and 16 requests at once, so that a busy moment of the machine
meets both; medians over the rounds are told. The peer answers one request after the other. The table of
`cargo bench --bench local`, engine against the bare decode loop, goes into the same report.

    local.py --weir target/release/weir --python VENV/bin/python [--engine ENGINE.json] [--rounds N]

VENV has the packages of tests/scripts/foreign.txt. Models are read from the cache folder.
"""

import argparse
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from process import Failed, Server, free_address, machine, models_folder  # noqa: E402

MODELS = {
    "smollm2-135m-instruct": "smollm2-135m-instruct-q4_1.gguf",
    "qwen2.5-coder-0.5b-instruct": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
}
MODEL = "local/bench"
AT_ONCE = (1, 4, 16)
TARGETS = ("weir", "peer")
ANSWER_TOKENS = 32
TIMEOUT_SECONDS = 600
TOPICS = ("a lighthouse", "a river", "two sisters", "an old clock", "a baker", "a lost dog", "the first snow", "a train")
Run = dict[str, float]
Runs = dict[tuple[str, int, str], list[Run]]

WEIR = """
engine_threads = 1
workers = 1

[[model]]
name = "{name}"
file = "{model}"
context = 1024
slots = 16
"""


class Reply:
    """One streamed answer: when its tokens came."""

    def __init__(self) -> None:
        self.tokens: list[float] = []
        self.error: str | None = None

    def read(self, address: str, body: bytes) -> None:
        """Asks, and reads to the end; never raises."""
        try:
            self._read(address, body)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self.error = f"{type(error).__name__}: {error}"

    def _read(self, address: str, body: bytes) -> None:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{answer.status}: {answer.read(300)!r}")
        for line in answer:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            choices = json.loads(line[6:]).get("choices")
            if choices and choices[0]["delta"].get("content"):
                self.tokens.append(time.monotonic())
        connection.close()
        if not self.tokens:
            raise ValueError("an answer without a token")


def body(turn: int, number: int) -> bytes:
    """A chat that is new in every round and has a long answer."""
    topic = TOPICS[number % len(TOPICS)]
    text = f"Story {100 * (turn + 1) + number}: tell me a long story about {topic}, with many details and several people."
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True}).encode()


def ask(address: str, turn: int, at_once: int) -> Run:
    """So many requests at the same moment; all have to be answered."""
    replies = [Reply() for _ in range(at_once)]
    threads = [
        threading.Thread(target=reply.read, args=(address, body(turn, number))) for number, reply in enumerate(replies)
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed := [reply.error for reply in replies if reply.error]:
        raise Failed(f"{len(failed)} of {at_once} requests failed: {failed[0]}")
    first = [reply.tokens[0] - begun for reply in replies]
    tokens = sum(len(reply.tokens) for reply in replies)
    return {
        "per_second": tokens / (max(reply.tokens[-1] for reply in replies) - begun),
        "tokens": tokens,
        "first_token_ms": 1000 * median(first),
        "last_first_token_ms": 1000 * max(first),
    }


def start_weir(weir: Path, model: str, folder: Path, stack: ExitStack) -> str:
    address, admin, config = free_address(), free_address(), folder / "weir.toml"
    config.write_text(WEIR.format(name=MODEL, model=model))
    command = ["env", "WEIR_LOG=warn", str(weir), "serve", "--config", str(config), "--listen", address, "--admin", admin]
    stack.enter_context(Server("weir", command, f"http://{admin}/readyz", folder / "weir.log"))
    return address


def start_peer(python: Path, model: str, folder: Path, stack: ExitStack) -> str:
    """Its default is to break an answer off when another request comes; that is switched off."""
    address = free_address()
    host, port = address.split(":")
    command = [str(python), "-m", "llama_cpp.server", "--host", host, "--port", port, "--model", str(models_folder() / MODELS[model])]
    command += ["--n_ctx", "1024", "--n_threads", "1", "--n_threads_batch", "1", "--interrupt_requests", "False"]
    stack.enter_context(Server("llama-cpp-python", command, f"http://{address}/v1/models", folder / "peer.log"))
    return address


def measure(options: argparse.Namespace) -> Runs:
    found: Runs = {}
    for model in MODELS:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            places = {
                "weir": start_weir(options.weir.resolve(), model, folder, stack),
                "peer": start_peer(options.python, model, folder, stack),
            }
            for address in places.values():
                ask(address, options.rounds, 1)
            for turn in range(options.rounds):
                for at_once in AT_ONCE:
                    print(f"local: {model}, {at_once} at once, round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
                    for target, address in places.items():
                        found.setdefault((model, at_once, target), []).append(ask(address, turn, at_once))
    return found


def row(found: Runs, model: str, at_once: int) -> str:
    ours, theirs = (found[model, at_once, target] for target in TARGETS)

    def middle(runs: list[Run], figure: str) -> float:
        return median(run[figure] for run in runs)

    def ratio(figure: str) -> float:
        return median(one[figure] / other[figure] for one, other in zip(ours, theirs))

    cells = [
        model,
        str(at_once),
        f"{middle(ours, 'per_second'):.1f}",
        f"{middle(theirs, 'per_second'):.1f}",
        f"{ratio('per_second'):.2f}",
        f"{middle(ours, 'first_token_ms'):,.0f}",
        f"{middle(theirs, 'first_token_ms'):,.0f}",
        f"{ratio('first_token_ms'):.2f}",
        f"{middle(ours, 'last_first_token_ms'):,.0f}",
        f"{middle(theirs, 'last_first_token_ms'):,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


ENGINE_FIGURES = (
    ("engine tok/s", "engine_per_second", ".1f"),
    ("loop tok/s, cache as full", "loop_per_second", ".1f"),
    ("ratio", "ratio", ".3f"),
    ("ratio by CPU time", "ratio_of_cpu_time", ".3f"),
    ("idle tokens", "idle_tokens", ".0f"),
    ("loop tok/s, cache empty", "empty_loop_per_second", ".1f"),
    ("ratio", "ratio_to_empty", ".3f"),
    ("ratio by CPU time", "ratio_to_empty_of_cpu_time", ".3f"),
    ("engine TTFT ms", "engine_first_token_ms", ",.0f"),
    ("loop TTFT ms", "loop_first_token_ms", ",.0f"),
)


def table(head: list[str], lines: list[str]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def render_engine(engine: list[dict[str, Any]]) -> str:
    lines = []
    for one in engine:
        figures = [format(one["medians"][name], form) for _, name, form in ENGINE_FIGURES]
        lines.append("| " + " | ".join([one["model"], str(one["at_once"]), *figures]) + " |")
    rounds = len(engine[0]["rounds"])
    return (
        "## The engine against the bare decode loop\n\n"
        f"One process, one compute thread, prompts of about 25 tokens, greedy; medians of {rounds} rounds in which engine and loop take "
        "turns. The loop is llama.cpp's `llama_decode` on one token per sequence and step, and the greatest logit: no scores, no text, no "
        "requests. Both contexts have 8192 cells. What idle slots hold is parked outside the cache "
        "while others decode, so that attention does not pass over it; the idle tokens are those still in the cache at the end of a pass, and "
        "the first ratio is against a loop whose cache holds as many. Where there are none, both loops are alike and differ by noise. Ratios are medians of the rounds' own. Time to first token: median over the requests that come "
        "at once; the engine lets early ones decode while it reads the rest, the loop reads all prompts first.\n\n"
        + table(["model", "at once", *(head for head, _, _ in ENGINE_FIGURES)], lines)
        + "\n"
    )


def render(found: Runs, engine: list[dict[str, Any]] | None, options: argparse.Namespace) -> str:
    about = machine()
    head = ["model", "at once", "Weir tok/s", "peer tok/s", "ratio", "Weir TTFT ms", "peer TTFT ms", "ratio", "last of Weir", "last of peer"]
    lines = [row(found, model, at_once) for model in MODELS for at_once in AT_ONCE]
    parts = [
        "# Local answers: tokens per second and time to first token\n",
        f"{about['cpu']}, {about['cores']} cores shared by load and servers, nothing pinned; load average at the end {os.getloadavg()[1]:.1f} (a quiet machine has about 1: above "
        "that, other work ran beside it, and the ratios by CPU time say more than those by the clock). Made by `make bench-local`.\n",
    ]
    if engine:
        parts.append(render_engine(engine))
    parts.append(
        "## Weir against the server of llama-cpp-python, over HTTP\n\n"
        f"Streamed chats of up to {ANSWER_TOKENS} tokens, greedy, one compute thread each, medians of {options.rounds} rounds in which the two "
        "take turns. Tokens per second: all tokens from the first request to the last token, reading prompts included. Time to first token: the "
        "median of the requests that come at once, and the last of them. The peer answers one request after the other, so more at once "
        "wait longer and nothing is gained; its package compiles llama.cpp for this very CPU, Weir's build for any x86-64-v3.\n\n"
        + table(head, lines)
        + "\n"
    )
    return "\n".join(parts)


def numbers(found: Runs, engine: list[dict[str, Any]] | None, options: argparse.Namespace) -> dict[str, Any]:
    runs = [
        {"model": model, "at_once": at_once, "target": target, **{name: round(value, 3) for name, value in run.items()}}
        for (model, at_once, target), several in found.items()
        for run in several
    ]
    return {"machine": machine(), "rounds": options.rounds, "served": runs, "engine": engine}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weir", type=Path, required=True, help="the binary")
    parser.add_argument("--python", type=Path, required=True, help="a python that has llama-cpp-python's server")
    parser.add_argument("--engine", type=Path, help="what `cargo bench --bench local -- --json` wrote")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    engine = json.loads(options.engine.read_text()) if options.engine else None
    found = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    text = render(found, engine, options)
    (options.out / "local.md").write_text(text, encoding="utf-8")
    (options.out / "local.json").write_text(json.dumps(numbers(found, engine, options), indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"local: {error}")
