// Small charts in SVG and CSS, each with a table behind it for those who cannot see it, or want the figures.

import { fill, h, s, unseen } from "./dom.js";

const HEIGHT = 220;
const EDGE = { top: 8, right: 4, bottom: 22, left: 54 };
const MOST_LABELS = 8;

/**
 * Draw bars of several parts over time. `bars`: `{ label, parts: [[class, value]], tip: [[name, text]] }`; parts above
 * nought are stacked upwards, those below downwards. `ticks` writes a value of the axis down.
 */
export function bars(box, data, { title, legend, ticks, columns }) {
  const tip = h("div", { class: "tip", hidden: true });
  const frame = h("div", { class: "frame" });
  const draw = () => frame.clientWidth && fill(frame, picture(frame.clientWidth, data, title, ticks, tip), tip);
  fill(
    box,
    frame,
    h("ul", { class: "legend" }, ...legend.map(([name, text]) => h("li", {}, h("i", { class: `swatch ${name}` }), text))),
    table(title, columns, data.map((one) => [one.label, ...one.tip.map(([, text]) => text)])),
  );
  watch(frame, draw);
}

const drawings = new WeakMap();
const watcher = new ResizeObserver((entries) => entries.forEach(({ target }) => drawings.get(target)?.()));

function watch(frame, draw) {
  drawings.set(frame, draw);
  watcher.observe(frame); // observing draws for the first time
}

function picture(width, data, title, ticks, tip) {
  const high = Math.max(0, ...data.map((one) => total(one, (value) => value > 0)));
  const low = Math.min(0, ...data.map((one) => total(one, (value) => value < 0)));
  const steps = scale(low, high);
  const [bottom, top] = [steps[0], steps.at(-1)];
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  const y = (value) => EDGE.top + inner.height * (1 - (value - bottom) / (top - bottom));
  const slot = inner.width / Math.max(1, data.length);
  const gap = Math.min(6, slot * 0.25);
  const grid = steps.map((value) => [
    s("line", { class: value === 0 ? "zero" : "rule", x1: EDGE.left, x2: width - EDGE.right, y1: y(value), y2: y(value) }),
    s("text", { class: "tick", x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, ticks(value)),
  ]);
  const every = Math.max(1, Math.ceil(data.length / Math.min(MOST_LABELS, Math.floor(inner.width / 62))));
  const shapes = data.map((one, at) => column(one, EDGE.left + at * slot, slot, gap, y, tip, width));
  const labels = data.map((one, at) => {
    const shown = (data.length - 1 - at) % every === 0;
    return shown && s("text", { class: "tick", x: EDGE.left + (at + 0.5) * slot, y: HEIGHT - 6, "text-anchor": anchor(at, data.length) }, one.label);
  });
  return s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${title}; a table follows` }, grid, shapes, labels);
}

const anchor = (at, length) => (at === length - 1 && length > 2 ? "end" : "middle");
const total = (one, fits) => one.parts.reduce((sum, [, value]) => (fits(value ?? 0) ? sum + value : sum), 0);

function column(one, x, slot, gap, y, tip, width) {
  let up = 0;
  let down = 0;
  const parts = one.parts.filter(([, value]) => value).map(([name, value]) => {
    const from = value > 0 ? up : down;
    if (value > 0) up += value;
    else down += value;
    const [high, low] = [y(Math.max(from, from + value)), y(Math.min(from, from + value))];
    return s("rect", { class: name, x: x + gap / 2, width: Math.max(1, slot - gap), y: high, height: Math.max(0.8, low - high), rx: Math.min(2, slot / 6) });
  });
  const show = () => {
    fill(tip, h("b", {}, one.label), h("dl", {}, one.tip.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])));
    tip.hidden = false;
    tip.style.setProperty("left", `${Math.min(Math.max(x + slot / 2 - 80, 0), Math.max(0, width - 168))}px`);
  };
  const hide = () => (tip.hidden = true);
  const area = s("rect", { class: "hit", x, width: slot, y: EDGE.top, height: HEIGHT - EDGE.top - EDGE.bottom, on: { pointerenter: show, pointerleave: hide } });
  return s("g", { class: "column" }, area, parts);
}

/** Return round values from below `low` to above `high`, nought among them. */
export function scale(low, high) {
  if (high - low <= 0) return [0, 1];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const steps = [];
  for (let at = Math.floor(low / step); at <= Math.ceil(high / step); at += 1) steps.push(at * step);
  return steps;
}

/** Make a table that is folded away. */
export function table(caption, columns, rows) {
  const head = h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)));
  const body = rows.map((row) => h("tr", {}, row.map((cell, at) => (at ? h("td", {}, cell) : h("th", { scope: "row" }, cell)))));
  const inner = h("table", { class: "plain" }, h("caption", { class: "unseen" }, caption), h("thead", {}, head), h("tbody", {}, body));
  return h("details", { class: "figures-of" }, h("summary", {}, "Show as a table"), h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, inner));
}

/** Draw a bar of parts on a track; `parts`: `[class, share of the track]`, `from` is where it begins. */
export function strip(parts, from = 0) {
  const pieces = parts.filter(([, share]) => share > 0).map(([name, share]) => h("i", { class: name, style: { width: `${Math.max(0.4, 100 * share)}%` } }));
  return h("span", { class: "strip", "aria-hidden": "true" }, h("span", { class: "push", style: { width: `${100 * from}%` } }), pieces);
}

/** Draw how many values lie where: one bar a range. */
export function spread(title, { edges, counts, percentiles }, write) {
  const most = Math.max(1, ...counts);
  const names = counts.map((_, at) => (at === 0 ? `under ${write(edges[0])}` : at === edges.length ? `over ${write(edges.at(-1))}` : `${write(edges[at - 1])} – ${write(edges[at])}`));
  const first = counts.findIndex((n) => n > 0);
  const last = counts.findLastIndex((n) => n > 0);
  if (first < 0) return h("p", { class: "empty" }, "Nothing yet.");
  const rows = names.slice(first, last + 1).map((name, at) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "bar" }, strip([["sent", counts[first + at] / most]])), h("td", { class: "number" }, String(counts[first + at]))),
  );
  const places = Object.entries(percentiles ?? {}).map(([name, value]) => h("div", {}, h("dt", {}, { p50: "median", p95: "95 %", p99: "99 %" }[name] ?? name, unseen(" take at most")), h("dd", {}, write(value))));
  return h("div", { class: "spread" }, h("h3", {}, title), h("dl", { class: "places" }, places),
    h("table", { class: "bars" }, h("caption", { class: "unseen" }, title), h("thead", { class: "unseen" }, h("tr", {}, ["time", "share", "requests"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}
