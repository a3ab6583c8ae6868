#!/usr/bin/env python3
"""Tells what live.py found, as markdown: the certified and the best-effort curve, never mixed.

Right is what the graders of `weir eval` say, written here once more (--check compares the two on every recorded
answer). Needs Python 3.11 and nothing else.

    live_report.py [--out FOLDER] [--check]
"""

import argparse
import json
import random
import re
import statistics
import sys
from collections import defaultdict
from math import sqrt
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import live

RESAMPLES = 2000
SLICES = {"facts": ["facts"], "classify": ["classify"], "extract": ["span", "json"], "reason": ["gsm8k", "bbh"]}
Answer = dict[str, Any]


def fold(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s:-]", "", text.lower()).split())


def line(text: str) -> str:
    return fold(text.strip().splitlines()[0]) if text.strip() else ""


def last_number(text: str) -> float | None:
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


def letter(text: str) -> str | None:
    found = re.search(r"(?<![A-Za-z0-9])[A-Z](?![A-Za-z0-9])", text)
    return found and found[0]


def is_object(text: str, answer: dict[str, Any]) -> bool:
    def plain(value: Any) -> str:
        return " ".join(map(plain, value)) if isinstance(value, list) else value if isinstance(value, str) else json.dumps(value)

    def folded(value: dict[str, Any]) -> dict[str, str]:
        return {key: fold(plain(one)) for key, one in value.items()}

    try:
        return folded(json.loads(text[text.index("{") : text.rindex("}") + 1])) == folded(answer)
    except (ValueError, AttributeError):
        return False


def is_right(row: live.Row, text: str) -> bool:
    grader, answer = row["grader"], row["answer"]
    if grader == "json":
        return is_object(text, answer)
    if grader == "contains":
        return answer.lower() in text.lower()
    read = {"exact": str.strip, "letter": letter, "number": last_number, "last_number": last_number}.get(grader, line)
    found = read(text)
    return found not in (None, "") and found == read(answer)


def wilson(hits: int, count: int) -> tuple[float, float]:
    z, share = 1.96, hits / count
    middle, spread = share + z * z / (2 * count), z * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - spread) / (1 + z * z / count)), (middle + spread) / (1 + z * z / count)


def share(hits: int, count: int) -> str:
    if not count:
        return "–"
    low, high = wilson(hits, count)
    return f"{hits / count:.3f} ({low:.2f}–{high:.2f})"


class Run:
    """Every answer of a run beside what both models alone were recorded to say."""

    def __init__(self, out: Path, file: str, records: Path) -> None:
        self.rows = {row["id"]: row for row in live.read_rows()}
        known = live.recorded(records)
        self.alone = {model: {name: one for (of, name), one in known.items() if of == model} for model in (live.SMALL, live.LARGE)}
        self.answers: dict[str, dict[str, Answer]] = defaultdict(dict)
        for one in live.read_lines(out / file):
            one["right"] = is_right(self.rows[one["id"]], one["text"])
            self.answers[one["point"]][one["id"]] = one

    def of(self, point: str, rules: list[str]) -> list[Answer]:
        return [one for name, one in self.answers[point].items() if live.rule_of(self.rows[name]) in rules]

    def right_alone(self, model: str, name: str) -> bool:
        return bool(self.alone[model][name]["right"])


def is_kept(one: Answer) -> bool:
    return bool(one["served_by"] == live.SMALL)


def figures(run: Run, point: str, rules: list[str]) -> list[str]:
    some = run.of(point, rules)
    kept = [one for one in some if is_kept(one)]
    wrong = sum(not one["right"] for one in kept)
    up = sum(not run.right_alone(live.LARGE, one["id"]) for one in some)
    calls = sum(not is_kept(one) for one in some)
    usd = 1000 * sum(one["usd"] for one in some) / len(some)
    regret = sum(not one["right"] and run.right_alone(live.LARGE, one["id"]) for one in kept)
    right = sum(one["right"] for one in some)
    return [str(len(some)), f"{len(kept) / len(some):.3f}", f"{wrong}/{len(kept)}", share(wrong, len(kept)), f"{regret / len(some):.3f}", f"{right / len(some):.3f}", f"{calls / len(some):.3f}", f"{usd:.4f}", f"{up / len(some):.3f}"]  # fmt: skip


HEAD = "| point | slice | n | kept | wrong of kept | error of kept (95 %) | regret | accuracy | calls | $ per 1 000 | upstream's own error |\n|---|---|---|---|---|---|---|---|---|---|---|\n"


def table(run: Run, points: list[str]) -> str:
    slices = SLICES | {"**all**": list(live.RULES)}
    lines = [[point, name, *figures(run, point, rules)] for point in points for name, rules in slices.items()]
    return HEAD + "".join("| " + " | ".join(one) + " |\n" for one in lines)


# The best-effort curve.


def apgr(points: list[list[tuple[bool, bool]]], rows: list[tuple[bool, bool]]) -> float:
    """Mean share of the gap closed over all shares of calls, by trapezoids through the points lived and both ends.

    points: per point and row (right, kept); rows: (local right, upstream right).
    """
    count = len(rows)
    low, high = sum(one[0] for one in rows) / count, sum(one[1] for one in rows) / count
    curve = sorted((sum(not kept for _, kept in point) / count, sum(right for right, _ in point) / count) for point in points)
    curve = [(0.0, low), *curve, (1.0, high)]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(curve, curve[1:]))
    return (area - low) / (high - low)


def cheapest(points: list[list[tuple[bool, bool]]], rows: list[tuple[bool, bool]]) -> float:
    """The smallest share of calls with the upstream's accuracy less a point, between points lived in a straight line."""
    count = len(rows)
    low, high = sum(one[0] for one in rows) / count, sum(one[1] for one in rows) / count
    curve = sorted((sum(not kept for _, kept in point) / count, sum(right for right, _ in point) / count) for point in points)
    wanted, before = high - 0.01, (0.0, low)
    for here in [*curve, (1.0, high)]:
        if here[1] >= wanted:
            return before[0] + (here[0] - before[0]) * (wanted - before[1]) / (here[1] - before[1])
        before = here
    return 1.0


def interval(values: list[float]) -> str:
    values = sorted(values)
    return f"{values[round(0.025 * (len(values) - 1))]:.3f} – {values[round(0.975 * (len(values) - 1))]:.3f}"


def best_effort(run: Run) -> str:
    points = [point for point in live.GAINS if point in run.answers]
    names = sorted(set.intersection(*(set(run.answers[point]) for point in points)))
    lived = [[(run.answers[point][name]["right"], is_kept(run.answers[point][name])) for name in names] for point in points]
    rows = [(run.right_alone(live.SMALL, name), run.right_alone(live.LARGE, name)) for name in names]
    generator = random.Random(7)
    areas, calls = [], []
    for _ in range(RESAMPLES):
        drawn = [generator.randrange(len(names)) for _ in names]
        some, both = [[point[i] for i in drawn] for point in lived], [rows[i] for i in drawn]
        areas.append(apgr(some, both))
        calls.append(cheapest(some, both))
    low, high = (sum(one[model] for one in rows) / len(rows) for model in (0, 1))
    return (
        f"{len(names)} rows answered at every point; local alone {low:.3f}, upstream alone {high:.3f}.\n\n"
        f"| | value | 95 % of {RESAMPLES} resamples of the rows |\n|---|---|---|\n"
        f"| APGR (random: .5 on every resample) | {apgr(lived, rows):.3f} | {interval(areas)} |\n"
        f"| calls at the upstream's accuracy less one point | {cheapest(lived, rows):.3f} | {interval(calls)} |\n"
    )


# Lived against recorded.


def agreement(run: Run, file: str, out: Path, records: Path) -> str:
    real = Run(out, file, records)
    lines = []
    for point, answers in real.answers.items():
        pairs = [(one, run.answers[point].get(name)) for name, one in answers.items()]
        if point == "direct":
            pairs = [(one, {"served_by": live.LARGE, **real.alone[live.LARGE][name]}) for name, one in answers.items()]
        pairs = [(one, other) for one, other in pairs if other]
        same = [sum(one[key] == other[key] for one, other in pairs) for key in ("served_by", "text", "right")]
        went = [one for one in answers.values() if not is_kept(one)]
        kept = [one for one in answers.values() if is_kept(one)]
        direct = real.answers.get("direct", {})
        added = [one["ms"] - direct[one["id"]]["ms"] for one in went if one["id"] in direct]
        median = lambda values: f"{statistics.median(values) / 1000:.2f}" if values else "–"
        lines.append(
            f"| {point} | {len(answers)} | {same[0]}/{len(pairs)} | {same[1]}/{len(pairs)} | {same[2]}/{len(pairs)} "
            f"| {sum(one['right'] for one in answers.values()) / len(answers):.3f} | {len(kept)} | {median([one['ms'] for one in kept])} | {median([one['ms'] for one in went])} | {median(added)} |\n"
        )
    return (
        "| point | rows | went the same way | same text | same grade | accuracy | kept | median s, kept | median s, escalated | median s added to asking the upstream directly |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n" + "".join(lines)
    )


def check(run: Run) -> None:
    for model, answers in run.alone.items():
        known = [one for name, one in answers.items() if name in run.rows]
        other = [one["id"] for one in known if is_right(run.rows[one["id"]], one["text"]) != one["right"]]
        print(f"{model}: {len(known) - len(other)} of {len(known)} graded as recorded; not {other}")


def main() -> None:
    cache = live.cache_folder()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=cache / "eval")
    parser.add_argument("--out", type=Path, default=cache / "eval" / "live")
    parser.add_argument("--real", default="real.jsonl", help="the answers with a real upstream, in --out")
    parser.add_argument("--check", action="store_true", help="only compare the graders")
    options = parser.parse_args()
    run = Run(options.out, "live.jsonl", options.records)
    if options.check:
        check(run)
        return
    certified = sorted((point for point in run.answers if point not in live.GAINS), reverse=True)
    print("## Certified\n\n" + table(run, certified))
    print("## Best-effort\n\n" + table(run, [point for point in live.GAINS if point in run.answers]))
    print(best_effort(run))
    if (options.out / options.real).exists():
        print("## With the upstream really there\n\n" + agreement(run, options.real, options.out, options.records))


if __name__ == "__main__":
    main()
