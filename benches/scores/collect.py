#!/usr/bin/env python3
"""Collects the evidence beside an answer, through a running gateway, for `make bench-scores`.

Of every row of benches/tasks, by the small model: five samples, and whether it thinks its own recorded
greedy answer right; by the second model: its greedy answer; by the embedder: the vector of the prompt.
One record per (id, kind, model) is appended to a JSONL file at once, so that an interrupted run goes on
where it was. Short answers come first. Needs Python 3.11 and nothing else.

    collect.py --gateway URL [--answers ANSWERS.jsonl] [--out EVIDENCE.jsonl] [--kinds samples,p_true,…]
"""

import argparse
import gzip
import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parent.parent / "tasks" / "tasks.jsonl.gz"
SMALL = "local/qwen2.5-coder-0.5b-instruct"
SECOND = "local/smollm2-135m-instruct"
EMBEDDER = "local/all-minilm-l6-v2"
KINDS = {"samples": SMALL, "p_true": SMALL, "second": SECOND, "embedding": EMBEDDER}
QUESTION = "Is the proposed answer correct? Answer Y or N."
SAMPLES, TEMPERATURE, LONG = 5, 0.8, 100
Row = dict[str, Any]


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call; tried again a few times where the gateway is busy."""
    for attempt in range(5):
        try:
            request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=900) as answer:
                return json.load(answer)
        except OSError as error:
            failure = error
            time.sleep(1 + attempt)
    raise failure


def chat(url: str, model: str, row: Row, **more: Any) -> list[dict[str, Any]]:
    body = {"model": model, "messages": row["messages"], "max_tokens": row["max_tokens"], "temperature": 0, "logprobs": True}
    choices = post(url, "/v1/chat/completions", body | more)["choices"]
    return sorted(choices, key=lambda choice: choice["index"])


def logprobs(choice: dict[str, Any]) -> list[float]:
    return [round(token["logprob"], 4) for token in choice["logprobs"]["content"]]


def collect(url: str, kind: str, row: Row, answer: str | None) -> dict[str, Any]:
    """The evidence of one kind."""
    if kind == "samples":
        choices = chat(url, SMALL, row, n=SAMPLES, temperature=TEMPERATURE, seed=1)
        texts = [choice["message"]["content"] or "" for choice in choices]
        return {"texts": texts, "logprobs": [logprobs(one) for one in choices]}
    if kind == "p_true":
        turns = [{"role": "assistant", "content": answer}, {"role": "user", "content": QUESTION}]
        choice = chat(url, SMALL, row, messages=row["messages"] + turns, max_tokens=1, top_logprobs=20)[0]
        first = choice["logprobs"]["content"][0]
        return {"answer": answer, "top": [[other["token"], round(other["logprob"], 4)] for other in first["top_logprobs"]]}
    if kind == "second":
        choice = chat(url, SECOND, row)[0]
        return {"text": choice["message"]["content"] or "", "logprobs": logprobs(choice)}
    vector = post(url, "/v1/embeddings", {"model": EMBEDDER, "input": row["messages"][-1]["content"]})["data"][0]["embedding"]
    return {"vector": [round(number, 5) for number in vector]}


def default_records() -> Path:
    """Where `make eval` keeps answers."""
    cache = os.environ.get("WEIR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"
    return Path(cache) / "eval" / "answers.jsonl"


def read_tasks() -> list[Row]:
    with gzip.open(TASKS, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file that another process may be writing."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def answers(path: Path) -> dict[str, str]:
    """The small model's greedy answers by row."""
    return {one["id"]: one["text"] for one in read_lines(path) if one["model"] == SMALL and one["form"] == "free"}


def work(options: argparse.Namespace, kind: str, rows: list[Row], seen: set[tuple[str, str]], write: Any) -> int:
    """Collects what is missing of one kind; returns how many rows have to wait for their answer."""
    waiting, greedy, done = 0, answers(options.answers) if kind == "p_true" else {}, 0
    for row in rows:
        if (row["id"], kind) in seen:
            continue
        if kind == "p_true" and row["id"] not in greedy:
            waiting += 1
            continue
        record = collect(options.gateway, kind, row, greedy.get(row["id"]))
        write({"id": row["id"], "kind": kind, "model": KINDS[kind], **record})
        seen.add((row["id"], kind))
        done += 1
        if done % 50 == 0:
            print(f"{kind}: {done} more", file=sys.stderr, flush=True)
    return waiting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--answers", type=Path, default=default_records())
    parser.add_argument("--out", type=Path, default=default_records().with_name("evidence.jsonl"))
    parser.add_argument("--kinds", default=",".join(KINDS), help="side by side; `a+b`: one after the other")
    parser.add_argument("--parallel", type=int, default=2, help="requests at once of each")
    options = parser.parse_args()
    rows = sorted(read_tasks(), key=lambda row: (row["max_tokens"] > LONG, row["id"]))
    seen = {(one["id"], one["kind"]) for one in read_lines(options.out)}
    lock, out = threading.Lock(), options.out.open("a", encoding="utf-8")

    def write(record: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(record) + "\n")
            out.flush()

    def run(kinds: list[str], share: list[Row]) -> None:
        for kind in kinds:
            while work(options, kind, share, seen, write):
                time.sleep(30)

    works = [(group.split("+"), rows[part :: options.parallel]) for group in options.kinds.split(",") for part in range(options.parallel)]
    threads = [threading.Thread(target=run, args=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
