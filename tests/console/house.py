"""A Weir to look at: its configuration, the server in the part of its upstreams, and a small load.

Local models only pretend (stand_in.rs), upstreams answer from this process. Used by test_console.py.
"""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """
state = "state"
policy_headers = ["x-team"]
{token}
[[model]]
name = "local/small-0.5b"
file = "small.gguf"

[[model]]
name = "local/small-1.5b"
file = "small.gguf"

[[upstream]]
name = "cloud"
endpoints = ["{upstream}"]
models = ["large", "medium"]
retries = 0

[[upstream]]
name = "backup"
endpoints = ["{upstream}/broken"]
models = ["large"]
retries = 0

[[price]]
model = "cloud/large"
input = 2.5
output = 10.0

[[price]]
model = "cloud/medium"
input = 0.4
output = 1.6

[[price]]
model = "backup/large"
input = 2.5
output = 10.0

[[virtual]]
name = "auto"
policy = "house.toml"

[[virtual]]
name = "code"
policy = "code.toml"
"""

HOUSE = """# The small model first; a large one for what is hard or needs tools.
name = "house"

[[rule]]
name = "embeddings are asked for by name"
when = 'request.kind == "embed"'
then = { reject = { status = 400, message = "name an embedding model" } }

[[rule]]
name = "secrets stay here"
when = 'request.secrets > 0'
then = { serve = "local/small-0.5b" }

[[rule]]
name = "no bets"
when = 'request.text.contains("lottery")'
then = { reject = { status = 403, message = "no advice on bets" } }

[[rule]]
name = "tools and long inputs go up"
when = 'request.tools > 0 || request.prompt_tokens > 4000'
then = { serve = ["cloud/large", "backup/large"] }

[[rule]]
name = "small first"
then = { cascade = ["local/small-0.5b", "cloud/large"], accept = { score = "min_logprob", at_least = -0.85 }, hold_back = 16, on_failure = "local" }
"""

CODE = """name = "code"

[[rule]]
name = "two stages"
then = { cascade = [{ model = "local/small-1.5b", accept = { score = "sum_logprob", at_least = -1.4 } }, "cloud/medium"] }
"""

QUESTIONS = ["What is the capital of {}?", "Put these words in order: {}", "Translate to French: {}", "What is {} plus 17?"]


class Upstream(BaseHTTPRequestHandler):
    """Answers in about the time of a hosted model; below /broken it fails."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        broken = self.path.startswith("/broken")
        time.sleep(0.02 if broken else random.uniform(0.12, 0.4))
        message = {"role": "assistant", "content": "An answer of a large model."}
        usage = {"prompt_tokens": 320, "completion_tokens": 180, "total_tokens": 500}
        answer = {"id": "x", "object": "chat.completion", "model": "large", "usage": usage,
                  "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        failure = {"error": {"message": "the server had an error", "type": "server_error", "param": None, "code": None}}
        body = json.dumps(failure if broken else answer).encode()
        self.send_response(500 if broken else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def free_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % taken.getsockname()[1]


class House:
    def __init__(self, binary, token=None):
        self.folder = tempfile.TemporaryDirectory(prefix="weir-console-")
        self.upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=self.upstream.serve_forever, daemon=True).start()
        place = "http://127.0.0.1:%d" % self.upstream.server_address[1]
        key = 'admin_token = { env = "CONSOLE_TOKEN" }' if token else ""
        self.write("weir.toml", CONFIG.format(upstream=place + "/v1", token=key).replace("/v1/broken", "/broken/v1"))
        self.write("house.toml", HOUSE)
        self.write("code.toml", CODE)
        self.write("small.gguf", "not a model")
        self.data, self.admin, self.token = free_address(), free_address(), token
        command = [binary, "--config", str(self.path("weir.toml")), "--listen", self.data, "--admin", self.admin]
        command += ["--stand-in", "local/small-0.5b", "--stand-in", "local/small-1.5b"]
        self.log = open(self.path("log"), "wb")
        environment = {**os.environ, "CONSOLE_TOKEN": token or ""}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment)
        self.base = f"http://{self.admin}"
        for _ in range(300):
            if self.process.poll() is not None:
                raise RuntimeError(self.path("log").read_text())
            try:
                if urllib.request.urlopen(self.base + "/readyz").status == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("not ready")

    def path(self, name):
        return Path(self.folder.name) / name

    def write(self, name, text):
        self.path(name).write_text(text)

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.stop()
        self.log.close()
        self.upstream.shutdown()
        self.upstream.server_close()
        self.folder.cleanup()

    def get(self, path):
        headers = {"authorization": "Bearer " + self.token} if self.token else {}
        with urllib.request.urlopen(urllib.request.Request(self.base + path, headers=headers)) as answer:
            return json.load(answer)

    def ask(self, model, text, **more):
        """Asks the data port; the status."""
        connection = http.client.HTTPConnection(self.data, timeout=30)
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 40, **more}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    def load(self, seconds, per_second):
        """Clients that ask what clients ask, in this many seconds; returns when all are answered."""
        random.seed(7)
        tool = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
        asks = []
        for number in range(int(seconds * per_second)):
            text = random.choice(QUESTIONS).format(number)
            dice = random.random()
            if dice < 0.10:
                asks.append(lambda text=text: self.ask("auto", text, tools=tool))
            elif dice < 0.13:
                asks.append(lambda text=text: self.ask("backup/large", text))
            elif dice < 0.15:
                asks.append(lambda: self.ask("auto", "which lottery numbers?"))
            elif dice < 0.30:
                asks.append(lambda text=text: self.ask("code", text))
            else:
                asks.append(lambda text=text: self.ask("auto", text))
        threads = []
        for ask in asks:
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            time.sleep(random.expovariate(per_second))
        for thread in threads:
            thread.join()
