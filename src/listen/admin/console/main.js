// The page: asks the admin port once a second while it is seen, and shows what it says.

import { Refused, ask, keepToken } from "./ask.js";
import { drawFlow, make } from "./draw.js";
import { showGates, showLatency, showLegend, showMoney, showShort } from "./figures.js";
import { Decisions, showAudits, showModels } from "./tables.js";
import { Policies } from "./trial.js";
import { ago, clock } from "./words.js";

const SECOND = 1000;
const KEPT = 620;
const id = (name) => document.getElementById(name);

/** Counts of the last ten minutes, second by second of the process's life. */
class Flow {
  clock = 0;
  seconds = new Map();

  take(told) {
    const { first, ...columns } = told.seconds;
    for (let place = 0; place < columns.local.length; place += 1) {
      this.seconds.set(first + place, Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, column[place]])));
    }
    this.last = first + columns.local.length - 1;
    this.clock = Math.max(this.last, Math.min(this.last + 1, (told.now_ms - told.started_ms) / SECOND));
    for (const second of this.seconds.keys()) if (second < this.last - KEPT) this.seconds.delete(second);
  }

  at(second) {
    return this.seconds.get(second);
  }
}

const policies = new Policies();
const decisions = new Decisions(id("decisions"), id("outcomes"), id("show-more"));
const page = { flow: new Flow(), started: null, after: 0, generation: null, minutes: 5, told: null, lost: null, paused: false, timer: null, asking: false, status: null };

function forget() {
  Object.assign(page, { flow: new Flow(), after: 0, generation: null, status: null });
  decisions.clear();
}

async function poll() {
  clearTimeout(page.timer);
  if (document.hidden || page.paused || page.asking) return;
  page.asking = true;
  try {
    await refresh();
    page.lost = null;
    say(null);
    id("token-form").hidden = true;
  } catch (error) {
    lose(error);
  }
  page.asking = false;
  if (id("token-form").hidden) page.timer = setTimeout(poll, page.lost ? 2 * SECOND : SECOND);
}

async function refresh() {
  const told = await ask(`/admin/recent?since=${page.flow.last ?? 0}&after=${page.after}`);
  if (page.started !== null && page.started !== told.started_ms) {
    page.started = null;
    forget();
    return refresh();
  }
  page.started = told.started_ms;
  page.told = told;
  page.flow.take(told);
  page.after = told.decisions.at(-1)?.number ?? page.after;
  if (page.generation !== told.generation) {
    policies.show(await ask("/admin/policies"));
    page.generation = told.generation;
    page.status = null;
  }
  await readStatus();
  decisions.add(told.decisions, told.gates);
  draw();
}

/** How the last reload went; asked for every few seconds, since it changes rarely. */
async function readStatus() {
  if (page.status && Date.now() - page.status.at < 5 * SECOND) return;
  try {
    page.status = { at: Date.now(), told: await ask("/admin/status") };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    page.status = { at: Date.now(), told: null };
  }
}

function draw() {
  const { told, flow } = page;
  if (!told) return;
  showShort(flow, told.totals);
  showLegend(flow, page.minutes);
  drawFlow(id("flow-chart"), flow, page.minutes);
  showMoney(id("money"), told.totals);
  showGates(id("gates"), told.gates);
  showLatency(id("latency"), told.latency);
  showModels(id("models"), told.models);
  showAudits(id("audits"), told.audits);
  showHead(told);
}

function showHead(told) {
  const draining = told.unready === "draining";
  const kind = told.unready === null ? "good" : draining ? "busy" : "bad";
  setState(page.paused ? "busy" : kind, page.paused ? "paused" : told.unready ?? "serving");
  showReload(page.status?.told, told);
}

const CAUSES = { start: "started", signal: "SIGHUP", files: "files changed", admin: "reloaded", rollback: "rolled back" };

/** Which generation runs, since when, and what was refused after it. */
function showReload(status, told) {
  const current = status?.generation;
  const parts = [`Generation ${told.generation}`];
  if (current?.number === told.generation) parts.push(`${CAUSES[current.cause] ?? current.cause} ${ago(told.now_ms - Date.parse(current.since))}`);
  id("generation").textContent = parts.join(" \u00b7 ");
  id("generation").title = `the process began ${ago(told.now_ms - told.started_ms)}`;
  const refusal = status?.last_refusal;
  const newer = refusal && (!current || Date.parse(refusal.when) > Date.parse(current.since));
  const key = newer ? refusal.when : "";
  const place = id("refusal");
  place.hidden = !newer;
  if (place.dataset.when === key) return;
  place.dataset.when = key;
  if (!newer) return place.replaceChildren();
  const problems = refusal.problems.map((it) => make("li", {}, it.place ? make("code", {}, it.place) : null, " ", it.message));
  const many = problems.length === 1 ? "one problem" : `${problems.length} problems`;
  place.replaceChildren(
    make("p", {}, make("b", {}, "A reload was refused"), ` at ${clock(Date.parse(refusal.when))}: ${many}. Generation ${told.generation} goes on.`),
    make("ul", {}, problems));
}

function setState(kind, text) {
  id("state-dot").className = "dot " + kind;
  if (id("state-text").textContent !== text) id("state-text").textContent = text;
}

function lose(error) {
  if (error instanceof Refused && error.status === 401) {
    id("token-form").hidden = false;
    id("main").classList.add("stale");
    setState("busy", "token wanted");
    id("token").focus();
    return;
  }
  page.lost ??= Date.now();
  const since = clock(page.lost);
  const starting = error instanceof Refused && error.status === 503;
  setState(starting ? "busy" : "bad", starting ? "starting" : "no answer");
  const lost = `The admin port has not answered since ${since}. Is the process running? This page tries again every two seconds; what it shows is of then.`;
  say(error instanceof Refused ? `The admin port says: ${error.message}` : lost);
}

function say(text) {
  const banner = id("banner");
  banner.hidden = text === null;
  if (text !== null && banner.textContent !== text) banner.textContent = text;
  id("main").classList.toggle("stale", text !== null);
}

function setTheme(theme) {
  const names = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  id("theme").textContent = names[theme];
  localStorage.setItem("weir-theme", theme);
}

id("theme").addEventListener("click", () => {
  const order = ["auto", "light", "dark"];
  setTheme(order[(order.indexOf(localStorage.getItem("weir-theme") ?? "auto") + 1) % order.length]);
});
id("pause").addEventListener("click", () => {
  page.paused = !page.paused;
  id("pause").setAttribute("aria-pressed", String(page.paused));
  id("pause").textContent = page.paused ? "Go on" : "Pause";
  if (page.paused) setState("busy", "paused");
  else poll();
});
for (const button of id("range").querySelectorAll("button")) {
  button.addEventListener("click", () => {
    page.minutes = Number(button.dataset.minutes);
    for (const other of id("range").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    draw();
  });
}
id("gate").addEventListener("change", () => {
  id("gate").dataset.picked = "yes";
  draw();
});
id("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(id("token").value);
  id("token").value = "";
  id("token-form").hidden = true;
  id("main").classList.remove("stale");
  poll();
});
document.addEventListener("visibilitychange", poll);
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (width !== window.innerWidth) draw();
  width = window.innerWidth;
});
setTheme(localStorage.getItem("weir-theme") ?? "auto");
poll();
