"""What a threshold would have done: pure arithmetic over recorded answers.

A `Pair` is one row answered by both models. A rule keeps the local answer of some pairs; an escalated
pair pays for both answers and waits for both. Nothing here asks a model.
"""

import random
from dataclasses import dataclass
from statistics import median
from typing import Any, Sequence

SCORES = ("min_logprob", "mean_logprob", "sum_logprob", "margin")
SHARES = tuple(step / 20 for step in range(21))
DRAWS = 200
SEED = 7


@dataclass(frozen=True)
class Answer:
    """A model's answer to a row."""

    right: bool
    ms: float
    usd: float


@dataclass(frozen=True)
class Pair:
    """A row answered by both models; `scores` are the local answer's."""

    id: str
    task: str
    grader: str
    local: Answer
    upstream: Answer
    scores: dict[str, float]


@dataclass(frozen=True)
class Point:
    """What a rule gives: share kept locally, accuracy, dollars per 1 000 requests, median ms."""

    kept: float
    accuracy: float
    usd_per_1000: float
    median_ms: float
    threshold: float | None = None


def point(pairs: Sequence[Pair], kept: Sequence[bool], threshold: float | None = None) -> Point:
    """The outcome of keeping the local answer of these pairs and escalating the rest."""
    served = [pair.local if keep else pair.upstream for pair, keep in zip(pairs, kept)]
    usd = [pair.local.usd + (0 if keep else pair.upstream.usd) for pair, keep in zip(pairs, kept)]
    ms = [pair.local.ms + (0 if keep else pair.upstream.ms) for pair, keep in zip(pairs, kept)]
    total = len(pairs)
    return Point(sum(kept) / total, sum(one.right for one in served) / total, 1000 * sum(usd) / total, median(ms), threshold)


def at_threshold(pairs: Sequence[Pair], score: str, threshold: float) -> Point:
    """The cascade that accepts where `score` is at least `threshold`."""
    return point(pairs, [pair.scores[score] >= threshold for pair in pairs], threshold)


def curve(pairs: Sequence[Pair], score: str) -> list[Point]:
    """One point per share of `SHARES`, at the threshold that keeps at least that share."""
    falling = sorted((pair.scores[score] for pair in pairs), reverse=True)
    points = [point(pairs, [False] * len(pairs), float("inf"))]
    for share in SHARES[1:]:
        threshold = falling[max(1, round(share * len(pairs))) - 1]
        points.append(at_threshold(pairs, score, threshold))
    return points


def keep_first(pairs: Sequence[Pair], order: Sequence[int], share: float) -> Point:
    """Keeps this share of the pairs, first in `order`."""
    kept = [False] * len(pairs)
    for index in order[: round(share * len(pairs))]:
        kept[index] = True
    return point(pairs, kept)


def random_curve(pairs: Sequence[Pair]) -> list[Point]:
    """Keeping a random share: the mean of many draws."""
    draw, order = random.Random(SEED), list(range(len(pairs)))
    sums = [[0.0, 0.0, 0.0, 0.0] for _ in SHARES]
    for _ in range(DRAWS):
        draw.shuffle(order)
        for total, share in zip(sums, SHARES):
            one = keep_first(pairs, order, share)
            for at, value in enumerate((one.kept, one.accuracy, one.usd_per_1000, one.median_ms)):
                total[at] += value / DRAWS
    return [Point(*total) for total in sums]


def perfect_curve(pairs: Sequence[Pair]) -> list[Point]:
    """Perfect knowledge: escalates first where only the upstream is right, last where only the local is."""
    order = sorted(range(len(pairs)), key=lambda at: pairs[at].upstream.right - pairs[at].local.right)
    return [keep_first(pairs, order, share) for share in SHARES]


def auroc(pairs: Sequence[Pair], score: str) -> float | None:
    """Probability that a right local answer scores above a wrong one (ties: half); None without both.

    The Mann-Whitney statistic: Hanley & McNeil, "The meaning and use of the area under a receiver
    operating characteristic (ROC) curve", Radiology 143 (1982).
    """
    right = [pair.scores[score] for pair in pairs if pair.local.right]
    wrong = [pair.scores[score] for pair in pairs if not pair.local.right]
    if not right or not wrong:
        return None
    wins = sum((one > other) + 0.5 * (one == other) for one in right for other in wrong)
    return wins / (len(right) * len(wrong))


def accuracy(answers: Sequence[Any]) -> float:
    """The share of right answers."""
    return sum(one.right for one in answers) / len(answers)
