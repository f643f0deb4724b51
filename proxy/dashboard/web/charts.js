// Small charts of SVG and CSS. Each has a table with the same numbers for screen readers and for copying.

import { fill, h, s } from "./dom.js";

const HEIGHT = 220;
const EDGE = { top: 8, right: 4, bottom: 22, left: 54 };
const MAX_LABELS = 8;

/**
 * Draw stacked bars over time. `data`: `{ label, parts: [[class, value]], tip: [[name, text]] }`; positive parts are
 * stacked upwards, negative parts downwards. `ticks` formats a value of the axis.
 */
export function bars(box, data, { title, legend, ticks, columns }) {
  const tip = h("div", { class: "tip", hidden: true });
  const frame = h("div", { class: "frame" });
  const draw = () => frame.clientWidth && fill(frame, chart(frame.clientWidth, data, title, ticks, tip), tip);
  fill(
    box,
    frame,
    h("ul", { class: "legend" }, ...legend.map(([name, text]) => h("li", {}, h("i", { class: `swatch ${name}` }), text))),
    table(title, columns, data.map((bar) => [bar.label, ...bar.tip.map(([, text]) => text)])),
  );
  redrawOnResize(frame, draw);
}

const drawings = new WeakMap();
const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => drawings.get(target)?.()));

function redrawOnResize(frame, draw) {
  drawings.set(frame, draw);
  observer.observe(frame); // also draws for the first time
}

function chart(width, data, title, ticks, tip) {
  const high = Math.max(0, ...data.map((bar) => total(bar, (value) => value > 0)));
  const low = Math.min(0, ...data.map((bar) => total(bar, (value) => value < 0)));
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
  const every = Math.max(1, Math.ceil(data.length / Math.min(MAX_LABELS, Math.floor(inner.width / 62))));
  const shapes = data.map((bar, index) => column(bar, EDGE.left + index * slot, slot, gap, y, tip, width));
  const labels = data.map((bar, index) => {
    const visible = (data.length - 1 - index) % every === 0;
    return visible && s("text", { class: "tick", x: EDGE.left + (index + 0.5) * slot, y: HEIGHT - 6, "text-anchor": anchor(index, data.length) }, bar.label);
  });
  return s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${title}; a table follows` }, grid, shapes, labels);
}

const anchor = (index, length) => (index === length - 1 && length > 2 ? "end" : "middle");
const total = (bar, includes) => bar.parts.reduce((sum, [, value]) => (includes(value ?? 0) ? sum + value : sum), 0);

function column(bar, x, slot, gap, y, tip, width) {
  let up = 0;
  let down = 0;
  const parts = bar.parts.filter(([, value]) => value).map(([name, value]) => {
    const from = value > 0 ? up : down;
    if (value > 0) up += value;
    else down += value;
    const [high, low] = [y(Math.max(from, from + value)), y(Math.min(from, from + value))];
    return s("rect", { class: name, x: x + gap / 2, width: Math.max(1, slot - gap), y: high, height: Math.max(0.8, low - high), rx: Math.min(2, slot / 6) });
  });
  const show = () => {
    fill(tip, h("b", {}, bar.label), h("dl", {}, bar.tip.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)])));
    tip.hidden = false;
    tip.style.setProperty("left", `${Math.min(Math.max(x + slot / 2 - 80, 0), Math.max(0, width - 168))}px`);
  };
  const hide = () => (tip.hidden = true);
  const area = s("rect", { class: "hit", x, width: slot, y: EDGE.top, height: HEIGHT - EDGE.top - EDGE.bottom, on: { pointerenter: show, pointerleave: hide } });
  return s("g", { class: "column" }, area, parts);
}

/** Return round values from below `low` to above `high`, 0 included. */
export function scale(low, high) {
  if (high - low <= 0) return [0, 1];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const steps = [];
  for (let index = Math.floor(low / step); index <= Math.ceil(high / step); index += 1) steps.push(index * step);
  return steps;
}

/** Create a collapsed table. */
export function table(caption, columns, rows) {
  const head = h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)));
  const body = rows.map((row) => h("tr", {}, row.map((cell, index) => (index ? h("td", {}, cell) : h("th", { scope: "row" }, cell)))));
  const inner = h("table", { class: "plain" }, h("caption", { class: "visually-hidden" }, caption), h("thead", {}, head), h("tbody", {}, body));
  return h("details", { class: "chart-table" }, h("summary", {}, "Show as a table"), h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption }, inner));
}

/** Draw a horizontal bar. `parts`: `[class, share of the full width]`; `from`: the share at which the bar starts. */
export function strip(parts, from = 0) {
  const pieces = parts.filter(([, share]) => share > 0).map(([name, share]) => h("i", { class: name, style: { width: `${Math.max(0.4, 100 * share)}%` } }));
  return h("span", { class: "strip", "aria-hidden": "true" }, h("span", { class: "push", style: { width: `${100 * from}%` } }), pieces);
}

/** Draw a histogram with its percentiles. */
export function histogram(title, { edges, counts, percentiles }, format) {
  const most = Math.max(1, ...counts);
  const names = counts.map((_, index) => (index === 0 ? `under ${format(edges[0])}` : index === edges.length ? `over ${format(edges.at(-1))}` : `${format(edges[index - 1])} – ${format(edges[index])}`));
  const first = counts.findIndex((number) => number > 0);
  const last = counts.findLastIndex((number) => number > 0);
  if (first < 0) return h("p", { class: "empty" }, `${title}: no data yet.`);
  const rows = names.slice(first, last + 1).map((name, index) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "bar" }, strip([["sent", counts[first + index] / most]])), h("td", { class: "number" }, String(counts[first + index]))),
  );
  const values = Object.entries(percentiles ?? {}).map(([name, value]) => h("div", {}, h("dt", {}, name === "p50" ? "median" : name), h("dd", {}, format(value))));
  return h("div", { class: "histogram" }, h("h3", {}, title), h("dl", { class: "percentiles" }, values),
    h("table", { class: "bars" }, h("caption", { class: "visually-hidden" }, title), h("thead", { class: "visually-hidden" }, h("tr", {}, ["time", "chart", "requests"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}
