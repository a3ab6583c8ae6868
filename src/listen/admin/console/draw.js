// Small drawing kit: elements by function, and the two charts. Texts are set as text, never as markup.

import { count, decimal, score } from "./words.js";

/** An element: `make("p", { class: "note" }, "text", child)`. */
export function make(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function empty(title, hint) {
  return make("div", { class: "empty" }, make("p", { class: "empty-title" }, title), make("p", {}, hint));
}

/** A table that becomes a list of cards on a narrow screen: each cell carries its column's name. */
export function table(caption, columns, rows, kind = "") {
  const head = make("tr", {}, columns.map((column) => make("th", { scope: "col", class: column.number ? "number" : null }, column.name)));
  const body = rows.map((cells) => make("tr", {}, cells.map((cell, place) => cellOf(columns[place], cell))));
  return make("table", { class: kind || null }, make("caption", { class: "hidden" }, caption), make("thead", {}, head), make("tbody", {}, body));
}

export function cellOf(column, cell) {
  return make("td", { "data-name": column.name, class: column.number ? "number" : null }, cell);
}

export function bar(share, label, kind = "") {
  const width = Math.max(0, Math.min(1, share)) * 100;
  const part = shape("rect", { class: "bar-part " + kind, x: 0, y: 0, width, height: 6, rx: 3 });
  return shape("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label },
    shape("rect", { class: "bar-ground", x: 0, y: 0, width: 100, height: 6, rx: 3 }), part);
}

/** A step that people count in, so that about `most` of them reach `top`. */
function step(top, most) {
  const rough = top / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
}

export const STACK = ["local", "escalated", "direct", "failed", "refused"];
const COLUMNS = 60;

/** Stacked columns of requests per second over the last minutes; moves with the clock. */
export function drawFlow(place, flow, minutes) {
  const width = Math.max(280, place.clientWidth);
  const height = width < 520 ? 180 : 266;
  const edge = { left: 42, right: 4, top: 10, bottom: 24 };
  const [inner, tall] = [width - edge.left - edge.right, height - edge.top - edge.bottom];
  const size = (minutes * 60) / COLUMNS;
  const now = flow.clock;
  const first = Math.floor(now / size) - COLUMNS;
  const columns = Array.from({ length: COLUMNS + 1 }, (_, place) => sum(flow, (first + place) * size, size));
  const top = Math.max(...columns.map((column) => column.all)) / size;
  const every = step(Math.max(top, 1), 3);
  const ceiling = Math.max(Math.ceil(top / every), 1) * every;
  const x = (second) => edge.left + inner * (1 - (now - second) / (minutes * 60));
  const y = (value) => edge.top + tall * (1 - value / ceiling);
  const lines = [];
  for (let value = 0; value <= ceiling + every / 2; value += every) {
    const label = value === 0 ? "0" : decimal(value, 3) + "/s";
    lines.push(shape("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }));
    lines.push(shape("text", { class: "tick", x: edge.left - 8, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  const steps = width < 520 ? 2 : minutes === 2 ? 4 : 5;
  for (let place = steps; place >= 0; place -= 1) {
    const back = (minutes * place) / steps;
    const at = edge.left + inner * (1 - back / minutes);
    const anchor = back === 0 ? "end" : back === minutes ? "start" : "middle";
    const label = back === 0 ? "now" : `\u2212${decimal(back, 2)} min`;
    lines.push(shape("text", { class: "tick", x: at, y: height - 6, "text-anchor": anchor }, label));
  }
  const gap = Math.max(1, (inner / COLUMNS) * 0.22);
  const paths = STACK.map((kind, layer) => {
    const d = columns.map((column, place) => {
      const from = x((first + place) * size) + gap / 2;
      const until = Math.min(x((first + place + 1) * size) - gap / 2, width - edge.right);
      const left = Math.max(from, edge.left);
      if (until <= left || column[kind] === 0) return "";
      const below = STACK.slice(0, layer).reduce((total, other) => total + column[other], 0);
      const [low, high] = [y(below / size), y((below + column[kind]) / size)];
      return `M${left.toFixed(1)} ${low.toFixed(1)}V${high.toFixed(1)}H${until.toFixed(1)}V${low.toFixed(1)}Z`;
    });
    return shape("path", { class: "fill-" + kind, d: d.join("") });
  });
  const said = STACK.map((kind) => `${count(columns.reduce((total, column) => total + column[kind], 0))} ${kind}`).join(", ");
  const label = `Requests of the last ${minutes} minutes: ${said}.`;
  place.replaceChildren(shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    shape("g", { "aria-hidden": "true" }, lines, paths)));
}

function sum(flow, from, size) {
  const column = { all: 0 };
  for (const kind of STACK) {
    column[kind] = 0;
    for (let second = from; second < from + size; second += 1) column[kind] += flow.at(second)?.[kind] ?? 0;
    column.all += column[kind];
  }
  return column;
}

/** The answers that a gate judged by their score: refused and kept, and the thresholds. */
export function drawSpread(place, gate) {
  const width = Math.max(280, place.clientWidth);
  const height = 210;
  const edge = { left: 8, right: 8, top: 34, bottom: 26 };
  const [inner, tall] = [width - edge.left - edge.right, height - edge.top - edge.bottom];
  const bins = gate.kept.length;
  const most = Math.max(1, ...gate.kept.map((kept, bin) => kept + gate.escalated[bin]));
  const wide = inner / bins;
  const x = (value) => edge.left + ((value - gate.low) / (gate.high - gate.low)) * inner;
  const tallOf = (answers) => (answers === 0 ? 0 : Math.max(1.5, (answers / most) * tall));
  const ground = edge.top + tall;
  const columns = gate.kept.flatMap((kept, bin) => {
    const at = edge.left + bin * wide + 0.75;
    const [up, down] = [tallOf(gate.escalated[bin]), tallOf(kept)];
    const size = { x: at, width: Math.max(1, wide - 1.5), rx: 1.5 };
    return [
      up > 0 ? shape("rect", { ...size, class: "fill-escalated", y: ground - up, height: up }) : null,
      down > 0 ? shape("rect", { ...size, class: "fill-local", y: ground - up - down, height: down }) : null,
    ];
  });
  const marks = gate.thresholds.flatMap((mark, row) => {
    const at = x(mark.at);
    const anchor = at > width * 0.6 ? "end" : "start";
    const name = { threshold: "threshold", certified: "certified", otherwise: "otherwise" }[mark.of];
    return [
      shape("line", { class: "mark", x1: at, x2: at, y1: 14 + row * 14, y2: ground }),
      shape("text", { class: "mark-name", x: at + (anchor === "end" ? -6 : 6), y: 20 + row * 14, "text-anchor": anchor }, `${name} ${score(mark.at)}`),
    ];
  });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const value = gate.low + share * (gate.high - gate.low);
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    return shape("text", { class: "tick", x: x(value), y: height - 6, "text-anchor": anchor }, (share === 0 && gate.low < 0 ? "\u2264 " : "") + score(value));
  });
  const label = `${gate.score}: ${count(gate.judged_kept)} answers kept, ${count(gate.judged_escalated)} escalated; ` +
    gate.thresholds.map((mark) => `${mark.of} at ${score(mark.at)}`).join(", ");
  place.replaceChildren(shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    shape("g", { "aria-hidden": "true" }, shape("line", { class: "axis", x1: edge.left, x2: width - edge.right, y1: ground, y2: ground }), columns, marks, ticks)));
}

