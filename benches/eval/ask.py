"""Asks a model over HTTP and keeps the answers in a file, so that an interrupted run goes on.

One record per (model, row, form, model file): text, verdict, time, cost, confidence. A record is
written at once; a line cut off by an interruption is ignored.
"""

import http.client
import json
import os
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, Iterable

import forms
from graders import is_right

Row = dict[str, Any]
Record = dict[str, Any]
Key = tuple[str, str, str, str]

AUTO = "auto"
TRIES = 4
TIMEOUT_SECONDS = 600.0
FORM_TOKENS = 8
ALTERNATIVES = 5


class Refused(Exception):
    """The gateway did not answer a row; the text tells why."""


def key_of(record: Record) -> Key:
    """What makes a record the same as another."""
    return record["model"], record["id"], record["form"], record["file"]


class Records:
    """The answers so far: a JSONL file that is only appended to."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.known: dict[Key, Record] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            self.known[key_of(record)] = record
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        with self._lock:
            self.known[key_of(record)] = record
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()


class Progress:
    """A bar on a terminal, else a line now and then."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done, self.said = title, total, 0, 0.0
        self.started = time.monotonic()
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self.done += 1
            now, terminal = time.monotonic(), sys.stderr.isatty()
            if self.done < self.total and now - self.said < (0.1 if terminal else 15):
                return
            self.said = now
            left = (now - self.started) / self.done * (self.total - self.done)
            told = f"{self.title}: {self.done}/{self.total}, {left / 60:.0f} min left"
            if terminal:
                filled = 30 * self.done // self.total
                end = "\n" if self.done == self.total else ""
                print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {told}   ", end=end, file=sys.stderr, flush=True)
            else:
                print(told, file=sys.stderr, flush=True)


class Client:
    """One connection to the gateway; one thread uses it."""

    def __init__(self, base_url: str) -> None:
        parts = urllib.parse.urlsplit(base_url)
        self._root = parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)

    def ask(self, model: str, row: Row, schema: forms.Schema | None = None, traced: bool = False) -> Record:
        """Asks greedily and returns the answer with what its head told; `traced`: with its log-probabilities."""
        body = {"model": model, "messages": row["messages"], "max_tokens": row["max_tokens"], "temperature": 0}
        if traced:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        if schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            body["max_tokens"] += FORM_TOKENS
        started = time.monotonic()
        answer, headers = self._post("/v1/chat/completions", body)
        ms = 1000 * (time.monotonic() - started)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        return (trace(choice) if traced else {}) | {
            "text": choice["message"]["content"] or "",
            "finish": choice["finish_reason"],
            "ms": round(ms, 1),
            "usd": float(headers.get("x-weir-cost-usd", "nan")),
            "served_by": headers.get("x-weir-served-by"),
            "policy": headers.get("x-weir-policy"),
            "scores": scores(headers.get("x-weir-confidence", "")),
            "prompt_tokens": usage.get("prompt_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
        }

    def _post(self, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], http.client.HTTPMessage]:
        payload, why = json.dumps(body).encode(), ""
        for attempt in range(TRIES):
            time.sleep(attempt)
            try:
                self._connection.request("POST", self._root + path, payload, {"content-type": "application/json"})
                answer = self._connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                why = repr(error)
                continue
            if answer.status == 200:
                return json.loads(content), answer.headers
            why = f"{answer.status}: {content.decode(errors='replace')[:500]}"
            if answer.status not in (429, 502, 503, 504):
                break
        raise Refused(f"{body['model']}: {why}")


def trace(choice: dict[str, Any]) -> Record:
    """Per token the log-probability of what was said, and those of the likeliest."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return {
        "logprobs": [round(token["logprob"], 4) for token in tokens],
        "top_logprobs": [[round(other["logprob"], 4) for other in token["top_logprobs"]] for token in tokens],
    }


def scores(header: str) -> dict[str, float]:
    """`min_logprob=-1.2, margin=0.4` → its numbers."""
    pairs = (part.partition("=") for part in header.split(",") if "=" in part)
    return {name.strip(): float(value) for name, _, value in pairs}


def ask_all(base_url: str, model: str, file: str, asks: Iterable[tuple[Row, forms.Schema | None]], records: Records, progress: Progress) -> None:
    """Asks one model row after row; what is recorded already is not asked again."""
    client = Client(base_url)
    for row, schema in asks:
        form = "free" if schema is None else "constrained"
        traced = form == "free" and model != AUTO
        known = records.known.get((model, row["id"], form, file))
        if known is None or traced and "logprobs" not in known:
            answer = client.ask(model, row, schema, traced)
            text = answer["text"] if schema is None else forms.plain(row, answer["text"])
            records.add({"model": model, "id": row["id"], "form": form, "file": file, "right": is_right(row, text), **answer})
        progress.step()


def in_parallel(works: Iterable[tuple[Any, ...]]) -> None:
    """Runs `ask_all` with each of these arguments, each in a thread; the first failure ends the program's run."""
    failed: list[BaseException] = []

    def run(arguments: tuple[Any, ...]) -> None:
        try:
            ask_all(*arguments)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(arguments,), daemon=True) for arguments in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive() and not failed:
            thread.join(0.2)
    if failed:
        raise failed[0]


def default_records() -> Path:
    """Where answers are kept when nothing is said: the cache folder."""
    cache = os.environ.get("WEIR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"
    return Path(cache) / "eval" / "answers.jsonl"
