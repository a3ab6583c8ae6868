"""Draws an evaluation's JSON as PNG and SVG beside it; needs matplotlib.

    picture.py RESULT.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "weir"
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

COLOURS = {
    "min_logprob": "#0072b2",
    "mean_logprob": "#d55e00",
    "sum_logprob": "#009e73",
    "margin": "#cc79a7",
    "random": "#888888",
    "perfect knowledge": "#000000",
}
DASHES = {"random": "--", "perfect knowledge": ":"}
Curve = list[dict[str, Any]]


def lines(axes: Axes, curves: dict[str, Curve], x: str, y: str, scale: float = 1.0) -> None:
    """One line per curve."""
    for name, points in curves.items():
        across, up = [one[x] for one in points], [scale * one[y] for one in points]
        axes.plot(across, up, DASHES.get(name, "-"), color=COLOURS[name], label=name, linewidth=1.6)


def ends(axes: Axes, found: dict[str, dict[str, Any]], x: str, y: str, scale: float = 1.0) -> None:
    """The two models alone, as marks."""
    for (name, one), mark in zip(found.items(), ("o", "s")):
        axes.plot(one[x], scale * one[y], mark, color="black", markersize=6, label=name, linestyle="none")


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(data: dict[str, Any], target: Path) -> None:
    """Three panels: accuracy, cost and latency."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    lines(left, data["curves"], "kept", "accuracy")
    ends(left, data["ends"], "kept", "accuracy")
    dress(left, f"{data['rows']} graded rows, {data['half']} half", "share answered locally", "accuracy")
    lines(middle, data["curves"], "usd_per_1000", "accuracy")
    ends(middle, data["ends"], "usd_per_1000", "accuracy")
    dress(middle, "what accuracy costs", "$ per 1 000 requests", "accuracy")
    lines(right, data["curves"], "kept", "median_ms", 0.001)
    ends(right, data["ends"], "kept", "median_ms", 0.001)
    dress(right, "how long it takes", "share answered locally", "median seconds")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
    figure.savefig(target.with_suffix(".png"), dpi=130)
    figure.savefig(target.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    path = Path(sys.argv[1])
    draw(json.loads(path.read_text(encoding="utf-8")), path)
