"""The processes of live.py: an upstream of our own, Weir before it, Prometheus over both; and the load.

Everything listens on loopback, on ports that were free, and ends with the `with` block, by its pid. The upstream always
says the same; below /bad it fails. Weir runs the smallest model of the tests under five policies: one whose promise
holds by feedback, one whose promise is broken, one that always escalates, one that escalates to a failing
upstream, one that goes by value.
"""

import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "calibration.json"
MODEL = "smollm2-135m-instruct"
ANSWER = "Paris is the capital of France, and has been for long."
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}

CONFIG = """
state = "state"

[[model]]
name = "local/small"
file = "{model}"
context = 256
slots = 2
queue = 4

[[upstream]]
name = "large"
endpoints = ["{upstream}/v1"]
models = ["good", "unpriced"]

[[upstream]]
name = "flaky"
endpoints = ["{upstream}/bad/v1"]
models = ["m"]
retries = 1

[[price]]
model = "large/good"
input = 2
output = 8
[[price]]
model = "flaky/m"
input = 2
output = 8
[[price]]
model = "local/small"
input = 0.01
output = 0.02

[capture]
file = "capture.jsonl"
"""
# What this Weir may not know yet: it goes by the commented reference of every key.
REFERENCE = (ROOT / "config" / "weir.toml").read_text()
TELEMETRY = '\n[telemetry]\notlp = "{upstream}"\nprotocol = "http"\nsample = 1.0\n'
CANARY = '\n[[model]]\nname = "local/tried"\nfile = "{model}"\ncontext = 256\ncanary = {{ file = "{candidate}", share = 0.5, shadow = 1.0 }}\n'
POLICIES = {
    "kept": 'cascade = ["local/small", "large/good"], accept = { max_error = 0.1, calibration = "facts.json", '
            'audit = { share = 1, by = "feedback" } }',
    "broken": 'cascade = ["local/small", "large/good"], accept = { max_error = 0.1, calibration = "dates.json", '
              'audit = { share = 1, compare = "exact", allowance = 0.05 } }',
    "strict": 'cascade = ["local/small", "large/good"], accept = { score = "min_logprob", at_least = -0.0000001 }',
    "failing": 'cascade = ["local/small", "flaky/m"], accept = { score = "min_logprob", at_least = -0.0000001 }',
    "value": 'cascade = ["local/small", "large/good"], accept = { value = "gap.json", usd_per_hour = 0.01 }',
}


class Upstream(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that leaves is part of the load."""


class Reply(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            return self.send(200, "application/x-protobuf", b"")
        asked = json.loads(body)
        if self.path.startswith("/bad/"):
            self.send(500, "application/json", b'{"error":{"message":"broken","type":"server_error","param":null,"code":null}}')
        elif asked.get("stream"):
            self.stream(asked)
        else:
            body = {"id": "c", "object": "chat.completion", "created": 1, "model": asked["model"], "usage": USAGE,
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}
            self.send(200, "application/json", json.dumps(body).encode())

    def stream(self, asked):
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
        words = [{"choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]} for word in ANSWER.split()]
        end = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in words + end:
            self.wfile.write(f"data: {json.dumps(chunk | event)}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.003)
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def send(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def model_file():
    cache = os.environ.get("WEIR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"
    folder = Path(os.environ.get("WEIR_MODELS") or Path(cache) / "models")
    found = sorted(folder.glob(f"{MODEL}*.gguf"))
    if not found:
        raise SystemExit(f"stage: no {MODEL} in {folder}; run python3 models/fetch.py {MODEL}")
    return found[0]


class Stage:
    """All processes, up when the `with` block begins."""

    def __init__(self, folder, weir, tools):
        self.folder, self.weir, self.tools = folder, weir.resolve(), tools
        self.children, self.upstream = [], Upstream(("127.0.0.1", 0), Reply)
        self.port, self.admin, self.prometheus = free_port(), free_port(), free_port()
        self.prometheus_url = f"http://127.0.0.1:{self.prometheus}"

    def __enter__(self):
        threading.Thread(target=self.upstream.serve_forever, daemon=True).start()
        try:
            self.write_files()
            serve = ["serve", "--config", "weir.toml", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}"]
            self.gateway = self.start("weir", [self.weir, *serve])
            self.await_page(f"http://127.0.0.1:{self.admin}/readyz")
            self.start("prometheus", [
                self.tools / "prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{self.prometheus}", "--log.level=warn"])
            self.await_page(f"{self.prometheus_url}/-/ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            try:
                child.wait(timeout=40)
            except subprocess.TimeoutExpired:
                child.kill()
        self.upstream.shutdown()

    def start(self, name, command):
        with open(self.folder / f"{name}.log", "w") as log:
            child = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def await_page(self, url):
        for _ in range(600):
            if ended := next((child for child in self.children if child.poll() is not None), None):
                raise SystemExit(f"stage: {ended.args[0]} ended: {self.log()}")
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"stage: waited in vain for {url}: {self.log()}")

    def log(self):
        return "".join((self.folder / f"{name}.log").read_text() for name in ("weir", "prometheus")
                       if (self.folder / f"{name}.log").exists())

    def write_files(self):
        model = model_file()
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        candidate = self.folder / "candidate.gguf"  # a file of its own, or it would be no candidate
        candidate.symlink_to(model)
        places = {"model": model, "candidate": candidate, "upstream": f"http://127.0.0.1:{self.upstream.server_address[1]}"}
        self.has_canary = re.search(r"^#? *canary *=", REFERENCE, re.MULTILINE) is not None
        optional = [TELEMETRY] * ("[telemetry]" in REFERENCE) + [CANARY] * self.has_canary
        config = "".join(part.format(**places) for part in [CONFIG, *optional])
        for name, then in POLICIES.items():
            config += f'\n[[virtual]]\nname = "{name}"\npolicy = "{name}.toml"\n'
            (self.folder / f"{name}.toml").write_text(f'name = "{name}"\n[[rule]]\nname = "all"\nthen = {{ {then} }}\n')
        self.config = config
        (self.folder / "weir.toml").write_text(config)
        for name in ("facts", "dates"):
            calibration = json.loads(FIXTURE.read_text()) | {"name": name, "slice": name, "model_sha256": digest}
            calibration["labels"] = hashlib.sha256(name.encode()).hexdigest()
            calibration["score"]["bias"] = 30.0  # whatever the model says is kept
            calibration["key"]["max_tokens"] = 16
            (self.folder / f"{name}.json").write_text(json.dumps(calibration))
        self.write_predictor(digest)
        scrape = {"job_name": "weir", "static_configs": [{"targets": [f"127.0.0.1:{self.admin}"]}]}
        rules = []
        for name in ("rules.yaml", "alerts.yaml"):
            text = (ROOT / "dashboards" / name).read_text().replace("interval: 30s", "interval: 1s")
            (self.folder / name).write_text(text)
            rules.append(name)
        # JSON is YAML.
        settings = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": rules, "scrape_configs": [scrape]}
        (self.folder / "prometheus.yaml").write_text(json.dumps(settings))

    def write_predictor(self, digest):
        """As an operator would, of graded answers: here the local model is wrong and the upstream right."""
        answers, prompts = [], []
        for number in range(60):
            logprobs = [-0.1 * (number % 5 + 1)] * 4
            local = {"model": "local/small", "id": str(number), "file": digest, "right": number % 4 == 0, "text": "x",
                     "logprobs": logprobs, "margins": [1.0] * 4}
            answers += [local, {"model": "large/good", "id": str(number), "right": True, "text": "y"}]
            prompts.append({"id": str(number), "prompt": f"What is {number} + {number}?"})
        for name, rows in (("answers.jsonl", answers), ("prompts.jsonl", prompts)):
            (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = ["gap", "--records", "answers.jsonl", "--prompts", "prompts.jsonl", "--local", "local/small", "--upstream",
                "large/good", "--out", "gap.json"]
        subprocess.run([self.weir, *made], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def ask(self, model, text="Say hello.", leave=False, **more):
        """One request; an answer's headers, whatever its status. `leave`: goes after the first bytes."""
        body = {"model": model, "max_tokens": 12, "messages": [{"role": "user", "content": text}]} | more
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read(8 if leave else None)
        connection.close()
        return answer.headers

    def say_correct(self, headers):
        body = json.dumps({"request_id": headers["x-request-id"], "correct": True}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/feedback", body, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()

    def reload(self, text):
        (self.folder / "weir.toml").write_text(text)
        self.gateway.send_signal(signal.SIGHUP)
        time.sleep(0.4)

    def reload_by_admin(self):
        """As an operator does; a Weir without this page says 404 or 405."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}/admin/reload", b"", method="POST")
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError as refusal:
            refusal.close()

    def wave(self):
        """Some of every kind of request."""
        for _ in range(2):
            headers = self.ask("kept", "Say yes.")
            if headers.get("x-weir-audit") == "wanted":
                self.say_correct(headers)
        for model in ("broken", "broken", "strict", "value", "failing", "flaky/m", "large/good", "large/unpriced", "nobody"):
            self.ask(model)
        self.ask("kept", max_tokens=100, temperature=0.7)
        for model in ("large/good", "local/small", "strict"):
            self.ask(model, stream=True)
        self.ask("large/good", stream=True, leave=True)
        for _ in range(4 if self.has_canary else 0):
            self.ask("local/tried")
        with ThreadPoolExecutor(16) as crowd:
            list(crowd.map(lambda _: self.ask("local/small", "Tell me a story.", max_tokens=40), range(12)))

    def load(self, seconds):
        """Waves until the time is over, each with a reload that is refused and one that is not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.reload(self.config + "\nnonsense = 1\n")
            self.reload(self.config)
            self.reload_by_admin()
            self.wave()
        time.sleep(3)  # the last scrape and the rules after it
