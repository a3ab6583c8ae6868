// The policies in force, and a prompt tried on them without asking anybody.

import { ask } from "./ask.js";
import { empty, make } from "./draw.js";

const id = (name) => document.getElementById(name);

/** `when` and `then` of a rule, as a person reads them. */
function thenOf(then) {
  if (then.plan === "reject") return make("p", { class: "then" }, make("span", { class: "badge of-refused" }, `refuse ${then.status}`), " ", then.message);
  const parts = then.stages.flatMap((stage, place) => {
    const arrow = place === 0 ? [] : [make("span", { class: "arrow", "aria-label": then.plan === "serve" ? "if that fails" : "else" }, then.plan === "serve" ? "or" : "\u2192")];
    return [...arrow, make("span", { class: "stage" }, make("span", { class: "model" }, stage.model), stage.keep ? make("small", {}, `keep if ${stage.keep}`) : null)];
  });
  return make("p", { class: "then" }, parts);
}

function ruleOf(rule, place) {
  return make("li", {}, make("p", { class: "rule-name" }, make("span", { class: "number" }, String(place + 1)), rule.rule),
    rule.when ? make("code", { class: "when" }, rule.when) : make("p", { class: "quiet" }, "everything else"), thenOf(rule.then));
}

export class Policies {
  constructor() {
    this.view = "rules";
    this.told = null;
    for (const button of id("policy-view").querySelectorAll("button")) {
      button.addEventListener("click", () => {
        this.view = button.dataset.view;
        for (const other of id("policy-view").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
        this.draw();
      });
    }
    id("policy").addEventListener("change", () => this.draw());
    id("try").addEventListener("submit", (event) => {
      event.preventDefault();
      this.decide();
    });
  }

  /** Takes over what a generation has in force. */
  show(told) {
    this.told = told;
    const names = told.policies.map((it) => it.model);
    const before = id("policy").value;
    id("policy").replaceChildren(...told.policies.map((it) => make("option", { value: it.model }, `${it.model}: ${it.policy}`)));
    if (names.includes(before)) id("policy").value = before;
    id("policy-pick").hidden = names.length < 2;
    const asked = id("try-model").value;
    id("try-model").replaceChildren(...told.models.map((name) => make("option", {}, name)));
    if (told.models.includes(asked)) id("try-model").value = asked;
    id("try-headers").placeholder = told.headers.length ? told.headers.map((name) => name + ": …").join("\n") : "the configuration names no policy_headers";
    this.draw();
  }

  draw() {
    const policy = this.told?.policies.find((it) => it.model === id("policy").value);
    if (!policy) {
      id("policy-body").replaceChildren(empty("No policy is in force.", "A [[virtual]] model in the configuration names a policy file; plain model names are served as they are asked for."));
      return;
    }
    const head = make("p", { class: "note" }, `Clients ask for ${policy.model}; ${policy.place || "built in"}, generation ${this.told.generation}`);
    const notes = policy.notes.map((note) => make("p", { class: "note warn" }, note));
    const body = this.view === "text"
      ? make("pre", { class: "file", tabindex: 0, "aria-label": "The policy's file" }, make("code", {}, policy.text || "a plain name has no file"))
      : make("ol", { class: "rules" }, policy.rules.map(ruleOf));
    id("policy-body").replaceChildren(head, ...notes, body);
  }

  /** What the form says, in the form of a case file's request. */
  example() {
    const example = { text: id("try-text").value, model: id("try-model").value };
    const whole = (name) => Math.max(0, Number.parseInt(id(name).value, 10) || 0);
    if (whole("try-tools")) example.tools = whole("try-tools");
    if (whole("try-images")) example.images = whole("try-images");
    if (whole("try-max")) example.max_tokens = whole("try-max");
    if (id("try-temperature").value !== "") example.temperature = Number(id("try-temperature").value);
    if (id("try-tenant").value.trim()) example.tenant = id("try-tenant").value.trim();
    if (id("try-stream").checked) example.stream = true;
    if (id("try-json").checked) example.json = true;
    const lines = id("try-headers").value.split("\n").filter((line) => line.includes(":"));
    if (lines.length) example.headers = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")).trim(), line.slice(line.indexOf(":") + 1).trim()]));
    return example;
  }

  async decide() {
    const place = id("try-result");
    const example = this.example();
    try {
      place.replaceChildren(verdict(await ask("/admin/try", example), example));
    } catch (error) {
      place.replaceChildren(make("p", { class: "failed-note" }, error.message));
    }
  }
}

const MARKS = { held: ["\u2713", "holds"], not_held: ["\u2013", "does not hold"], failed: ["!", "failed"], not_reached: ["", "not reached"] };

/** A decision with its reasons, and the case that would pin it down. */
function verdict(told, example) {
  const plan = { serve: "is served", cascade: "goes through a cascade", reject: "is refused" }[told.then.plan];
  const stages = told.then.stages.map((stage) => make("li", {}, make("span", { class: "model" }, stage.model),
    stage.skip ? make("p", {}, `passed over at a ${stage.skip}`) : null,
    stage.keep ? make("p", {}, "kept if ", make("code", {}, stage.keep), `; held back: ${stage.hold_back}`) : null,
    stage.certificate ? make("p", {}, "certificate: ", make("code", {}, stage.certificate)) : null));
  const tried = told.rules.map((rule) => {
    const [mark, meaning] = MARKS[rule.held];
    const read = rule.read.map((it) => make("li", {}, make("code", {}, it.name), " = ", make("b", {}, typeof it.value === "string" ? JSON.stringify(it.value) : String(it.value))));
    return make("li", { class: "tried-" + rule.held }, make("span", { class: "tried-mark", role: "img", "aria-label": meaning }, mark),
      make("div", {}, make("p", { class: "rule-name" }, rule.rule, make("span", { class: "quiet" }, rule.held === "held" && !rule.when ? "everything else" : meaning)),
        rule.when && rule.held !== "not_reached" ? make("code", { class: "when" }, rule.when) : null,
        rule.failed ? make("p", { class: "failed-note" }, rule.failed) : null,
        read.length ? make("ul", { class: "read" }, read) : null));
  });
  const signals = told.signals.map((it) => make("li", {}, make("code", {}, it.name.replace("request.", "")), " ", make("b", {}, String(it.value))));
  const expect = { rule: told.rule, plan: told.then.plan };
  if (told.then.stages.length) expect.models = told.then.stages.map((stage) => stage.model);
  if (told.then.status) expect.status = told.then.status;
  const line = JSON.stringify({ name: told.rule, request: example, expect });
  return make("div", { class: "verdict" },
    make("p", { class: "verdict-head" }, "It ", make("b", {}, plan), " by rule ", make("b", {}, told.rule), ` of ${told.policy}.`),
    told.then.plan === "reject" ? make("p", {}, `${told.then.status}: ${told.then.message}`) : make("ol", { class: "plan" }, stages),
    make("h3", {}, "Why"), make("ol", { class: "tried" }, tried),
    make("details", {}, make("summary", {}, "Signals read off the request"), make("ul", { class: "signals" }, signals)),
    make("details", {}, make("summary", {}, "As a line of the policy's case file"), make("pre", { class: "file", tabindex: 0 }, make("code", {}, line))));
}
