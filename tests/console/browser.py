"""A headless Chromium and one page of it, driven over the DevTools protocol on two pipes.

Promises: nothing but this machine can be reached; everything the page logged, threw or asked for is
kept. Standard library only. Used by test_console.py.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PATIENCE = 30


def find():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="weir-console-")
        to_child, self.write = os.pipe()
        self.read, from_child = os.pipe()
        flags = [
            find(), "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", f"--user-data-dir={self.folder}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--lang=en",
        ]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        # The protocol wants the pipes as descriptors 3 and 4.
        shell = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, *flags], pass_fds=(to_child, from_child),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_child)
        os.close(from_child)
        self.pending, self.number, self.events, self.session = b"", 0, [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(f"{domain}.enable")

    def close(self):
        os.close(self.write)
        os.close(self.read)
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive(PATIENCE)
            if answer is None:
                raise TimeoutError(f"{method}: no answer")
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self, seconds):
        """The next message, events are kept too; None when none comes in time."""
        until = time.monotonic() + seconds
        while b"\0" not in self.pending:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.read], [], [], left)[0]:
                return None
            piece = os.read(self.read, 1 << 20)
            if not piece:
                raise RuntimeError("the browser has ended")
            self.pending += piece
        text, self.pending = self.pending.split(b"\0", 1)
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def run(self, script):
        """The value of an expression in the page; promises are waited for."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{script}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def until(self, script, what):
        for _ in range(PATIENCE * 10):
            found = self.run(f"!!({script})")
            if found:
                return found
            self.listen(0.1)
        raise AssertionError(f"waited in vain: {what}\n{self.run('document.body.innerText')}")

    def listen(self, seconds):
        """Lets the page live and takes in what it tells."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.receive(left)

    def open(self, url, width, height=900, dark=False, still=True):
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.protocol === 'http:'", url)

    def picture(self, path, whole=True, clip=None):
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = clip or {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        told = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, clip=clip)
        with open(path, "wb") as file:
            file.write(base64.b64decode(told["data"]))

    def told(self, *methods):
        return [event["params"] for event in self.events if event["method"] in methods]

    def requested(self):
        return [params["request"]["url"] for params in self.told("Network.requestWillBeSent")]

    def complaints(self):
        """What the page threw or logged as an error, refusals by its own security policy included."""
        thrown = [str(params["exceptionDetails"]) for params in self.told("Runtime.exceptionThrown")]
        logged = [str(params) for params in self.told("Runtime.consoleAPICalled") if params["type"] in ("error", "warning")]
        entries = [params["entry"]["text"] for params in self.told("Log.entryAdded") if params["entry"]["level"] == "error"]
        return thrown + logged + entries
