"""Renders what an evaluation found as markdown and as JSON."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Iterable, Sequence

import sweep
from sweep import SCORES, Pair, Point

TABLE_SHARES = tuple(step / 10 for step in range(11))
Record = dict[str, Any]


@dataclass(frozen=True)
class Operating:
    """The threshold that is confirmed live."""

    rule: str
    score: str
    at_least: float


@dataclass(frozen=True)
class Found:
    """Everything an evaluation measured."""

    half: str
    pairs: list[Pair]
    operating: Operating
    live: list[Record]
    constrained: list[Record]
    machine: dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def seconds(ms: float) -> str:
    return f"{ms / 1000:.2f}"


def usd(value: float) -> str:
    return f"{value:.4f}"


def curves(pairs: Sequence[Pair]) -> dict[str, list[Point]]:
    """Every score's curve and the two baselines' over `SHARES`."""
    found = {score: sweep.curve(pairs, score) for score in SCORES}
    return {**found, "random": sweep.random_curve(pairs), "perfect knowledge": sweep.perfect_curve(pairs)}


def ends(pairs: Sequence[Pair]) -> dict[str, Point]:
    """Always the one model, always the other; always-upstream does not pay for a local answer."""
    answers = {"always local": [pair.local for pair in pairs], "always upstream": [pair.upstream for pair in pairs]}
    return {
        name: Point(
            kept=float(name == "always local"),
            accuracy=sweep.accuracy(given),
            usd_per_1000=1000 * sum(one.usd for one in given) / len(given),
            median_ms=median(one.ms for one in given),
        )
        for name, given in answers.items()
    }


def numbers(found: Found) -> dict[str, Any]:
    """What the picture is drawn from."""
    return {
        "half": found.half,
        "rows": len(found.pairs),
        "machine": found.machine,
        "curves": {name: [finite(point) for point in points] for name, points in curves(found.pairs).items()},
        "ends": {name: finite(point) for name, point in ends(found.pairs).items()},
        "auroc": {score: sweep.auroc(found.pairs, score) for score in SCORES},
    }


def finite(point: Point) -> dict[str, float | None]:
    """A point as JSON can hold it: the threshold that accepts nothing is none."""
    return {**asdict(point), "threshold": None if point.threshold == float("inf") else point.threshold}


def accuracies(found: Found) -> str:
    """Share kept → accuracy, for each score beside the baselines."""
    every = curves(found.pairs)
    rows = [[f"{share:.1f}"] + [ratio(every[name][round(20 * share)].accuracy) for name in every] for share in TABLE_SHARES]
    return table(["share kept", *every], rows)


def thresholds(found: Found, score: str) -> str:
    """Threshold → share kept, accuracy, cost and latency of one score."""
    points = sweep.curve(found.pairs, score)
    rows = []
    for share in TABLE_SHARES:
        one = points[round(20 * share)]
        name = "none kept" if one.threshold == float("inf") else f"{one.threshold:.3f}"
        rows.append([name, ratio(one.kept), ratio(one.accuracy), usd(one.usd_per_1000), seconds(one.median_ms)])
    return table([f"`{score}` at least", "share kept", "accuracy", "$ per 1 000 requests", "median s"], rows)


def ends_table(found: Found) -> str:
    rows = [[name, ratio(one.accuracy), usd(one.usd_per_1000), seconds(one.median_ms)] for name, one in ends(found.pairs).items()]
    return table(["", "accuracy", "$ per 1 000 requests", "median s"], rows)


def tasks(found: Found) -> str:
    """Per task: how right each model is, and whether the local one knows it."""
    groups: dict[str, list[Pair]] = {}
    for pair in found.pairs:
        groups.setdefault(pair.task, []).append(pair)
    rows = [task_row(name, groups[name]) for name in sorted(groups)]
    return table(["task", "n", "local", "upstream", *(f"AUROC {score}" for score in SCORES)], rows + [task_row("**all**", found.pairs)])


def task_row(name: str, pairs: Sequence[Pair]) -> list[str]:
    right = [ratio(sweep.accuracy([pair.local for pair in pairs])), ratio(sweep.accuracy([pair.upstream for pair in pairs]))]
    return [name, str(len(pairs)), *right, *(ratio(sweep.auroc(pairs, score)) for score in SCORES)]


def live(found: Found) -> str:
    """The same rows predicted from the records and asked of the cascade itself."""
    by_id = {pair.id: pair for pair in found.pairs}
    pairs = [by_id[record["id"]] for record in found.live]
    predicted = sweep.at_threshold(pairs, found.operating.score, found.operating.at_least)
    kept = [record["served_by"].startswith("local/") for record in found.live]
    same = sum(
        (pair.scores[found.operating.score] >= found.operating.at_least) == keep for pair, keep in zip(pairs, kept)
    )
    lived = Point(
        kept=sum(kept) / len(kept),
        accuracy=sum(record["right"] for record in found.live) / len(found.live),
        usd_per_1000=1000 * sum(record["usd"] for record in found.live) / len(found.live),
        median_ms=median(record["ms"] for record in found.live),
    )
    rows = [
        [name, ratio(one.kept), ratio(one.accuracy), usd(one.usd_per_1000), seconds(one.median_ms)]
        for name, one in (("predicted from the records", predicted), ("lived through the cascade", lived))
    ]
    told = table(["", "share kept", "accuracy", "$ per 1 000 requests", "median s"], rows)
    return f"{told}\n{same} of {len(pairs)} rows went where the records said.\n"


def constrained(found: Found) -> str:
    """Free against constrained answers of the local model, per grader."""
    by_id = {pair.id: pair for pair in found.pairs}
    groups: dict[str, list[Record]] = {}
    for record in found.constrained:
        groups.setdefault(by_id[record["id"]].grader, []).append(record)
    rows = [form_row(name, groups[name], by_id) for name in sorted(groups)] + [form_row("**all**", found.constrained, by_id)]
    return table(["grader", "n", "free", "constrained", "AUROC free", "AUROC constrained"], rows)


def form_row(name: str, records: Sequence[Record], by_id: dict[str, Pair]) -> list[str]:
    free = [by_id[record["id"]] for record in records]
    bound = [
        Pair(pair.id, pair.task, pair.grader, sweep.Answer(record["right"], record["ms"], record["usd"]), pair.upstream, record["scores"])
        for pair, record in zip(free, records)
    ]
    right = [ratio(sweep.accuracy([pair.local for pair in pairs])) for pairs in (free, bound)]
    return [name, str(len(records)), *right, *(ratio(sweep.auroc(pairs, "min_logprob")) for pairs in (free, bound))]


def render(found: Found, name: str) -> str:
    """The report as markdown; `name` is the picture's."""
    cpu = f"{found.machine['cpu']}, {found.machine['cores']} cores"
    at = found.operating
    parts = [
        f"# A cascade of two real models on graded tasks ({found.half} half)\n",
        f"{len(found.pairs)} rows of `benches/tasks`, each asked once of each model through the gateway (temperature 0): local "
        f"Qwen2.5-Coder-0.5B, upstream Qwen2.5-Coder-1.5B at its demo price. Both computed at the same time, one thread each, on one "
        f"machine ({cpu}); an escalated request pays and waits for both answers. Made by `make eval`.\n",
        f"![share answered locally against accuracy]({name}.svg)\n",
        "## The two ends\n",
        ends_table(found),
        "## Share answered locally → accuracy\n",
        accuracies(found),
        "## Thresholds\n",
        *(thresholds(found, score) for score in SCORES),
        "## Per task\n",
        "AUROC: the probability that a right local answer scores above a wrong one; .5 is a coin.\n",
        tasks(found),
        "## One operating point, live\n",
        f"`{at.rule}`: `{at.score}` at least {at.at_least}, asked of the model `auto` ({len(found.live)} rows).\n",
        live(found),
        "## Decoded under constraint\n",
        "The local model again, with `response_format` json_schema: an enum of the choices the prompt names, a number, an object with "
        "the keys the prompt names. AUROC of `min_logprob`.\n",
        constrained(found),
    ]
    return "\n".join(parts)
