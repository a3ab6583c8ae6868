"""How a row's answer can be asked for under constraint (`response_format: json_schema`).

A choice, a letter or a word becomes an enum of what the prompt names, a number a number, an object an
object with the keys that the prompt names. The other rows (dates, spans, reasoning) have no form.
"""

import json
import re
from typing import Any, Iterable

Row = dict[str, Any]
Schema = dict[str, Any]

BANKING = re.compile(r"Is this about (.*)\? Answer with one of these only")
CATEGORIES = re.compile(r"categories: (.*)\. Answer with the category only")
OPTIONS = re.compile(r"Options: (.*)\.\n")
KEYS = re.compile(r"with the keys? (.*?);")


def listed(text: str) -> tuple[list[str], str]:
    """`a, b, c or d` → what certainly is a choice, and the rest that is one or two of them."""
    parts = text.split(", ")
    return parts[:-1], parts[-1]


def labels(rows: Iterable[Row]) -> set[str]:
    """Every label of the banking rows that stands alone: needed to split `a or b or c`."""
    found: set[str] = set()
    for row in rows:
        asked = BANKING.search(row["messages"][-1]["content"])
        if asked:
            sure, rest = listed(asked.group(1))
            pair = rest.split(" or ")
            found.update(label.lower() for label in sure + (pair if len(pair) == 2 else []))
    return found


def split_last(rest: str, known: set[str]) -> list[str]:
    """`visa or mastercard or transfer timing` → its two labels; where unclear, the last `or` divides."""
    words = rest.split(" or ")
    splits = [(" or ".join(words[:at]), " or ".join(words[at:])) for at in range(len(words) - 1, 0, -1)]
    rated = sorted(splits, key=lambda pair: -sum(label.lower() in known for label in pair))
    return list(rated[0]) if rated else [rest]


def choices(row: Row, known: set[str]) -> list[str] | None:
    """The choices that the prompt of a row names."""
    first, last = row["messages"][0]["content"], row["messages"][-1]["content"]
    if asked := BANKING.search(last):
        sure, rest = listed(asked.group(1))
        return sure + split_last(rest, known)
    if asked := CATEGORIES.search(first) or OPTIONS.search(last):
        return asked.group(1).split(", ")
    if row["grader"] == "letter":
        return re.findall(r"^(\([A-Z]\)) ", last, re.MULTILINE)
    if "yes or no" in last or "sentence plausible?" in last:
        return ["yes", "no"]
    if lines := re.findall(r"^- (\w+)$", last, re.MULTILINE):
        return lines
    return ["True", "False"] if row["grader"] == "word" else None


def schema(row: Row, known: set[str]) -> Schema | None:
    """The JSON schema of a row's answer; None where its form says nothing."""
    if row["grader"] in ("choice", "letter", "word"):
        return {"type": "string", "enum": choices(row, known)}
    if row["grader"] == "number":
        return {"type": "number"}
    if row["grader"] == "json":
        asked = KEYS.search(row["messages"][-1]["content"])
        keys = re.split(r", | and ", asked.group(1)) if asked else []
        properties = {key: {"type": "string"} for key in keys}
        return {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}
    return None


def plain(row: Row, text: str) -> str:
    """A constrained answer as the grader reads it: a JSON string without its quotes."""
    if row["grader"] == "json":
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text
