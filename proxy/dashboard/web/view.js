// One request: its figures, its way from received to billed, and its passages as they came and as they were sent.

import { get, part } from "./api.js";
import { strip } from "./charts.js";
import { comparison } from "./compare.js";
import { byId, fill, h, segments } from "./dom.js";
import * as say from "./format.js";
import { steps } from "./panels.js";
import { chips } from "./requests.js";
import * as words from "./words.js";

const FEW = 40; // passages listed at once

export class View {
  #dialog = byId("view");
  #id = null;
  #back = null;

  constructor({ closed }) {
    this.#dialog.addEventListener("close", () => {
      this.#id = null;
      closed();
      this.#back?.focus?.({ preventScroll: true });
    });
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.#dialog.close());
  }

  /** Show a request by its id; null closes. */
  async show(id) {
    if (!id) return this.#dialog.open && this.#dialog.close();
    if (id === this.#id) return;
    this.#id = id;
    if (!this.#dialog.open) {
      this.#back = document.activeElement;
      this.#frame("Request", h("p", { class: "empty", role: "status" }, "Loading …"));
      this.#dialog.showModal();
    }
    try {
      const row = await get(`requests/${part(id)}`);
      if (id === this.#id) this.#frame(row.model || row.path || "Request", ...whole(row));
    } catch (error) {
      if (id === this.#id) this.#frame("Request", h("p", { class: "empty", role: "alert" }, error.status === 404 ? "This request is not in the ledger (any more)." : error.message));
    }
  }

  #frame(title, ...inside) {
    const close = h("button", { type: "button", class: "quiet close", autofocus: true, on: { click: () => this.#dialog.close() } }, "Close");
    fill(this.#dialog, h("div", { class: "sheet" }, h("div", { class: "head" }, h("h2", { id: "view-title" }, title), close), inside));
    close.focus();
  }
}

function whole(row) {
  const failed = Object.keys(row.skipped).filter((reason) => ["late", "busy", "failed", "store-full"].includes(reason));
  const way = h("div", {});
  steps(way, row.steps);
  return [
    h("p", { class: "under" }, say.moment(row.at), " ", chips({ ...row, failed_open: failed }), row.streamed && h("span", { class: "chip" }, "streamed"), row.shadow_of && h("span", { class: "chip" }, "shadow check")),
    h("div", { class: "halves" }, h("section", {}, h("h3", {}, "From received to billed"), way), h("section", {}, h("h3", {}, "What is known of it"), facts(row))),
    passages(row),
  ];
}

function facts(row) {
  const tags = Object.entries(row.tags).map(([name, value]) => `${name}=${value}`).join(", ");
  const observed = row.would_send === null ? null : `${say.count(row.tokens_received - row.would_send)} tokens, had it not only been observed`;
  const spent = row.compressor_tokens ? `, ${say.count(row.compressor_tokens)} tokens` : "";
  const listed = [
    ["Mode", row.mode_asked === row.mode_used ? row.mode_used : `${row.mode_used} (asked for ${row.mode_asked})`],
    ["Would save", observed],
    ["Shortened by", row.engine === "none" ? null : row.engine],
    ["Saved", saved(row)],
    ["Without us", typeof row.cost_without === "number" ? say.money(row.cost_without) : null],
    ["Paid", row.cost === null ? "no price is known, or no bill came" : say.money(row.cost)],
    ["Output", row.billed_output === null ? null : `${say.count(row.billed_output)} tokens${row.billed_reasoning ? `, ${say.count(row.billed_reasoning)} of them reasoning` : ""}`],
    ["Fetched back", row.fetched_back_tokens ? `${say.count(row.fetched_back_tokens)} tokens` : null],
    ["Took", `${say.millis(row.latency_ms)}, ${say.millis(row.overhead_ms)} of it ours`],
    ["Compressors worked", row.compressor_seconds ? `${say.millis(1000 * row.compressor_seconds)}${spent}` : null],
    ["Counted with", row.tokens_estimated ? "a stand-in for the model’s vocabulary" : null],
    ["Path", row.path], ["Project", row.project], ["User", row.user], ["Session", row.session], ["Key", row.key], ["Tags", tags],
    ["Compared with", row.shadow_of], ["Id", row.id],
  ];
  return h("dl", { class: "facts" }, listed.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Say what was saved; in dollars only where somebody has billed the request. */
function saved(row) {
  const tokens = `${say.count(row.saved_tokens)} tokens`;
  const billed = row.outcome === "ok" || row.outcome === "cancelled" || (row.protocol === "compress" && row.saved_tokens !== 0);
  return row.saved_cost !== null ? `${tokens}, ${say.money(row.saved_cost)}` : billed ? `${tokens}, in dollars not known` : tokens;
}

const WHICH = [["changed", "Shortened"], ["alone", "Left alone"], ["all", "All"]];

function passages(row) {
  const listed = row.passages.map((passage, at) => ({ ...passage, at }));
  const fits = { changed: (one) => one.after !== one.before, alone: (one) => one.reason !== "", all: () => true };
  const start = listed.some(fits.changed) ? "changed" : "all";
  const box = h("div", { class: "passages" });
  const draw = (which, most = FEW) => {
    const found = listed.filter(fits[which]);
    const rest = found.length - most;
    const more = rest > 0 && h("button", { type: "button", class: "more", on: { click: () => draw(which, Infinity) } }, `Show ${say.plural(rest, "more passage")}`);
    fill(box, found.length ? found.slice(0, most).map((one) => passage(row, one)) : h("p", { class: "empty" }, listed.length ? "None." : nothing(row)), more);
  };
  draw(start);
  const options = WHICH.map(([name, label]) => [name, `${label} (${say.count(listed.filter(fits[name]).length)})`]);
  const choice = listed.length > 0 && segments(h("fieldset", { class: "segments small" }, h("legend", { class: "unseen" }, "Which passages")), "which", options, start, draw);
  return h("section", {}, h("div", { class: "head" }, h("h3", {}, "Passages"), choice), kept(row), box);
}

const nothing = (row) => (row.skipped["too-short"] ? "Nothing in it is long enough to be shortened." : "No passage was looked at.");

function kept(row) {
  if (!row.passages.some((one) => one.after < one.before)) return null;
  if (row.keep_content === "none") return h("p", { class: "note" }, "Texts are not kept: with ", h("code", {}, "CLARA_KEEP_CONTENT=passages"), " they can be looked at here, before and after, until they expire.");
  return row.kept.length ? null : h("p", { class: "note" }, "The texts of this request were not kept, or have expired.");
}

function passage(row, one) {
  const changed = one.after !== one.before;
  const most = Math.max(one.before, one.after, 1);
  const added = one.after > one.before;
  const bar = added ? [["sent", one.before / most], ["added", (one.after - one.before) / most]] : [["sent", one.after / most], ["saved", (one.before - one.after) / most]];
  const why = one.reason && h("span", { class: "why" }, h("b", {}, one.reason), words.reason(one.reason) === one.reason ? "" : `: ${words.reason(one.reason)}`);
  const sizes = changed ? `${say.count(one.before)} → ${say.count(one.after)} tokens` : `${say.count(one.before)} tokens`;
  const box = h("div", { class: "texts", hidden: true });
  const open = row.kept.includes(one.at) && h("button", { type: "button", class: "quiet", "aria-expanded": "false", on: { click: (event) => unfold(event.currentTarget, box, row.id, one.at) } }, "Before and after");
  return h("article", { class: "passage" },
    h("div", { class: "line" }, h("span", { class: "name" }, words.kind(one.kind), one.tool && h("code", {}, one.tool)), strip(bar),
      h("span", { class: "number" }, sizes), changed && h("span", { class: `number ${added ? "warn" : "good"}` }, added ? say.change(one.after - one.before) : `−${say.share(one.before - one.after, one.before)}`), open),
    why, box);
}

async function unfold(button, box, id, at) {
  box.hidden = !box.hidden;
  button.setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden || box.dataset.filled) return;
  fill(box, h("p", { class: "empty", role: "status" }, "Loading …"));
  try {
    fill(box, comparison(await get(`requests/${part(id)}/passages/${at}`), at));
    box.dataset.filled = "yes";
  } catch (error) {
    fill(box, h("p", { class: "empty", role: "alert" }, error.message));
  }
}
