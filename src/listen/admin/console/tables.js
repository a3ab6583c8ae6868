// Models, audits, and the last decisions.

import { bar, cellOf, empty, make, table } from "./draw.js";
import { MEANINGS, OUTCOMES, REASONS, bytes, clock, count, decimal, milliseconds, percent, score, usd } from "./words.js";

const badge = (kind, text, title) => make("span", { class: "badge " + kind, title }, text);

function state(model) {
  if (model.state && model.state !== "warm") return badge("busy", model.state);
  if (!model.local && model.breaker !== "closed") return badge("bad", "breaker " + model.breaker.replace("_", "-"));
  if (!model.ready) return badge("bad", "not ready");
  if (model.local) return badge("good", "warm");
  return make("span", {}, badge("good", "ready"), make("small", { class: "quiet" }, " breaker closed"));
}

export function showModels(place, models) {
  if (models.length === 0) {
    place.replaceChildren(empty("No model is served.", "Add a [[model]] or an [[upstream]] to the configuration and reload it."));
    return;
  }
  const columns = [{ name: "Model" }, { name: "State" }, { name: "Busy", number: true }, { name: "Waiting", number: true }, { name: "KV cache", number: true }];
  const withMemory = models.some((model) => model.memory_bytes !== undefined && model.memory_bytes !== null);
  if (withMemory) columns.push({ name: "Memory", number: true });
  const order = [...models].sort((one, other) => Number(other.local) - Number(one.local) || one.model.localeCompare(other.model));
  const rows = order.map((model) => {
    const busy = model.slots > 0
      ? make("span", { class: "measure" }, `${count(model.slots_busy)} of ${count(model.slots)} slots`, bar(model.slots_busy / model.slots, "slots busy", "local"))
      : `${count(model.slots_busy)} in flight`;
    const waiting = model.local ? `${count(model.queue_depth)} of ${count(model.queue_limit)}` : "–";
    const cache = model.local
      ? make("span", { class: "measure" }, percent(model.kv_used_ratio), bar(model.kv_used_ratio, "KV cache in use", "local"))
      : "–";
    const cells = [
      make("span", {}, make("span", { class: "model" }, model.model), model.local ? make("small", { class: "quiet" }, " on this box") : null),
      state(model), busy, waiting, cache,
    ];
    if (withMemory) cells.push(model.memory_bytes ? bytes(model.memory_bytes) : "–");
    return cells;
  });
  place.replaceChildren(table("Models and upstreams as they are now", columns, rows));
}

export function showAudits(place, audits) {
  if (audits.length === 0) {
    place.replaceChildren(empty("No certificate is audited.", "A rule with accept = { max_error = …, calibration = …, audit = … } has its promise watched, and its slices show here."));
    return;
  }
  const kind = { watching: "good", alarmed: "bad", unmonitored: "busy" };
  const columns = [{ name: "Slice" }, { name: "State" }, { name: "Promise" }, { name: "Measured" }, { name: "Seen", number: true }, { name: "Evidence", number: true }, { name: "Spent", number: true }];
  const rows = audits.map((audit) => {
    const graded = audit.total.graded;
    const seen = graded ? `${percent(audit.total.losses / graded)} of ${count(graded)} graded` : "none graded yet";
    return [
      make("b", {}, audit.slice),
      badge(kind[audit.state] ?? "busy", audit.state, audit.alarmed_since ? "since " + audit.alarmed_since : null),
      `${audit.risk} risk at most ${percent(audit.promised)}, confidence ${percent(audit.confidence)}`,
      `${audit.measured}; alarm above ${percent(audit.alarm_above)}`,
      seen,
      make("span", { class: "measure" }, `${decimal(audit.peak, 3)} of ${decimal(audit.alarm_at, 3)}`, bar(audit.peak / audit.alarm_at, "evidence against the promise", audit.state === "alarmed" ? "failed" : "escalated")),
      usd(audit.spent_usd),
    ];
  });
  place.replaceChildren(table("Audited slices", columns, rows));
}

const COLUMNS = [{ name: "Time" }, { name: "Outcome" }, { name: "Asked" }, { name: "Rule" }, { name: "Served by" }, { name: "Why" }, { name: "Confidence", number: true }, { name: "Cost", number: true }, { name: "Latency", number: true }];
const FEW = 14;
const MANY = 100;
const KEPT = 400;

/** The last decisions, newest first. Rows are added, not redrawn: what a person opened stays open. */
export class Decisions {
  constructor(place, choice, more) {
    this.place = place;
    this.more = more;
    this.most = FEW;
    more.addEventListener("click", () => {
      this.most = this.most === FEW ? MANY : FEW;
      more.setAttribute("aria-expanded", String(this.most === MANY));
      more.textContent = this.most === MANY ? "Show fewer" : "Show more";
      this.draw();
    });
    this.kept = [];
    this.open = new Set();
    this.outcome = "all";
    this.gates = new Map();
    const kinds = ["all", ...Object.keys(OUTCOMES)];
    this.buttons = kinds.map((kind) => {
      const button = make("button", { type: "button", "aria-pressed": String(kind === "all"), title: MEANINGS[kind] }, OUTCOMES[kind] ?? "All");
      button.addEventListener("click", () => this.pick(kind));
      return [kind, button];
    });
    choice.replaceChildren(...this.buttons.map(([, button]) => button));
    this.draw();
  }

  pick(kind) {
    this.outcome = kind;
    for (const [name, button] of this.buttons) button.setAttribute("aria-pressed", String(name === kind));
    this.draw();
  }

  /** Forgets everything: another process answers now. */
  clear() {
    this.kept = [];
    this.open.clear();
    this.draw();
  }

  add(decisions, gates) {
    this.gates = new Map(gates.map((gate) => [`${gate.policy}\n${gate.rule}`, gate.score]));
    if (decisions.length === 0) return;
    this.kept = [...decisions.reverse(), ...this.kept].slice(0, KEPT);
    this.draw();
  }

  draw() {
    const fitting = this.kept.filter((it) => this.outcome === "all" || it.outcome === this.outcome);
    const shown = fitting.slice(0, this.most);
    this.more.hidden = fitting.length <= FEW;
    if (shown.length === 0) {
      this.body = null;
      const what = this.outcome === "all" ? "No requests yet." : `None of the last ${count(this.kept.length)} requests: ${MEANINGS[this.outcome]}.`;
      const hint = this.outcome === "all" ? "Point a client's base_url at the data port; each request shows here with its reason." : "Pick another outcome to see the rest.";
      this.place.replaceChildren(empty(what, hint));
      return;
    }
    if (!this.body) {
      const whole = table("The last decisions, newest first", COLUMNS, [], "decisions");
      this.body = whole.querySelector("tbody");
      this.rows = new Map();
      this.place.replaceChildren(whole);
    }
    const numbers = new Set(shown.map((it) => it.number));
    for (const [number, rows] of this.rows) {
      if (!numbers.has(number)) {
        rows.forEach((row) => row.remove());
        this.rows.delete(number);
      }
    }
    let before = this.body.firstChild;
    for (const it of shown) {
      const known = this.rows.get(it.number);
      if (known) {
        before = known[1].nextSibling;
        continue;
      }
      const rows = this.row(it);
      rows.forEach((row) => this.body.insertBefore(row, before));
      this.rows.set(it.number, rows);
    }
  }

  row(it) {
    const detail = make("tr", { class: "detail", id: "decision-" + it.number, hidden: !this.open.has(it.number) }, make("td", { colspan: COLUMNS.length }));
    const button = make("button", { type: "button", class: "more", "aria-expanded": String(this.open.has(it.number)), "aria-controls": detail.id }, clock(it.at_ms));
    button.addEventListener("click", () => {
      const opens = !this.open.has(it.number);
      if (opens) this.open.add(it.number);
      else this.open.delete(it.number);
      button.setAttribute("aria-expanded", String(opens));
      detail.hidden = !opens;
      if (opens) detail.firstChild.replaceChildren(story(it));
    });
    if (this.open.has(it.number)) detail.firstChild.replaceChildren(story(it));
    const measure = this.gates.get(`${it.policy}\n${it.rule}`);
    const name = it.confidence && measure in it.confidence ? measure : "min_logprob";
    const sure = it.confidence ? make("span", { title: name }, score(it.confidence[name])) : "–";
    const why = it.error && it.outcome !== "canceled" ? it.error_code ?? it.error : it.reason;
    const cells = [
      button,
      badge("of-" + it.outcome, OUTCOMES[it.outcome], MEANINGS[it.outcome]),
      make("span", { class: "model" }, it.asked),
      it.rule ? make("span", {}, it.rule) : "–",
      it.served_by ? make("span", { class: "model" }, it.served_by) : "–",
      why ? make("span", { title: why }, REASONS[why] ?? why.replaceAll("_", " ")) : it.outcome === "direct" ? "as the rule says" : "–",
      sure,
      usd(it.cost_usd),
      make("span", { title: `first token ${milliseconds(it.ttft_ms)}` }, milliseconds(it.e2e_ms)),
    ];
    return [make("tr", {}, cells.map((cell, place) => cellOf(COLUMNS[place], cell))), detail];
  }
}

/** Everything that is known of one request; of its text, nothing is. */
function story(it) {
  const pair = (name, value) => (value === null || value === undefined || value === "" ? null : make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  const stages = it.stages.map((stage) => `${stage.model} ${stage.outcome}${stage.reason ? ` (${stage.reason})` : ""}`).join(" \u2192 ");
  const scores = it.confidence && Object.entries(it.confidence).map(([name, value]) => `${name} ${value === null ? "none" : decimal(Math.abs(value), 4).replace(/^/, value < 0 ? "\u2212" : "")}`).join(", ");
  return make("dl", { class: "story" },
    pair("Asked in turn", stages),
    pair("Policy", it.policy && `${it.policy}, generation ${it.generation}`),
    pair("Tenant", it.tenant),
    pair("Scores", scores),
    pair("Certificate", it.certificate),
    pair("First token", it.ttft_ms === null ? null : milliseconds(it.ttft_ms) + (it.stream ? " (stream)" : "")),
    pair("Avoided, wasted", it.avoided_usd === null && it.wasted_usd === null ? null : `${usd(it.avoided_usd)}, ${usd(it.wasted_usd)}`),
    pair("Degraded", it.degraded),
    pair("Pinned", it.pinned ? "yes" : null),
    pair("Error", it.error && [it.error, it.error_code, it.error_message].filter(Boolean).join(": ")),
    pair("Request id", it.id));
}
