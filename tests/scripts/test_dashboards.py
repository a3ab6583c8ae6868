"""The boards, rules and alerts of dashboards/ query families that Weir has, with labels that they have."""

import json
import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"
DOC = ROOT / "docs" / "dashboards.md"

# What every target of Prometheus has, and what its process is told by.
FOREIGN = {"up": set(), "scrape_duration_seconds": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
PROCESS = {f"process_{name}": set() for name in (
    "cpu_seconds_total", "open_fds", "max_fds", "virtual_memory_bytes", "resident_memory_bytes",
    "start_time_seconds", "threads")}
SUFFIXES = ("_bucket", "_sum", "_count")
TARGET = {"job", "instance"}


def families():
    """Name → labels, as src/observe says."""
    found = {}
    for file in (ROOT / "src" / "observe").rglob("*.rs"):
        for name, labels in re.findall(r'[A-Z_]+: "((?:weir|process)_[a-z0-9_]+)", \[([^\]]*)\],', file.read_text()):
            found[name] = set(re.findall(r'"([a-z_]+)"', labels))
    return found


def coming():
    """Families that boards query and no release has yet."""
    file = DASHBOARDS / "coming.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(parse_family(line) for line in lines if not line.startswith("#"))


def parse_family(line):
    name, _, labels = line.partition(" ")
    return name, set(labels.split())


def rules(*files):
    """(name, expression) of each rule; what it is written in is YAML, of which this reads what promtool accepts."""
    for file in files:
        text = (DASHBOARDS / file).read_text()
        pattern = r"- (?:record|alert): (\S+)\n\s+expr: (?:\|\n((?:\s{10,}.*\n)+)|(.*)\n)"
        for name, block, line in re.findall(pattern, text):
            yield name, block or line


def queries():
    """(where, expression) of every panel, annotation, variable, rule and alert."""
    for file in sorted(DASHBOARDS.glob("weir-*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{board['uid']}: {panel['title']}", target["expr"]
        for note in board["annotations"]["list"]:
            yield f"{board['uid']}: mark", note["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{board['uid']}: ${variable['name']}", variable["definition"]
    yield from rules("rules.yaml", "alerts.yaml")


def selected(expr):
    """(metric, labels matched) of every selector of an expression."""
    bare = re.sub(r"\b(?:by|without|ignoring|on|group_left|group_right)\s*\([^)]*\)", " ", expr)
    bare = re.sub(r"label_values\((.*), *[a-z_]+\)", r"\1", bare)
    for name, matchers in re.findall(r"\b([a-zA-Z_:][\w:]*[_:][\w:]*|up|ALERTS)\b(?!\s*\()(?:\{([^}]*)\})?", bare):
        if not re.fullmatch(r"__(?:rate_)?interval|__range|group_left", name):
            yield name, set(re.findall(r"([a-z_]+)\s*[=!]~?", re.sub(r'"[^"]*"', '""', matchers)))


class Dashboards(unittest.TestCase):
    def test_every_family_queried_exists_and_has_the_labels_that_are_matched(self):
        recorded = {name: {"outcome", "policy", "model"} for name, _ in rules("rules.yaml")}
        known = families() | PROCESS | FOREIGN | recorded | coming()
        seen = set()
        for where, expr in queries():
            for name, labels in selected(expr):
                family = next((name.removesuffix(end) for end in SUFFIXES if name.removesuffix(end) in known), name)
                with self.subTest(where=where, metric=name):
                    self.assertTrue(family in known, f"no family {family} in src/observe")
                    unknown = labels - known[family] - TARGET - {"le"}
                    self.assertFalse(unknown, f"{family} has no labels {unknown}")
                    seen.add(family)
        self.assertGreater(len(seen), 30)

    def test_every_family_that_weir_has_is_shown_somewhere(self):
        shown = {name for _, expr in queries() for name, _ in selected(expr)}
        for name in families():
            with self.subTest(family=name):
                self.assertTrue(shown & {name, *(name + end for end in SUFFIXES)})

    def test_what_is_said_to_come_is_not_there_yet(self):
        self.assertEqual(set(coming()) & set(families()), set(), "take these lines out of dashboards/coming.txt")

    def test_the_boards_are_as_their_source_says(self):
        subprocess.run([sys.executable, DASHBOARDS / "generate.py", "--check"], check=True)

    def test_a_board_can_be_provisioned(self):
        boards = [json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("weir-*.json"))]
        self.assertEqual(len({board["uid"] for board in boards}), 5)
        for board in boards:
            numbers = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(numbers), len(set(numbers)))
            for panel in board["panels"]:
                with self.subTest(board=board["uid"], panel=panel["title"]):
                    place = panel["gridPos"]
                    self.assertLessEqual(place["x"] + place["w"], 24)
                    if panel["type"] != "row":
                        self.assertTrue(panel["description"] and panel["fieldConfig"]["defaults"]["unit"])
                        self.assertEqual(panel["datasource"]["uid"], "${datasource}")

    def test_no_two_panels_of_a_board_overlap(self):
        for file in DASHBOARDS.glob("weir-*.json"):
            taken = {}
            for panel in json.loads(file.read_text())["panels"]:
                place = panel["gridPos"]
                for x in range(place["x"], place["x"] + place["w"]):
                    for y in range(place["y"], place["y"] + place["h"]):
                        self.assertNotIn((x, y), taken, f"{file.name}: {panel['title']} over {taken.get((x, y))}")
                        taken[x, y] = panel["title"]

    def test_every_alert_has_a_runbook_that_is_there(self):
        headings = {heading.lower() for heading in re.findall(r"^#+ (\w+)$", DOC.read_text(), re.MULTILINE)}
        text = (DASHBOARDS / "alerts.yaml").read_text()
        alerts = re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\n +- alert|\Z)", text, re.DOTALL)
        self.assertEqual(len(alerts), text.count("- alert:"))
        tested = (DASHBOARDS / "alerts.test.yaml").read_text()
        for name, rest in alerts:
            with self.subTest(alert=name):
                self.assertIn(f"runbook: docs/dashboards.md#{name.lower()}", rest)
                self.assertIn(name.lower(), headings)
                self.assertRegex(rest, r"summary: .*\n +description: ")
                self.assertIn(name, tested)


if __name__ == "__main__":
    unittest.main()
