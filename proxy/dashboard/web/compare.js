// The original and the sent text of a passage: side by side with the omitted parts marked, or each on its own.

import { fill, h, segments, visuallyHidden } from "./dom.js";
import * as format from "./format.js";

const MAX_LINES = 14; // longer pieces are collapsed
const VISIBLE_LINES = 6; // of a collapsed piece
const MAX_CHARS = 4_000; // visible characters of a piece without line ends

/** Show the two texts of a passage; `position` gives the radio buttons of each passage a name of their own. */
export function comparison({ before, after, is_rewritten: isRewritten, blocks }, position) {
  const box = h("div", { class: "compared" });
  const views = { both: () => (isRewritten ? rewritten(blocks) : sideBySide(blocks)), before: () => whole(before), after: () => whole(after) };
  const draw = (name) => fill(box, views[name]());
  draw("both");
  const choice = segments(h("fieldset", { class: "segments small" }, h("legend", { class: "visually-hidden" }, "Text shown")), `view-${position}`, [["both", "Side by side"], ["before", "Original"], ["after", "As sent"]], "both", draw);
  return [h("div", { class: "tools" }, choice, copyButtons({ before, after })), box];
}

function copyButtons({ before, after }) {
  if (!navigator.clipboard) return null;
  const button = (label, text) => h("button", { type: "button", class: "quiet", on: { click: async (event) => {
    const clicked = event.currentTarget;
    await navigator.clipboard.writeText(text).then(() => fill(clicked, "Copied"), () => fill(clicked, "Copying failed"));
    setTimeout(() => fill(clicked, label), 2000);
  } } }, label);
  return [button("Copy original", before), button("Copy text as sent", after)];
}

const headings = () => [h("h4", { class: "left" }, "Original"), h("h4", { class: "right" }, "As sent")];

function sideBySide(blocks) {
  const omitted = blocks.filter(([kind]) => kind === "left-out").reduce((sum, [, before]) => sum + countLines(before), 0);
  const lines = blocks.reduce((sum, [, before]) => sum + countLines(before), 0);
  const rows = alignedRows(blocks).map(({ kind, left, right }) => {
    const [before, after] = [joined(left), joined(right)];
    if (kind === "kept") return [piece(before, "left kept"), piece(after, "right kept", "unchanged")];
    if (kind === "written") return [h("div", { class: "cell left void" }), piece(after, "right new", "written by the compressor", "ins")];
    if (kind === "mixed") return [h("pre", { class: "cell left mixed" }, marked(left, "del", "left-out")), h("pre", { class: `cell right mixed ${right.some(([block, text]) => block === "written" && text) ? "new" : "kept"}` }, marked(right, "ins", "written"))];
    return [before ? piece(before, "left out", "left out", "del") : h("div", { class: "cell left void" }), after.trim() ? h("div", { class: "cell right marker" }, after.trim()) : h("div", { class: "cell right void" })];
  });
  return [h("p", { class: "note" }, `${format.count(omitted)} of ${format.plural(lines, "line")} left out.`), h("div", { class: "sides" }, headings(), rows)];
}

/** Join blocks that begin or end within a line into one row; blocks of whole lines are rows of their own. */
function alignedRows(blocks) {
  const rows = [];
  let [left, right] = [[], []];
  const parts = blocks.flatMap(splitAtLine);
  parts.forEach(([kind, before, after], index) => {
    left.push([kind, before]);
    right.push([kind, after]);
    if (parts[index + 1] && !(endsLine(joined(left)) && endsLine(joined(right)))) return;
    const kinds = new Set(left.map(([block]) => block));
    rows.push({ kind: kinds.size === 1 ? kind : "mixed", left, right });
    [left, right] = [[], []];
  });
  return rows;
}

/** Split an omitted block into its whole lines and the beginning of the line that follows them. */
function splitAtLine([kind, before, after]) {
  const end = before.lastIndexOf("\n") + 1;
  if (kind !== "left-out" || end === 0 || end === before.length) return [[kind, before, after]];
  return [[kind, before.slice(0, end), after], [kind, before.slice(end), ""]];
}

const endsLine = (text) => text === "" || text.endsWith("\n");
const joined = (parts) => parts.map(([, text]) => text).join("");
const marked = (parts, tag, kind) => parts.map(([block, text]) => (block === kind && text ? h(tag, {}, text) : text));

/** Show a rewritten text: its lines have no counterparts, so words are marked instead. */
function rewritten(blocks) {
  const original = blocks.filter(([kind]) => kind !== "written");
  const sent = blocks.filter(([kind]) => kind === "written").map(([, , after]) => after).join("");
  const words = original.map(([kind, before]) => (kind === "left-out" ? h("del", {}, before) : before));
  return [h("p", { class: "note" }, "The text was rewritten. Words marked on the left do not occur on the right."),
    h("div", { class: "sides" }, headings(), h("pre", { class: "cell left tall", tabindex: "0", role: "group", "aria-label": "Original" }, words), h("pre", { class: "cell right tall new", tabindex: "0", role: "group", "aria-label": "As sent" }, sent))];
}

const whole = (text) => h("pre", { class: "cell whole", tabindex: "0", role: "group", "aria-label": "Whole text" }, text);
const countLines = (text) => (text ? text.split("\n").length - (text.endsWith("\n") ? 1 : 0) : 0);

/** Show a piece of text, collapsed if it is long. */
function piece(text, kind, spoken = "", tag = "span") {
  const cell = h("pre", { class: `cell ${kind}` });
  const lines = countLines(text);
  const show = (visible, ...more) => fill(cell, spoken && visuallyHidden(`${spoken}: `), h(tag, {}, visible), ...more);
  const short = lines > MAX_LINES ? `${text.split("\n").slice(0, VISIBLE_LINES).join("\n")}\n` : text.length > MAX_CHARS ? text.slice(0, MAX_CHARS) : null;
  if (short === null) show(text);
  else {
    const rest = lines > MAX_LINES ? `${format.count(lines - VISIBLE_LINES)} more lines` : `${format.count(text.length - MAX_CHARS)} more characters`;
    show(short, h("button", { type: "button", class: "unfold", on: { click: () => show(text) } }, `Show ${rest}`));
  }
  return cell;
}
