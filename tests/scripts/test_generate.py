"""benches/tasks/generate.py: what the file of own rows promises."""

import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path

TASKS = Path(__file__).resolve().parents[2] / "benches" / "tasks"
sys.path.insert(0, str(TASKS))

from generate import question_of, read  # noqa: E402

OWN = {"arith", "iso_date"}


class OwnRows(unittest.TestCase):
    def setUp(self):
        self.existing = [row for row in read(TASKS / "tasks.jsonl.gz") if row["task"] in OWN]
        self.made = read(TASKS / "own.jsonl.gz")

    def test_the_generator_makes_the_file_that_is_there(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "own.jsonl.gz"
            subprocess.run([sys.executable, TASKS / "generate.py", "--out", out], check=True)
            self.assertEqual(read(out), self.made)

    def test_no_question_is_asked_twice_in_whatever_words(self):
        known = {question_of(row) for row in self.existing}
        made = [question_of(row) for row in self.made]
        self.assertEqual(len(made), len(set(made)))
        self.assertFalse(known & set(made))

    def test_a_thousand_rows_of_each_task_in_equal_levels(self):
        counts = Counter((row["task"], row["level"]) for row in self.existing + self.made)
        self.assertEqual(counts, {("iso_date", 1): 1000} | {("arith", level): 200 for level in range(1, 6)})

    def test_a_turned_sum_is_the_same_question_but_a_turned_difference_is_another(self):
        def asked(text):
            return question_of({"id": "x", "task": "arith", "messages": [{"content": text}]})

        self.assertEqual(asked("What is 4 * 17?"), asked("17 times 4 = ?"))
        self.assertNotEqual(asked("What is 40 - 17?"), asked("17 minus 40 = ?"))


if __name__ == "__main__":
    unittest.main()
