// A passage as it came and as it was sent: side by side, what was left out marked, or each by itself.

import { fill, h, segments, unseen } from "./dom.js";
import * as say from "./format.js";

const LINES = 14; // of a stretch that is shown at once; the rest is folded
const SEEN = 6; // lines of a folded stretch
const LONG = 4_000; // characters of a stretch without line ends that is shown at once

/** Show the two texts of a passage; `at` tells the groups of buttons of several passages apart. */
export function comparison({ before, after, anew, blocks }, at) {
  const box = h("div", { class: "compared" });
  const views = { both: () => (anew ? words(blocks) : sides(blocks)), before: () => whole(before), after: () => whole(after) };
  const draw = (name) => fill(box, views[name]());
  draw("both");
  const choice = segments(h("fieldset", { class: "segments small" }, h("legend", { class: "unseen" }, "What is shown")), `view-${at}`, [["both", "Side by side"], ["before", "Original"], ["after", "As sent"]], "both", draw);
  return [h("div", { class: "tools" }, choice, copying({ before, after })), box];
}

function copying({ before, after }) {
  if (!navigator.clipboard) return null;
  const button = (label, text) => h("button", { type: "button", class: "quiet", on: { click: async (event) => {
    const clicked = event.currentTarget;
    await navigator.clipboard.writeText(text).then(() => fill(clicked, "Copied"), () => fill(clicked, "Could not be copied"));
    setTimeout(() => fill(clicked, label), 2000);
  } } }, label);
  return [button("Copy the original", before), button("Copy what was sent", after)];
}

const head = (before, after) => [h("h4", { class: "left" }, before), h("h4", { class: "right" }, after)];

function sides(blocks) {
  const gone = blocks.filter(([kind]) => kind === "left-out").reduce((sum, [, before]) => sum + lines(before), 0);
  const all = blocks.reduce((sum, [, before]) => sum + lines(before), 0);
  const rows = aligned(blocks).map(({ kind, left, right }) => {
    const [was, is] = [joined(left), joined(right)];
    if (kind === "kept") return [stretch(was, "left kept"), stretch(is, "right kept", "as it came")];
    if (kind === "written") return [h("div", { class: "cell left void" }), stretch(is, "right new", "written by the proxy", "ins")];
    if (kind === "mixed") return [h("pre", { class: "cell left mixed" }, marked(left, "del", "left-out")), h("pre", { class: `cell right mixed ${right.some(([one, text]) => one === "written" && text) ? "new" : "kept"}` }, marked(right, "ins", "written"))];
    return [was ? stretch(was, "left out", "left out", "del") : h("div", { class: "cell left void" }), is.trim() ? h("div", { class: "cell right marker" }, is.trim()) : h("div", { class: "cell right void" })];
  });
  return [h("p", { class: "note" }, `${say.plural(gone, "line")} of ${say.count(all)} left out.`), h("div", { class: "sides" }, head("As it came", "As it was sent"), rows)];
}

/** Join blocks that begin or end within a line into rows; what is whole lines stays a row of its own. */
function aligned(blocks) {
  const rows = [];
  let [left, right] = [[], []];
  const cut = blocks.flatMap(split);
  cut.forEach(([kind, before, after], at) => {
    left.push([kind, before]);
    right.push([kind, after]);
    const next = cut[at + 1];
    if (next && !(ends(joined(left)) && ends(joined(right)))) return;
    const kinds = new Set(left.map(([one]) => one));
    rows.push({ kind: kinds.size === 1 ? kind : "mixed", left, right });
    [left, right] = [[], []];
  });
  return rows;
}

/** Part the whole lines that were left out from the beginning of a line that follows. */
function split([kind, before, after]) {
  const end = before.lastIndexOf("\n") + 1;
  if (kind !== "left-out" || end === 0 || end === before.length) return [[kind, before, after]];
  return [[kind, before.slice(0, end), after], [kind, before.slice(end), ""]];
}

const ends = (text) => text === "" || text.endsWith("\n");
const joined = (parts) => parts.map(([, text]) => text).join("");
const marked = (parts, tag, which) => parts.map(([kind, text]) => (kind === which && text ? h(tag, {}, text) : text));

/** Show a text that was laid out anew: there is no line for each line, so that words are marked. */
function words(blocks) {
  const of = blocks.filter(([kind]) => kind !== "written");
  const sent = blocks.filter(([kind]) => kind === "written").map(([, , after]) => after).join("");
  const marked = of.map(([kind, before]) => (kind === "left-out" ? h("del", {}, before) : before));
  return [h("p", { class: "note" }, "It was laid out anew. Marked on the left: words that do not stand on the right."),
    h("div", { class: "sides" }, head("As it came", "As it was sent"), h("pre", { class: "cell left tall", tabindex: "0", role: "group", "aria-label": "As it came" }, marked), h("pre", { class: "cell right tall new", tabindex: "0", role: "group", "aria-label": "As it was sent" }, sent))];
}

const whole = (text) => h("pre", { class: "cell whole", tabindex: "0", role: "group", "aria-label": "The whole text" }, text);
const lines = (text) => (text ? text.split("\n").length - (text.endsWith("\n") ? 1 : 0) : 0);

/** Show a stretch of text, folded where it is long. */
function stretch(text, kind, spoken = "", tag = "span") {
  const cell = h("pre", { class: `cell ${kind}` });
  const count = lines(text);
  const put = (shown, ...more) => fill(cell, spoken && unseen(`${spoken}: `), h(tag, {}, shown), ...more);
  const short = count > LINES ? `${text.split("\n").slice(0, SEEN).join("\n")}\n` : text.length > LONG ? text.slice(0, LONG) : null;
  if (short === null) put(text);
  else {
    const rest = count > LINES ? `${say.count(count - SEEN)} more lines` : `${say.count(text.length - LONG)} more characters`;
    put(short, h("button", { type: "button", class: "unfold", on: { click: () => put(text) } }, `Show ${rest}`));
  }
  return cell;
}
