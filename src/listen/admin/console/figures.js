// The figures of the page: the four in short, the flow's legend, money, latency, gates.

import { STACK, bar, drawSpread, empty, make, table } from "./draw.js";
import { MEANINGS, OUTCOMES, count, milliseconds, percent, rate, usd } from "./words.js";

const put = (id, ...text) => document.getElementById(id).replaceChildren(...text);

/** Sums of the last ten minutes, and of the last whole seconds. */
function lately(flow) {
  const sums = { local: 0, escalated: 0, direct: 0, failed: 0, refused: 0, canceled: 0, spent_usd: 0, avoided_usd: 0, wasted_usd: 0, recent: 0 };
  const now = Math.floor(flow.clock);
  for (const [second, at] of flow.seconds) {
    for (const name of Object.keys(at)) sums[name] += at[name];
    if (second < now && second >= now - 15) sums.recent += STACK.reduce((total, kind) => total + at[kind], 0) + at.canceled;
  }
  return sums;
}

export function showShort(flow, totals) {
  const sums = lately(flow);
  const answers = sums.local + sums.escalated + sums.direct;
  put("share", answers ? percent(sums.local / answers) : "–");
  put("share-note", answers ? `${count(sums.local)} of ${count(answers)} answers, last 10 min` : "no answers in the last 10 min");
  put("avoided", usd(totals.avoided_usd));
  const whole = totals.avoided_usd + totals.spent_usd;
  put("avoided-note", whole > 0 ? `${percent(totals.avoided_usd / whole)} of ${usd(whole)}, since the start` : "since the start; prices tell what is saved");
  put("rate", rate(sums.recent / Math.min(15, Math.max(1, Math.floor(flow.clock)))));
  const all = STACK.reduce((total, kind) => total + totals[kind], 0) + totals.canceled;
  put("rate-note", `${count(all)} since the start`);
  put("failed", count(sums.failed));
  const asked = answers + sums.failed;
  put("failed-note", asked ? `${percent(sums.failed / asked)} of the last 10 min` : "none in the last 10 min");
  document.getElementById("failed").classList.toggle("bad", sums.failed > 0);
}

export function showLegend(flow, minutes) {
  const from = flow.clock - minutes * 60;
  const item = (kind) => {
    let sum = 0;
    for (const [second, at] of flow.seconds) if (second >= from) sum += at[kind];
    return make("li", { title: MEANINGS[kind] }, make("span", { class: "key key-" + kind }), OUTCOMES[kind] + " ", make("b", {}, count(sum)));
  };
  document.getElementById("flow-legend").replaceChildren(...STACK.map(item));
}

/** What the dearest stages would have cost, and what became of it. */
export function showMoney(place, totals) {
  const { spent_usd: spent, avoided_usd: avoided, wasted_usd: wasted } = totals;
  const whole = spent + avoided;
  if (whole === 0 && totals.unpriced === 0) {
    place.replaceChildren(empty("Nothing spent yet.", "Give models their prices (prices.toml) and what a cascade saves shows here."));
    return;
  }
  const useful = Math.max(0, spent - wasted);
  const share = (value) => (whole > 0 ? value / whole : 0);
  const row = (kind, name, value, meaning) => make("div", { class: "money-row" },
    make("dt", {}, make("span", { class: "key key-" + kind }), name, make("small", {}, meaning)),
    make("dd", {}, make("b", {}, usd(value)), make("small", {}, percent(share(value)))));
  const meter = make("div", { class: "stacked", role: "img", "aria-label": `avoided ${percent(share(avoided))}, spent ${percent(share(useful))}, wasted ${percent(share(wasted))}` });
  for (const [kind, value] of [["avoided", avoided], ["spent", useful], ["wasted", wasted]]) {
    const part = make("span", { class: "part-" + kind });
    part.style.flexGrow = String(share(value));
    meter.append(part);
  }
  place.replaceChildren(
    make("p", { class: "sum" }, make("b", {}, usd(whole)), make("span", {}, "is what the dearest stages would have cost")),
    meter,
    make("dl", { class: "money" },
      row("avoided", "Avoided", avoided, "answered without them"),
      row("spent", "Spent", useful, "on answers served"),
      row("wasted", "Wasted", wasted, "on work thrown away")),
    totals.unpriced > 0 ? make("p", { class: "note" }, `${count(totals.unpriced)} requests have no known price and are not in these sums.`) : "");
}

export function showLatency(place, rows) {
  if (rows.length === 0) {
    place.replaceChildren(empty("No answers yet.", "Times show here as soon as a model has answered."));
    return;
  }
  const most = Math.max(...rows.map((row) => row.e2e_p95_ms));
  const columns = [{ name: "Served by" }, { name: "First token", number: true }, { name: "p95", number: true }, { name: "Whole answer", number: true }, { name: "p95 ", number: true }, { name: "Answers", number: true }];
  const cells = rows.map((row) => [
    make("span", { class: "named" }, make("span", { class: "model" }, row.model), bar(row.e2e_p50_ms / most, `median ${milliseconds(row.e2e_p50_ms)}`, row.model.startsWith("local/") ? "local" : "up")),
    milliseconds(row.ttft_p50_ms), milliseconds(row.ttft_p95_ms), milliseconds(row.e2e_p50_ms), milliseconds(row.e2e_p95_ms), count(row.answers),
  ]);
  place.replaceChildren(table("Median and 95th percentile of latency by model", columns, cells, "latency"));
}

const nameOf = (gate) => `${gate.policy} / ${gate.rule}` + (gate.stage > 0 ? ` / stage ${gate.stage + 1}` : "");

/** One gate at a time; the busiest until another is picked. */
export function showGates(place, gates) {
  const pick = document.getElementById("gate-pick");
  const select = document.getElementById("gate");
  if (gates.length === 0) {
    pick.hidden = true;
    place.replaceChildren(empty("No gate is in force.", "A policy with a cascade judges local answers by their confidence; its scores and threshold show here."));
    return;
  }
  const names = gates.map(nameOf);
  pick.hidden = gates.length < 2;
  if (select.dataset.names !== names.join("\n")) {
    const before = select.value;
    select.dataset.names = names.join("\n");
    select.replaceChildren(...names.map((name) => make("option", {}, name)));
    select.dataset.picked = names.includes(before) && select.dataset.picked ? "yes" : "";
    if (select.dataset.picked) select.value = before;
  }
  const judged = (gate) => gate.judged_kept + gate.judged_escalated;
  if (!select.dataset.picked) select.value = names[gates.indexOf(gates.reduce((most, gate) => (judged(gate) > judged(most) ? gate : most)))];
  const gate = gates[names.indexOf(select.value)];
  const all = judged(gate);
  const told = make("p", { class: "gate-told" },
    make("span", { class: "model" }, gate.model), gate.score ? ` judged by ${gate.score}` : " judged by value: its threshold moves with what is spent");
  const legend = make("ul", { class: "legend" },
    make("li", {}, make("span", { class: "key key-local" }), "Kept ", make("b", {}, all ? percent(gate.judged_kept / all) : "–")),
    make("li", {}, make("span", { class: "key key-escalated" }), "Escalated ", make("b", {}, all ? percent(gate.judged_escalated / all) : "–")),
    make("li", { class: "quiet" }, `last ${count(all)} answers`));
  if (all === 0) {
    const marks = gate.thresholds.map((mark) => `${gate.score} at ${mark.at} or more is kept`).join("; ");
    place.replaceChildren(told, empty("This gate has judged nothing yet.", marks || "Ask a question through its policy."));
    return;
  }
  const chart = make("div", { class: "chart" });
  place.replaceChildren(told, legend, chart);
  if (gate.score) drawSpread(chart, gate);
}
