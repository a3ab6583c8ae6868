#!/usr/bin/env python3
"""Two curves, lived over HTTP: certified and best-effort, each point a virtual model of one gateway.

Makes the calibrations and the gap predictor of the answers to the calibrate half that `make eval` recorded
(and of benches/tasks/own.jsonl.gz, where they are recorded too), starts Weir with the small model inside, and
asks every row of the report half of each point. The upstream is a small server that gives the large model's
recorded greedy answers with their usage, or with --upstream a real one. Answers are kept in --out: an
interrupted run goes on. live_report.py tells what came out. Needs Python 3.11 and nothing else.

    live.py --weir target/release/weir [--upstream http://127.0.0.1:8090/v1 --sample 150 --points direct,…]
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parent.parent / "tasks"
SMALL, LARGE = "local/qwen2.5-coder-0.5b-instruct", "large/qwen2.5-coder-1.5b-instruct"
FACTS, CLASSIFY = ["arith", "iso_date", "capital"], ["route", "intent", "banking"]
# A certificate holds for one limit on tokens, so that extract and reason are two rules each. All answers to
# capital end within 16 tokens: asked with 24, as the other facts, they are the same.
RULES = {"facts": (FACTS, 24), "classify": (CLASSIFY, 16), "span": (["span"], 24), "json": (["json"], 80), "gsm8k": (["gsm8k"], 320), "bbh": ([], 16)}
SELECTIVE, REGRET = [0.05, 0.1, 0.2, 0.3], [0.05, 0.1]
# An escalation has to promise this gap: the predictions' quantiles .2, .35, .5, .65, .8 on the calibrate half,
# each row's by a fit that did not see it.
GAINS = {"best-effort 20": 0.306, "best-effort 35": 0.246, "best-effort 50": 0.195, "best-effort 65": 0.127, "best-effort 80": 0.043}
LONG = 100
Row = dict[str, Any]


def is_for_reports(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1


def rule_of(row: Row) -> str:
    return next((name for name, (tasks, _) in RULES.items() if row["task"] in tasks), "bbh")


def cache_folder() -> Path:
    return Path(os.environ.get("WEIR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir")


def read_rows() -> list[Row]:
    with gzip.open(TASKS / "tasks.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        row["max_tokens"] = max(row["max_tokens"], 24) if row["task"] in FACTS else row["max_tokens"]
    return rows


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def recorded(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last greedy answer of each model to each row."""
    answers = [one for file in ("answers.jsonl", "own.jsonl") for one in read_lines(folder / file)]
    direct = [one for one in answers if one["form"] == "free" and one["policy"].startswith("direct")]
    return {(one["model"], one["id"]): one for one in direct}


# What is made beforehand, of the calibrate half.


def weir(options: argparse.Namespace, *arguments: str) -> None:
    done = subprocess.run([options.weir, *arguments], capture_output=True, text=True, check=False)
    print((done.stdout + done.stderr).strip().splitlines()[-1], file=sys.stderr)


def calibrate(options: argparse.Namespace, labels: str, rule: str, risk: str, alpha: float) -> None:
    tasks, limit = RULES[rule]
    tasks = tasks or sorted({row["task"] for row in read_rows() if row["task"].startswith("bbh")})
    files = [flag for file in ("tasks", "own") for flag in ("--tasks", str(TASKS / f"{file}.jsonl.gz"))]
    upstream = ["--upstream", LARGE] if risk == "regret" else []
    out = options.out / f"{risk}-{alpha}-{rule}.json"
    weir(options, "calibrate", "--records", str(options.out / labels), *files, "--model", SMALL, *upstream, "--risk", risk, "--slice", f"{rule}={','.join(tasks)}",
         "--score", "platt:sum_logprob", "--max-tokens", str(limit), "--alpha", str(alpha), "--delta", "0.1", "--out", str(out))  # fmt: skip


def prepare(options: argparse.Namespace) -> None:
    answers = recorded(options.records)
    half = [one for (_, name), one in answers.items() if not is_for_reports(name)]
    more = half + [one for (_, name), one in answers.items() if is_for_reports(name) and name.startswith("own")]
    for file, some in (("half.jsonl", half), ("more.jsonl", more)):
        (options.out / file).write_text("".join(json.dumps(one) + "\n" for one in some), encoding="utf-8")
    for risk, alphas in (("selective", SELECTIVE), ("regret", REGRET)):
        for alpha in alphas:
            for rule in RULES:
                calibrate(options, "half.jsonl", rule, risk, alpha)
    # The strictest promise found too few labels in the half: a second attempt, with all rows made for this project.
    calibrate(options, "more.jsonl", "facts", "selective", 0.05)
    gap = options.out / "gap.json"
    weir(options, "gap", "--records", str(options.out / "half.jsonl"), "--prompts", str(TASKS / "tasks.jsonl.gz"), "--local", SMALL, "--upstream", LARGE, "--out", str(gap))
    for point, gain in GAINS.items():
        predictor = json.loads(gap.read_text(encoding="utf-8"))
        predictor["answer"]["prompt"]["constant"] -= gain
        (options.out / f"{point.replace(' ', '-')}.json").write_text(json.dumps(predictor), encoding="utf-8")


def rule_text(rule: str | None, accept: str) -> str:
    when = f"when = 'request.headers[\"x-rule\"] == \"{rule}\"'\n" if rule else ""
    return f'[[rule]]\nname = "{rule or "all"}"\n{when}then = {{ cascade = ["{SMALL}", "{LARGE}"], accept = {{ {accept} }} }}\n'


def policies(options: argparse.Namespace) -> dict[str, str]:
    """The policy of each point."""
    texts = {}
    for risk, alphas in (("selective", SELECTIVE), ("regret", REGRET)):
        for alpha in alphas:
            files = {rule: options.out / f"{risk}-{alpha}-{rule}.json" for rule in RULES}
            accepts = {rule: f'max_error = {alpha}, risk = "{risk}"' + (f', calibration = "{file}"' if file.exists() else "") for rule, file in files.items()}
            texts[f"{risk} {alpha}"] = "\n".join(rule_text(None if rule == "bbh" else rule, accept) for rule, accept in accepts.items())
    for point in GAINS:
        texts[point] = rule_text(None, f'value = "{options.out / point.replace(" ", "-")}.json", usd_per_hour = 1000.0')
    return texts


def configure(options: argparse.Namespace) -> Path:
    upstream = options.upstream or f"http://127.0.0.1:{options.port + 1}/v1"
    text = f"""listen = "127.0.0.1:{options.port}"
admin = "127.0.0.1:{options.port + 2}"
state = "{options.out / "state"}-{options.port}"
policy_headers = ["x-rule"]

[[model]]
name = "{SMALL}"
file = "qwen2.5-coder-0.5b-instruct"
slots = 8
context = 2048

[[upstream]]
name = "large"
endpoints = ["{upstream}"]
models = ["{LARGE.removeprefix("large/")}"]
first_byte_timeout = "15m"

[[price]]
model = "{LARGE}"
input = 0.4
output = 1.6
"""
    for point, policy in policies(options).items():
        name = point.replace(" ", "-")
        (options.out / f"{name}.toml").write_text(f'name = "{name}"\n\n{policy}', encoding="utf-8")
        text += f'\n[[virtual]]\nname = "{name}"\npolicy = "{options.out / name}.toml"\n'
    config = options.out / f"weir-{options.port}.toml"
    config.write_text(text, encoding="utf-8")
    return config


# The upstream that gives recorded answers.


def serve_recorded(port: int, answers: dict[tuple[str, str], dict[str, Any]], rows: list[Row]) -> ThreadingHTTPServer:
    known = {json.dumps(row["messages"]): answers[LARGE, row["id"]] for row in rows}

    class Upstream(BaseHTTPRequestHandler):
        protocol_version, wbufsize = "HTTP/1.1", 1 << 16

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = known.get(json.dumps(body["messages"]))
            self.reply(200 if found else 404, completion(body["model"], found) if found else {"error": {"message": "not recorded"}})

        def do_GET(self) -> None:
            self.reply(200, {"object": "list", "data": [{"id": LARGE.removeprefix("large/"), "object": "model"}]})

        def reply(self, status: int, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def completion(model: str, answer: dict[str, Any]) -> dict[str, Any]:
    tokens = {"prompt_tokens": answer["prompt_tokens"], "completion_tokens": answer["completion_tokens"]}
    choice = {"index": 0, "message": {"role": "assistant", "content": answer["text"]}, "finish_reason": answer["finish"]}
    return {"id": "recorded", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": tokens | {"total_tokens": sum(tokens.values())}}


# The asking.


def ask(port: int, point: str, row: Row) -> dict[str, Any]:
    model = {"direct": LARGE, "local": SMALL}.get(point, point.replace(" ", "-"))
    body = {"model": model, "messages": row["messages"], "max_tokens": row["max_tokens"], "temperature": 0}
    headers = {"content-type": "application/json", "x-rule": rule_of(row)}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), headers)
    begun = time.monotonic()
    with urllib.request.urlopen(request, timeout=1800) as answer:
        said, told = json.load(answer), answer.headers
    return {
        "point": point,
        "id": row["id"],
        "ms": round(1000 * (time.monotonic() - begun), 1),
        "text": said["choices"][0]["message"]["content"],
        "served_by": told["x-weir-served-by"],
        "policy": told["x-weir-policy"],
        "certificate": told["x-weir-certificate"],
        "confidence": told["x-weir-confidence"],
        "usd": float(told["x-weir-cost-usd"]),
        "usage": said["usage"],
    }


def run(options: argparse.Namespace, rows: list[Row], points: list[str]) -> None:
    file = options.out / options.answers
    seen = {(one["point"], one["id"]) for one in read_lines(file)}
    lock, out = threading.Lock(), file.open("a", encoding="utf-8")

    def one(point: str, row: Row) -> None:
        if (point, row["id"]) not in seen:
            answer = ask(options.port, point, row)
            with lock:
                out.write(json.dumps(answer) + "\n")
                out.flush()

    def progress(place: int, whole: int) -> None:
        if place % 50 == 0:
            print(f"live: {place}/{whole}", file=sys.stderr, flush=True)

    if options.upstream:  # a point after the other, so that no cache knows the row
        for place, (point, row) in enumerate((point, row) for point in points for row in rows):
            one(point, row)
            progress(place, len(points) * len(rows))
        return
    with ThreadPoolExecutor(len(points)) as pool:  # a row after the other, long ones last and their points side by side
        for place, row in enumerate(sorted(rows, key=lambda row: row["max_tokens"] > LONG)):
            if row["max_tokens"] > LONG:
                list(pool.map(lambda point: one(point, row), points))
            else:
                for point in points:
                    one(point, row)
            progress(place, len(rows))


def wait_until_ready(gateway: subprocess.Popen[bytes], admin: int) -> None:
    while gateway.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit("live: the gateway has ended; its reason stands above")


def main() -> None:
    cache = cache_folder()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weir", required=True)
    parser.add_argument("--records", type=Path, default=cache / "eval", help="the folder of answers.jsonl and own.jsonl")
    parser.add_argument("--out", type=Path, default=cache / "eval" / "live")
    parser.add_argument("--answers", default="live.jsonl", help="the file in --out that keeps the answers")
    parser.add_argument("--upstream", help="a real one, instead of recorded answers")
    parser.add_argument("--points", help="of these only; direct and local are the models by themselves")
    parser.add_argument("--port", type=int, default=18800, help="of the gateway; the next two are taken as well")
    parser.add_argument("--sample", type=int, help="so many rows, drawn at random")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "gap.json").exists():
        prepare(options)
    rows = read_rows()
    server = None if options.upstream else serve_recorded(options.port + 1, recorded(options.records), rows)
    report = [row for row in rows if is_for_reports(row["id"])]
    rows = random.Random(7).sample(report, options.sample) if options.sample else report
    gateway = subprocess.Popen([options.weir, "serve", "--config", str(configure(options))])
    try:
        wait_until_ready(gateway, options.port + 2)
        run(options, rows, options.points.split(",") if options.points else list(policies(options)))
    finally:
        gateway.terminate()
        gateway.wait()
        if server:
            server.shutdown()


if __name__ == "__main__":
    main()
