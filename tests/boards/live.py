#!/usr/bin/env python3
"""A real Prometheus scrapes a real Weir under load, and every query of every board and rule returns data.

    live.py --weir FILE --prometheus FOLDER [--seconds N] [--list]

Starts on free ports of loopback what stage.py says, puts some of every kind of request to it for N seconds, and asks
Prometheus what the boards would ask. A query that falls back to 0 must have something without its fallback too. Only what
waits for a family of dashboards/coming.txt may be empty, and a family that is there must not stand in that file.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import stage

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = ROOT / "dashboards"
FALLBACK = "or on() vector(0)"
# What Grafana would put in.
VARIABLES = {
    "$__rate_interval": "15s", "$__interval": "5s", "$__range": "1m", "$job": "weir", "$instance": ".*", "$policy": ".*",
    "$model": ".*", "$score": "min_logprob",
}


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, url):
        self.url = url

    def get(self, page, **arguments):
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{page}?{urllib.parse.urlencode(arguments)}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise SystemExit(f"live: {arguments}: {refusal.read().decode()}") from refusal

    def has_data(self, expr, over):
        """Whether there is a number, now or at any time of the last `over` seconds."""
        if over:
            now = time.time()
            answer = self.get("query_range", query=expr, start=now - over, end=now, step=1)
            numbers = [value for series in answer["result"] for _, value in series["values"]]
        else:
            answer = self.get("query", query=expr)
            numbers = [series["value"][1] for series in answer["result"]]
        return any(number != "NaN" for number in numbers)

    def names(self):
        return set(self.get("label/__name__/values"))


def put_in(expr):
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def as_figure(expr):
    """An alert's condition as 0 or 1, so that it returns data while all is well; and yesterday is a minute ago."""
    pieces = re.split(r'("[^"]*"|\{[^}]*\})', expr)
    pieces[::2] = [re.sub(r" (==|!=|>=|<=|>|<) (?!bool)", r" \1 bool ", piece) for piece in pieces[::2]]
    return "".join(pieces).replace(" offset 1h", "")


def board_queries(seconds):
    """(where, expression, over how many seconds) of everything a board asks."""
    for file in sorted(DASHBOARDS.glob("weir-*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                over = 0 if target["instant"] else seconds
                yield f"{board['uid']}: {panel['title']} {target['refId']}", put_in(target["expr"]), over
        for note in board["annotations"]["list"]:
            yield f"{board['uid']}: mark {note['name']}", as_figure(put_in(note["expr"])), 0
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
                yield f"{board['uid']}: ${variable['name']}", f"count by ({label}) ({put_in(series)})", 0


def rule_queries(prometheus):
    """The same of every rule, as Prometheus has read it."""
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] == "err":
                raise SystemExit(f"live: rule {rule['name']}: {rule['lastError']}")
            if rule["type"] == "alerting":
                yield f"alert {rule['name']}", as_figure(rule["query"]), 0
            else:
                yield f"rule {rule['name']}", rule["name"], 20


def coming():
    file = DASHBOARDS / "coming.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return {line.split()[0] for line in lines if not line.startswith("#")}


def judge(prometheus, queries, awaited, told):
    """Asks everything, and returns what returned nothing and should have."""
    faults, waiting, count = [], 0, 0
    for where, expr, over in queries:
        count += 1
        found = prometheus.has_data(expr.replace(FALLBACK, ""), over)
        if found and not prometheus.has_data(expr, over):
            faults.append(f"{where}: nothing with its fallback: {expr}")
        missing = sorted(name for name in awaited if re.search(rf"\b{name}(_bucket|_sum|_count)?\b", expr))
        verdict = "data" if found else f"waits for {', '.join(missing)}" if missing else "NOTHING"
        waiting += verdict.startswith("waits")
        if not found and not missing:
            faults.append(f"{where}: {expr}")
        if told or verdict != "data":
            print(f"{verdict:>10}  {where}")
    print(f"live: {count} queries: {count - waiting - len(faults)} with data, {waiting} wait for families to come, {len(faults)} empty")
    return faults


def check_rules(tools):
    for command in (["check", "rules", "rules.yaml", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        subprocess.run([tools / "promtool", *command], cwd=DASHBOARDS, check=True, stdout=subprocess.DEVNULL)


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--weir", type=Path, required=True, help="the binary, with local models built in")
    flags.add_argument("--prometheus", type=Path, required=True, help="the folder of prometheus and promtool")
    flags.add_argument("--seconds", type=int, default=30, help="how long the load lasts")
    flags.add_argument("--list", action="store_true", help="tell every query, not only those without data")
    flags = flags.parse_args()
    check_rules(flags.prometheus)
    with tempfile.TemporaryDirectory() as folder, stage.Stage(Path(folder), flags.weir, flags.prometheus) as running:
        running.load(flags.seconds)
        prometheus = Prometheus(running.prometheus_url)
        prometheus_names = prometheus.names()
        awaited = coming()
        there = {name for name in awaited if prometheus_names & {name, f"{name}_bucket"}}
        queries = [*board_queries(flags.seconds), *rule_queries(prometheus)]
        faults = judge(prometheus, queries, awaited - there, flags.list)
        faults += [f"{name} is there: take its line out of dashboards/coming.txt" for name in sorted(there)]
        if faults:
            print(running.log()[-4000:], file=sys.stderr)
            sys.exit("live: failed\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
