#!/usr/bin/env python3
"""What a cascade is worth on graded tasks, through the running gateway: `make eval`.

Asks the local and the large model every row once over HTTP, greedily, and keeps the answers; sweeps the
thresholds of every confidence score over what was recorded; confirms the demo policy's threshold live;
asks choices, numbers and objects again under constraint. Writes a table and a picture to results/.

    eval.py --weir target/release/weir [--rows N] [--half report|calibrate] [--gateway URL]

Without --gateway it starts the gateway over config/demo.toml and the demo upstream over
config/demo-upstream.toml, on free ports, and ends them. Interrupted, it goes on where it was. Needs
Python 3.11 or newer and nothing else; the picture is drawn by matplotlib in a virtual environment of its
own and is left out, with a line, where that cannot be had.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import ask  # noqa: E402
import forms  # noqa: E402
import report  # noqa: E402
from graders import TASKS, read_rows  # noqa: E402
from process import Failed, Server, free_address, machine  # noqa: E402
from sweep import Answer, Pair  # noqa: E402

LOCAL = "local/qwen2.5-coder-0.5b-instruct"
LARGE = "large/qwen2.5-coder-1.5b-instruct"
Row = dict[str, Any]


def in_half(row: Row, half: str) -> bool:
    """The calibrate half: first byte of sha256(id) even; the report half: odd."""
    odd = hashlib.sha256(row["id"].encode()).digest()[0] % 2 == 1
    return odd == (half == "report")


def checksum(model: str) -> str:
    """The sha256 of a model's file, as the catalogue pins it."""
    catalogue = tomllib.loads((ROOT / "models" / "catalogue.toml").read_text(encoding="utf-8"))
    return next(one["sha256"] for one in catalogue["model"] if one["name"] == model.partition("/")[2])


def demo_config(upstream: str) -> str:
    """config/demo.toml with its upstream at this address and its files named absolutely."""
    text = (ROOT / "config" / "demo.toml").read_text(encoding="utf-8")
    for old, new in (
        ("127.0.0.1:8090", upstream),
        ('"prices.toml"', f'"{ROOT / "config" / "prices.toml"}"'),
        ('"../policies/', f'"{ROOT / "policies"}/'),
    ):
        if old not in text:
            raise Failed(f"config/demo.toml does not name {old}")
        text = text.replace(old, new)
    return text


def start(weir: Path, folder: Path, stack: ExitStack) -> str:
    """Starts the demo upstream and the gateway; returns the gateway's URL."""
    upstream, upstream_admin, gateway, admin = (free_address() for _ in range(4))
    serve = [str(weir), "serve"]
    command = serve + ["--config", str(ROOT / "config" / "demo-upstream.toml"), "--listen", upstream, "--admin", upstream_admin]
    stack.enter_context(Server("the demo upstream", command, f"http://{upstream_admin}/readyz", folder / "upstream.log"))
    config = folder / "gateway.toml"
    config.write_text(demo_config(upstream), encoding="utf-8")
    command = serve + ["--config", str(config), "--listen", gateway, "--admin", admin]
    stack.enter_context(Server("the gateway", command, f"http://{admin}/readyz", folder / "gateway.log"))
    return f"http://{gateway}"


def ask_both(url: str, rows: list[Row], records: ask.Records) -> None:
    """Asks both models every row, side by side, one request each at a time."""
    progress = ask.Progress("answers", 2 * len(rows))
    free = [(row, None) for row in rows]
    ask.in_parallel((url, model, checksum(model), free, records, progress) for model in (LOCAL, LARGE))


def ask_constrained(url: str, rows: list[Row], known: set[str], records: ask.Records) -> list[Row]:
    """Asks the local model under constraint where a row has a form; returns those rows."""
    asks = [(row, schema) for row in rows if (schema := forms.schema(row, known)) is not None]
    progress = ask.Progress("constrained", len(asks))
    ask.in_parallel([(url, LOCAL, checksum(LOCAL), asks, records, progress)])
    return [row for row, _ in asks]


def ask_live(url: str, rows: list[Row], records: ask.Records) -> None:
    """Asks the cascade itself; the records' file is the policy's checksum, so a new policy is asked anew."""
    progress = ask.Progress("live", len(rows))
    ask.in_parallel([(url, ask.AUTO, policy_sum(), [(row, None) for row in rows], records, progress)])


def demo_policy() -> Path:
    return ROOT / "policies" / "demo.toml"


def policy_sum() -> str:
    return hashlib.sha256(demo_policy().read_bytes()).hexdigest()


def operating_point() -> report.Operating:
    """The demo policy's cascade: its rule, its score and its threshold."""
    policy = tomllib.loads(demo_policy().read_text(encoding="utf-8"))
    for rule in policy["rule"]:
        accept = rule["then"].get("accept", {})
        if "score" in accept:
            return report.Operating(f"{policy['name']}: {rule['name']}", accept["score"], float(accept["at_least"]))
    raise Failed(f"{demo_policy().name} has no cascade with a threshold on a score")


def pair_up(rows: list[Row], records: ask.Records) -> list[Pair]:
    """Both models' recorded answers, row by row."""

    def answer(record: ask.Record) -> Answer:
        return Answer(record["right"], record["ms"], record["usd"])

    pairs = []
    for row in rows:
        local = records.known[(LOCAL, row["id"], "free", checksum(LOCAL))]
        large = records.known[(LARGE, row["id"], "free", checksum(LARGE))]
        pairs.append(Pair(row["id"], row["task"], row["grader"], answer(local), answer(large), local["scores"]))
    return pairs


def draw(data: Path) -> None:
    """Draws the picture in an environment that has matplotlib."""
    try:
        python = subprocess.run([ROOT / "scripts" / "venv.sh", HERE / "picture.txt"], check=True, capture_output=True, text=True, cwd=ROOT)
        subprocess.run([python.stdout.strip(), HERE / "picture.py", data], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"eval: no picture: {error}; the numbers are in {data.name}", file=sys.stderr)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weir", type=Path, default=ROOT / "target" / "release" / "weir", help="the binary to start")
    parser.add_argument("--gateway", help="a running gateway's URL instead, such as http://127.0.0.1:8080")
    parser.add_argument("--rows", type=int, help="only the first N rows of the half")
    parser.add_argument("--half", choices=("report", "calibrate"), default="report")
    parser.add_argument("--live", type=int, default=60, help="rows of the live check")
    parser.add_argument("--records", type=Path, default=ask.default_records(), help="where answers are kept")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    everything = list(read_rows(TASKS))
    rows = [row for row in everything if in_half(row, options.half)][: options.rows]
    records = ask.Records(options.records)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.gateway or start(options.weir.resolve(), folder, stack)
        ask_both(url, rows, records)
        live = rows[: options.live]
        ask_live(url, live, records)
        formed = ask_constrained(url, rows, forms.labels(everything), records)
    found = report.Found(
        half=options.half,
        pairs=pair_up(rows, records),
        operating=operating_point(),
        live=[records.known[(ask.AUTO, row["id"], "free", policy_sum())] for row in live],
        constrained=[records.known[(LOCAL, row["id"], "constrained", checksum(LOCAL))] for row in formed],
        machine=machine(),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.half if options.rows is None else f"{options.half}-{len(rows)}"
    table, data = options.out / f"{name}.md", options.out / f"{name}.json"
    table.write_text(report.render(found, name), encoding="utf-8")
    data.write_text(json.dumps(report.numbers(found), indent=1) + "\n", encoding="utf-8")
    draw(data)
    print(table.read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        run(arguments())
    except (Failed, ask.Refused) as error:
        sys.exit(f"eval: {error}")
    except KeyboardInterrupt:
        sys.exit("eval: interrupted; what was answered is kept")
