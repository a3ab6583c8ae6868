"""The console in a headless Chromium, over a Weir under a small load: what is seen is what is true.

    python3 tests/console/test_console.py --binary target/release/examples/stand-in [--pictures FOLDER]

Standard library only; needs Debian's `chromium`. `make test-console` builds and runs it.
"""

import argparse
import sys
import unittest
from pathlib import Path

import browser
import house

FLAGS = None
ROWS = "document.querySelectorAll('.decisions tbody tr:not(.detail)').length"

# Text whose contrast with what lies under it is below WCAG's AA: 4.5, or 3 where it is large.
FAINT = """(() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const part = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([red, green, blue]) => 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest('.hidden, .skip, script, noscript')) continue;
    const style = getComputedStyle(node);
    const ink = parse(node.closest('svg') ? style.fill : style.color);
    const [one, other] = [light(ink), light(ground(node))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.add(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return [...faint];
})()"""


def text_of(page, name):
    return page.run(f"document.getElementById('{name}').innerText")


class UnderLoad(unittest.TestCase):
    """One Weir, loaded once, looked at by every test."""

    @classmethod
    def setUpClass(cls):
        cls.house = house.House(FLAGS.binary)
        cls.house.load(FLAGS.seconds, 12)
        cls.page = browser.Browser()

    @classmethod
    def tearDownClass(cls):
        cls.page.close()
        cls.house.close()

    def setUp(self):
        self.page.events.clear()

    def tearDown(self):
        self.assertEqual(self.page.complaints(), [])
        strangers = [url for url in self.page.requested() if not url.startswith(self.house.base + "/")]
        self.assertEqual(strangers, [])

    def open(self, width=1280, dark=False, **more):
        self.page.open(self.house.base + "/", width, dark=dark, **more)
        self.page.until(f"{ROWS} > 5", "decisions")

    def try_out(self, text, **fields):
        for name, value in {"text": text, **fields}.items():
            self.page.run(f"document.getElementById('try-{name}').value = {value!r}")
        self.page.run("document.getElementById('try-result').replaceChildren()")
        self.page.run("document.getElementById('try').requestSubmit()")
        self.page.until("document.querySelector('#try-result > *')", "a verdict")
        return text_of(self.page, "try-result")

    def test_figures_seen_are_those_of_the_port(self):
        self.open()
        told = self.house.get("/admin/recent")
        totals = told["totals"]
        answers = totals["local"] + totals["escalated"] + totals["direct"]
        self.assertGreater(min(totals["local"], totals["escalated"], totals["direct"], totals["failed"], totals["refused"]), 0)
        self.assertIn(f"{totals['local']:,} of {answers:,} answers", text_of(self.page, "share-note"))
        self.assertEqual(text_of(self.page, "failed"), str(totals["failed"]))
        self.assertIn(f"${totals['spent_usd'] + totals['avoided_usd']:.2f}", text_of(self.page, "money"))
        legend = text_of(self.page, "flow-legend")
        for kind in ("local", "escalated", "direct", "failed", "refused"):
            self.assertRegex(legend, rf"(?i){kind}\s+{totals[kind]}\b")
        gate = max(told["gates"], key=lambda it: it["judged_kept"] + it["judged_escalated"])
        shown = text_of(self.page, "gates")
        self.assertIn(f"last {gate['judged_kept'] + gate['judged_escalated']:,} answers", shown)
        self.assertIn("threshold \u22120.85", self.page.run("document.querySelector('.mark-name').textContent"))
        for row in told["latency"]:
            self.assertIn(row["model"], text_of(self.page, "latency"))
        models = text_of(self.page, "models")
        for name in ("local/small-0.5b", "cloud/large", "0 of 4 slots", "breaker closed"):
            self.assertIn(name, models)
        self.assertIn("serving", text_of(self.page, "state"))
        self.assertIn("Generation 1", text_of(self.page, "generation"))
        self.assertIn("No certificate is audited", text_of(self.page, "audits"))

    def test_decisions_can_be_filtered_and_opened_and_show_no_text(self):
        self.open()
        self.page.run("[...document.querySelectorAll('#outcomes button')].find((it) => it.innerText === 'Escalated').click()")
        badges = self.page.run("[...new Set([...document.querySelectorAll('.decisions .badge')].map((it) => it.innerText))].join()")
        self.assertEqual(badges, "Escalated")
        self.page.run("document.querySelector('.decisions .more').click()")
        story = self.page.run("document.querySelector('.decisions .detail:not([hidden])').innerText")
        self.assertIn("local/small", story)
        self.assertIn("min_logprob", story)
        self.page.listen(2.5)
        self.assertEqual(self.page.run("document.querySelectorAll('.decisions .detail:not([hidden])').length"), 1)
        self.assertNotRegex(self.page.run("document.getElementById('decisions').innerText"), "capital|Translate|lottery")

    def test_a_prompt_tried_shows_its_rule_its_plan_and_why(self):
        self.open()
        before = self.house.get("/admin/recent")["totals"]
        told = self.try_out("why does AKIAIOSFODNN7EXAMPLE not work?")
        self.assertIn("is served by rule secrets stay here of house", told)
        self.assertIn("request.secrets = 1", told)
        told = self.try_out("What is the capital of France?")
        self.assertIn("goes through a cascade by rule small first", told)
        self.assertIn("kept if min_logprob >= -0.85", told)
        told = self.try_out("look it up", tools=3)
        self.assertIn("by rule tools and long inputs go up", told)
        self.assertIn("request.tools = 3", told)
        told = self.try_out("hello", headers="x-team red")
        self.assertIn("by rule", told)
        self.assertEqual(self.house.get("/admin/recent")["totals"], before)

    def test_nothing_is_asked_while_the_page_is_hidden(self):
        self.open()
        hide = "Object.defineProperty(document, 'hidden', {{ value: {}, configurable: true }}); document.dispatchEvent(new Event('visibilitychange'))"
        self.page.run(hide.format("true"))
        self.page.listen(1.5)
        self.page.events.clear()
        self.page.listen(2.5)
        self.assertEqual(self.page.requested(), [])
        self.page.run(hide.format("false"))
        self.page.listen(1.5)
        self.assertGreater(len(self.page.requested()), 0)

    def test_it_fits_and_can_be_read_on_every_screen(self):
        for width in (1280, 390):
            for dark in (False, True):
                self.open(width, dark)
                self.try_out("What is the capital of France?")
                self.page.listen(0.5)
                with self.subTest(width=width, dark=dark):
                    self.assertLessEqual(self.page.run("document.documentElement.scrollWidth"), width)
                    self.assertEqual(self.page.run(FAINT), [])
                self.picture(f"{width}-{'dark' if dark else 'light'}.png")

    def test_everything_that_can_be_used_has_a_name(self):
        self.open()
        nodes = self.page.ask("Accessibility.getFullAXTree")["nodes"]
        used = {"button", "textbox", "combobox", "spinbutton", "checkbox", "link", "image"}
        roles = [node for node in nodes if not node["ignored"] and node.get("role", {}).get("value") in used]
        nameless = [node["role"]["value"] for node in roles if not node.get("name", {}).get("value")]
        self.assertGreater(len(roles), 20)
        self.assertEqual(nameless, [])

    def picture(self, name):
        if FLAGS.pictures:
            self.page.picture(Path(FLAGS.pictures) / name)


class Changing(unittest.TestCase):
    """What the page says when things change under it; each test has a Weir of its own."""

    def setUp(self):
        self.page = browser.Browser()
        self.addCleanup(self.page.close)

    def open(self, token=None):
        self.house = house.House(FLAGS.binary, token)
        self.addCleanup(self.house.close)
        self.page.open(self.house.base + "/", 1280)

    def test_before_any_request_it_says_what_to_do(self):
        self.open()
        self.page.until("document.body.innerText.includes('No requests yet.')", "the empty state")
        self.assertIn("base_url", text_of(self.page, "decisions"))
        self.page.until("document.getElementById('gates').innerText.includes('judged nothing yet')", "the gate's empty state")

    def test_a_reload_and_a_refused_one_are_seen(self):
        self.open()
        self.page.until("document.getElementById('generation').innerText.includes('Generation 1')", "generation 1")
        self.house.write("house.toml", house.HOUSE.replace("no bets", "no bets at all"))
        self.house.hang_up()
        self.page.until("document.getElementById('policy-body').innerText.includes('no bets at all')", "the new policy")
        self.page.until("document.getElementById('generation').innerText.includes('Generation 2')", "generation 2")
        self.house.write("house.toml", house.HOUSE.replace("cloud/large", "cloud/larger"))
        self.house.hang_up()
        self.page.until("document.getElementById('refusal').innerText.includes('unknown model')", "the problem")
        self.assertIn("Generation 2 goes on", text_of(self.page, "refusal"))

    def test_when_the_process_is_gone_it_says_so(self):
        self.open()
        self.page.until("document.getElementById('state').innerText === 'serving'", "serving")
        self.house.stop()
        self.page.until("!document.getElementById('banner').hidden", "the banner")
        self.assertIn("The admin port has not answered since", text_of(self.page, "banner"))
        self.assertEqual(text_of(self.page, "state"), "no answer")

    def test_a_token_is_asked_for_and_kept_in_the_tab(self):
        self.open(token="open-sesame-of-the-test")
        self.page.until("!document.getElementById('token-form').hidden", "the question for the token")
        send = "document.getElementById('token').value = '{}'; document.getElementById('token-form').requestSubmit()"
        self.page.run(send.format("wrong"))
        self.page.until("!document.getElementById('token-form').hidden", "the question again")
        self.page.run(send.format("open-sesame-of-the-test"))
        self.page.until("document.getElementById('state').innerText === 'serving'", "serving")
        self.assertEqual(self.page.run("Object.values(localStorage).join().includes('sesame')"), False)
        self.page.open(self.house.base + "/", 1280)
        self.page.until("document.getElementById('state').innerText === 'serving'", "serving after a reload")


def main():
    global FLAGS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--pictures")
    parser.add_argument("--seconds", type=float, default=10)
    FLAGS, rest = parser.parse_known_args()
    if browser.find() is None:
        sys.exit("test_console: chromium is missing; on Debian: apt-get install chromium")
    if FLAGS.pictures:
        Path(FLAGS.pictures).mkdir(parents=True, exist_ok=True)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
