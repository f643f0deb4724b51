// One request: its numbers, its steps from received to billed, and its passages with their texts.

import { encodeSegment, fetchData } from "./api.js";
import { strip } from "./charts.js";
import { comparison } from "./compare.js";
import { byId, fill, h, segments } from "./dom.js";
import * as format from "./format.js";
import * as labels from "./labels.js";
import { steps } from "./panels.js";
import { chips } from "./requests.js";

const FAIL_OPEN_REASONS = ["late", "busy", "failed", "store-full"];
const PAGE_PASSAGES = 40;

export class RequestView {
  #dialog = byId("view");
  #id = null;
  #previousFocus = null;

  constructor({ onClose }) {
    this.#dialog.addEventListener("close", () => {
      this.#id = null;
      onClose();
      this.#previousFocus?.focus?.({ preventScroll: true });
    });
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
  }

  /** Show a request by its id; null closes the view. */
  async show(id) {
    if (!id) return this.#dialog.open && this.#dialog.close();
    if (id === this.#id) return;
    this.#id = id;
    if (!this.#dialog.open) {
      this.#previousFocus = document.activeElement;
      this.#fill("Request", h("p", { class: "empty", role: "status" }, "Loading …"));
      this.#dialog.showModal();
    }
    try {
      const row = await fetchData(`requests/${encodeSegment(id)}`);
      if (id === this.#id) this.#fill(row.model || row.path || "Request", ...content(row));
    } catch (error) {
      if (id === this.#id) this.#fill("Request", h("p", { class: "empty", role: "alert" }, error.status === 404 ? "The ledger does not contain this request. It may have been pruned." : error.message));
    }
  }

  #fill(title, ...children) {
    const close = h("button", { type: "button", class: "quiet close", autofocus: true, on: { click: () => this.#dialog.close() } }, "Close");
    fill(this.#dialog, h("div", { class: "sheet" }, h("div", { class: "head" }, h("h2", { id: "view-title" }, title), close), children));
    close.focus();
  }
}

function content(row) {
  const failedOpen = Object.keys(row.skipped).filter((reason) => FAIL_OPEN_REASONS.includes(reason));
  const box = h("div", {});
  steps(box, row.steps);
  return [
    h("p", { class: "under" }, format.moment(row.at), " ", chips({ ...row, failed_open: failedOpen }), row.streamed && h("span", { class: "chip" }, "streamed"), row.shadow_of && h("span", { class: "chip" }, "shadow check")),
    h("div", { class: "halves" }, h("section", {}, h("h3", {}, "From received to billed tokens"), box), h("section", {}, h("h3", {}, "Details"), facts(row))),
    passages(row),
  ];
}

function facts(row) {
  const tags = Object.entries(row.tags).map(([name, value]) => `${name}=${value}`).join(", ");
  const possible = row.would_send === null ? null : `${format.count(row.tokens_received - row.would_send)} tokens (observe mode)`;
  const compressorTokens = row.compressor_tokens ? `, ${format.count(row.compressor_tokens)} tokens` : "";
  const values = [
    ["Mode", row.mode_asked === row.mode_used ? row.mode_used : `${row.mode_used} (requested: ${row.mode_asked})`],
    ["Possible saving", possible],
    ["Compressor", row.engine === "none" ? null : row.engine],
    ["Saved", saved(row)],
    ["Cost without proxy", typeof row.cost_without === "number" ? format.money(row.cost_without) : null],
    ["Cost", row.cost === null ? "unknown: no price, or no bill" : format.money(row.cost)],
    ["Cost of the way back", row.expand_cost ? `${format.money(row.expand_cost)} for ${format.count(row.expand_tokens)} tokens` : null],
    ["Other parts of the bill", row.bill_parts.map((part) => `${part.name} ${part.cost === null ? "unknown" : format.money(part.cost)}`).join(", ")],
    ["Service tier", row.service_tier],
    ["Unknown in the usage", Object.keys(row.unknown_usage).join(", ")],
    ["Cleared by the provider", row.cleared_tokens ? `${format.count(row.cleared_tokens)} tokens` : null],
    ["Cache miss", row.cache_miss && `${row.cache_miss}: ${labels.CACHE_MISSES[row.cache_miss]}`],
    ["Output", row.billed_output === null ? null : `${format.count(row.billed_output)} tokens${row.billed_reasoning ? `, ${format.count(row.billed_reasoning)} of them reasoning` : ""}`],
    ["Fetched back", row.fetched_back_tokens ? `${format.count(row.fetched_back_tokens)} tokens` : null],
    ["Latency", `${format.millis(row.latency_ms)}, ${format.millis(row.overhead_ms)} of it in the proxy`],
    ["Compressor time", row.compressor_seconds ? `${format.millis(1000 * row.compressor_seconds)}${compressorTokens}` : null],
    ["Token counts", row.tokens_estimated ? "estimated: the model’s vocabulary is unknown" : null],
    ["Path", row.path], ["Project", row.project], ["User", row.user], ["Session", row.session], ["Key", row.key], ["Tags", tags],
    ["Shadow check of", row.shadow_of], ["Id", row.id],
  ];
  return h("dl", { class: "facts" }, values.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Describe the tokens and dollars saved; dollars only if the request was billed. */
function saved(row) {
  const tokens = `${format.count(row.saved_tokens)} tokens`;
  const isBilled = row.outcome === "ok" || row.outcome === "cancelled" || (row.protocol === "compress" && row.saved_tokens !== 0);
  return row.saved_cost !== null ? `${tokens}, ${format.money(row.saved_cost)}` : isBilled ? `${tokens}, dollars unknown` : tokens;
}

const FILTERS = [["changed", "Compressed"], ["unchanged", "Unchanged"], ["all", "All"]];

function passages(row) {
  const entries = row.passages.map((passage, position) => ({ ...passage, position }));
  const matches = { changed: (entry) => entry.after !== entry.before, unchanged: (entry) => entry.reason !== "", all: () => true };
  const initial = entries.some(matches.changed) ? "changed" : "all";
  const box = h("div", { class: "passages" });
  const draw = (filter, limit = PAGE_PASSAGES) => {
    const selected = entries.filter(matches[filter]);
    const rest = selected.length - limit;
    const more = rest > 0 && h("button", { type: "button", class: "more", on: { click: () => draw(filter, Infinity) } }, `Show ${format.plural(rest, "more passage")}`);
    fill(box, selected.length ? selected.slice(0, limit).map((entry) => passageCard(row, entry)) : h("p", { class: "empty" }, entries.length ? "None." : emptyText(row)), more);
  };
  draw(initial);
  const options = FILTERS.map(([name, label]) => [name, `${label} (${format.count(entries.filter(matches[name]).length)})`]);
  const choice = entries.length > 0 && segments(h("fieldset", { class: "segments small" }, h("legend", { class: "visually-hidden" }, "Passages shown")), "which", options, initial, draw);
  return h("section", {}, h("div", { class: "head" }, h("h3", {}, "Passages"), choice), textsNote(row), box);
}

const emptyText = (row) => (row.skipped["too-short"] ? "No passage is long enough to compress." : "This request has no passages.");

function textsNote(row) {
  if (!row.passages.some((passage) => passage.after < passage.before)) return null;
  if (row.keep_content === "none") return h("p", { class: "note" }, "The proxy does not store texts. Set ", h("code", {}, "CLARA_KEEP_CONTENT=passages"), " to compare originals with the texts sent until they expire.");
  return row.kept.length ? null : h("p", { class: "note" }, "The texts of this request were not stored or have expired.");
}

function passageCard(row, passage) {
  const isChanged = passage.after !== passage.before;
  const isLonger = passage.after > passage.before;
  const most = Math.max(passage.before, passage.after, 1);
  const bar = isLonger ? [["sent", passage.before / most], ["added", (passage.after - passage.before) / most]] : [["sent", passage.after / most], ["saved", (passage.before - passage.after) / most]];
  const reason = passage.reason && h("span", { class: "why" }, h("b", {}, passage.reason), labels.reason(passage.reason) === passage.reason ? "" : `: ${labels.reason(passage.reason)}`);
  const sizes = isChanged ? `${format.count(passage.before)} → ${format.count(passage.after)} tokens` : `${format.count(passage.before)} tokens`;
  const box = h("div", { class: "texts", hidden: true });
  const open = row.kept.includes(passage.position) && h("button", { type: "button", class: "quiet", "aria-expanded": "false", on: { click: (event) => toggleTexts(event.currentTarget, box, row.id, passage.position) } }, "Before and after");
  return h("article", { class: "passage" },
    h("div", { class: "line" }, h("span", { class: "name" }, labels.kind(passage.kind), passage.tool && h("code", {}, passage.tool)), strip(bar),
      h("span", { class: "number" }, sizes), isChanged && h("span", { class: `number ${isLonger ? "warn" : "good"}` }, isLonger ? format.change(passage.after - passage.before) : `−${format.share(passage.before - passage.after, passage.before)}`), open),
    reason, box);
}

async function toggleTexts(button, box, id, position) {
  box.hidden = !box.hidden;
  button.setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden || box.dataset.filled) return;
  fill(box, h("p", { class: "empty", role: "status" }, "Loading …"));
  try {
    fill(box, comparison(await fetchData(`requests/${encodeSegment(id)}/passages/${position}`), position));
    box.dataset.filled = "yes";
  } catch (error) {
    fill(box, h("p", { class: "empty", role: "alert" }, error.message));
  }
}
