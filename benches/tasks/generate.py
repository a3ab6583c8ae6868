#!/usr/bin/env python3
"""Makes own.jsonl.gz: more rows of the two tasks made for this project, `arith` and `iso_date`.

With those of tasks.jsonl.gz each task has 1 000 rows, its levels (for dates: its spellings) in equal
parts. The same numbers under the same operation, in either order where order counts for nothing, or the
same date in another spelling, is one question: none is asked twice, here or there. The seed is
fixed, so the file is always the same; rows are shuffled, so that its first N are a fair sample.

    generate.py [--out FILE]
"""

import argparse
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

HERE = Path(__file__).resolve().parent
SEED = 2026
WANTED = 1000
ARITH, DATE = "arith", "iso_date"
MONTHS = "January February March April May June July August September October November December".split()

Row = dict[str, Any]
Question = tuple[Any, ...]

# Per level: the operation and the ranges of its numbers. There are but 81 sums of two digits, so the
# first level goes on with one digit and two.
LEVELS: dict[int, tuple[str, tuple[int, int], tuple[int, int]]] = {
    1: ("+", (10, 99), (1, 9)),
    2: ("+", (11, 99), (11, 99)),
    3: ("*", (2, 12), (11, 98)),
    4: ("-", (112, 972), (112, 972)),
    5: ("*", (13, 94), (13, 94)),
}
WORDS = {"+": "plus", "-": "minus", "*": "times"}
SIGNS = {word: sign for sign, word in WORDS.items()} | {sign: sign for sign in WORDS}
RESULTS: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
SPELLINGS: list[Callable[[int, int, int], str]] = [
    lambda year, month, day: f"{day} {MONTHS[month - 1]} {year}",
    lambda year, month, day: f"{MONTHS[month - 1]} {day}, {year}",
    lambda year, month, day: f"{month}/{day}/{year} (US)",
]


def sum_key(a: int, sign: str, b: int) -> Question:
    """What makes a sum the same question as another."""
    return (sign, a, b) if sign == "-" else (sign, min(a, b), max(a, b))


def question_of(row: Row) -> Question:
    """The question that a row asks, whatever its words."""
    if row["task"] == DATE:
        return (DATE, row["answer"])
    found = re.search(r"(\d+) (\S+) (\d+)", row["messages"][0]["content"])
    if found is None:
        raise ValueError(f"{row['id']}: no sum in {row['messages'][0]['content']!r}")
    return sum_key(int(found[1]), SIGNS[found[2]], int(found[3]))


def row(task: str, level: int, prompt: str, answer: str) -> Row:
    grader, max_tokens = ("number", 24) if task == ARITH else ("exact", 20)
    messages = [{"role": "user", "content": prompt}]
    return {"task": task, "level": level, "messages": messages, "answer": answer, "grader": grader, "max_tokens": max_tokens, "source": "own"}


def a_sum(level: int, draw: random.Random) -> Row:
    sign, first, second = LEVELS[level]
    a, b = draw.randint(*first), draw.randint(*second)
    prompt = draw.choice([f"What is {a} {sign} {b}?", f"{a} {WORDS[sign]} {b} = ?"])
    return row(ARITH, level, f"{prompt} Give only the number.", str(RESULTS[sign](a, b)))


def a_date(spelling: int, draw: random.Random) -> Row:
    year, month, day = draw.randint(1951, 2033), draw.randint(1, 12), draw.randint(1, 28)
    text = SPELLINGS[spelling](year, month, day)
    return row(DATE, 1, f"Write this date as YYYY-MM-DD: {text}. Answer with the date only.", f"{year}-{month:02}-{day:02}")


def fresh(make: Callable[[], Row], known: set[Question]) -> Row:
    """A row whose question is not known yet; it is known then."""
    while (question := question_of(made := make())) in known:
        pass
    known.add(question)
    return made


def generate(existing: Iterable[Row]) -> Iterator[Row]:
    """The rows that are missing to `WANTED` of each task."""
    own = [one for one in existing if one["task"] in (ARITH, DATE)]
    known = {question_of(one) for one in own}
    levels = Counter((one["task"], one["level"]) for one in own)
    draw, made = random.Random(SEED), []
    for level in LEVELS:
        missing = WANTED // len(LEVELS) - levels[ARITH, level]
        made += [fresh(lambda: a_sum(level, draw), known) for _ in range(missing)]
    missing = WANTED - levels[DATE, 1]
    made += [fresh(lambda: a_date(place % len(SPELLINGS), draw), known) for place in range(missing)]
    draw.shuffle(made)
    return ({"id": f"own-{place:05}"} | one for place, one in enumerate(made))


def read(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "own.jsonl.gz")
    out = parser.parse_args().out
    text = "".join(json.dumps(one) + "\n" for one in generate(read(HERE / "tasks.jsonl.gz")))
    out.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
