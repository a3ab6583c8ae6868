"""Decides whether an answer is right, and how it could have been asked for under constraint.

One grader per kind of row, strict about form: `exact`, `word`, `choice`, `span` compare the first line
with case and punctuation folded; `contains` looks for the answer in the text;
`letter` for the first option letter; `number` and `last_number` take the last number of the text; `json`
wants the same object after folding its values.

Run as a program, it grades recorded answers again and tells where it disagrees with their record:
    graders.py ANSWERS.jsonl.gz...
"""

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

TASKS = Path(__file__).resolve().parent.parent / "tasks" / "tasks.jsonl.gz"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LETTER = re.compile(r"[\[(]?\b([A-Z])\b[\])]?")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, gzipped or not."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def fold(text: str) -> str:
    """Lower case, single blanks, no punctuation but colons and hyphens."""
    return " ".join(re.sub(r"[^\w\s:-]", "", text.lower()).split())


def first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0].strip()


def as_number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def exact(text: str, answer: str) -> bool:
    return text.strip() == answer


def folded_line(text: str, answer: str) -> bool:
    return fold(first_line(text)) == fold(answer)


def contains(text: str, answer: str) -> bool:
    return answer.lower() in text.lower()


def letter(text: str, answer: str) -> bool:
    found = LETTER.search(text)
    return found is not None and found.group(1) == answer.strip("()")


def last_number(text: str, answer: str) -> bool:
    found = NUMBER.findall(text)
    return bool(found) and as_number(found[-1]) == as_number(answer)


def same_object(text: str, answer: dict[str, str]) -> bool:
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1])
    except ValueError:
        return False
    return isinstance(found, dict) and {key: fold(str(value)) for key, value in found.items()} == {
        key: fold(value) for key, value in answer.items()
    }


GRADERS: dict[str, Callable[[str, Any], bool]] = {
    "exact": exact,
    "word": folded_line,
    "choice": folded_line,
    "span": folded_line,
    "contains": contains,
    "letter": letter,
    "number": last_number,
    "last_number": last_number,
    "json": same_object,
}


def is_right(row: dict[str, Any], text: str) -> bool:
    """Whether `text` answers the row."""
    return GRADERS[row["grader"]](text, row["answer"])


def regrade(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Prints how often the recorded verdicts of a file are met, and every verdict that is not."""
    answers = list(read_rows(path))
    differ = [one for one in answers if is_right(rows[one["id"]], one["text"]) != one["right"]]
    print(f"{path.name}: {len(answers) - len(differ)} of {len(answers)} verdicts agree")
    for one in differ:
        row = rows[one["id"]]
        print(f"  {one['id']} {row['grader']}: recorded {one['right']}, want {row['answer']!r}, got {one['text'][-120:]!r}")


if __name__ == "__main__":
    known = {row["id"]: row for row in read_rows(TASKS)}
    for name in sys.argv[1:]:
        regrade(Path(name), known)
