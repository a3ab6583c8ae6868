"""Starts servers for the comparisons and ends them, by pid, whatever happens.

Used by `load/overhead.py` and `load/local.py`. A server's output goes to a file; when it ends early or
does not get ready, the tail of that file is the error.
"""

import http.client
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

END_SECONDS = 40.0


class Failed(Exception):
    """A server did not start; the text tells why."""


def free_address() -> str:
    """An address of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def models_folder() -> Path:
    """Where `make models` puts them."""
    cache = os.environ.get("WEIR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"
    return Path(os.environ.get("WEIR_MODELS") or Path(cache) / "models")


class Server:
    """A process that serves, used with `with`: ready when entered, gone when left."""

    def __init__(self, name: str, command: list[str], ready: str, log: Path, wait_seconds: float = 120.0) -> None:
        self.name, self.command, self.ready, self.log, self.wait_seconds = name, command, ready, log, wait_seconds

    def __enter__(self) -> "Server":
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._await()
        except BaseException:
            self.end()
            raise
        return self

    def _await(self) -> None:
        give_up = time.monotonic() + self.wait_seconds
        while not answers(self.ready):
            if self.child.poll() is not None:
                raise Failed(f"{self.name} ended with {self.child.returncode}: {self._tail()}")
            if time.monotonic() > give_up:
                raise Failed(f"{self.name} is not ready after {self.wait_seconds:.0f} s: {self._tail()}")
            time.sleep(0.1)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip()

    def end(self) -> None:
        """TERM, and KILL if that does not help."""
        if self.child.poll() is not None:
            return
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def cpu_seconds(self) -> float:
        """CPU time of the process and its children so far."""
        total = 0.0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, fields = stat.parent.name, stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if self.child.pid in (int(pid), int(fields[1])):
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, str | int]:
    """What a measurement has to say about the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": os.cpu_count() or 1, "kernel": os.uname().release}
