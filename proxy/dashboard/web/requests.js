// The list of requests, newest first: filters, pages, and new requests on top.

import { fetchData } from "./api.js";
import { strip } from "./charts.js";
import { byId, fill, h, visuallyHidden } from "./dom.js";
import * as format from "./format.js";
import * as labels from "./labels.js";

const FIELDS = { model: "Model", project: "Project", mode: "Mode", tool: "Tool", kind: "Kind", outcome: "Outcome", reason: "Reason" };
const MODES = ["off", "observe", "extract", "answer", "summary", "latent", "prune", "cache"];
const LABEL = "label";
const MAX_ROWS = 1_000;
const WIDE = "(min-width: 820px)";

export class RequestList {
  #rows = [];
  #after = null;
  #full = false;
  #fresh = new Set();
  #filters = {};
  #handlers;
  #version = 0;
  #loaded = false;

  /** `handlers`: `span()` returns the selected span; `onFilter(changes)` and `onOpen(id)` are called on user input. */
  constructor(handlers) {
    this.#handlers = handlers;
  }

  /** Create the filter form, with the filters of the address. */
  start(address) {
    for (const name of [...Object.keys(FIELDS), LABEL]) if (address[name]) this.#filters[name] = address[name];
    const selects = Object.entries(FIELDS).map(([name, label]) => h("label", {}, h("span", {}, label), h("select", { name, on: { change: (event) => this.#set(name, event.target.value) } })));
    const text = h("input", { name: LABEL, type: "search", placeholder: "exact value", autocomplete: "off", spellcheck: "false", value: this.#filters[LABEL] });
    const clear = h("button", { type: "button", class: "quiet", on: { click: () => this.#clear() } }, "Clear");
    fill(byId("filter"), selects, h("label", {}, h("span", {}, "User, session, key or id"), text), clear);
    byId("filter").addEventListener("submit", (event) => event.preventDefault());
    text.addEventListener("change", () => this.#set(LABEL, text.value.trim()));
    byId("filters").open = matchMedia(WIDE).matches || Object.keys(this.#filters).length > 0;
    this.#fillOptions({});
    fill(byId("list"), h("p", { class: "empty" }, "Loading …"));
  }

  /** Set a filter from elsewhere on the page, and scroll to the list. */
  select = (name, value) => {
    byId("filters").open = true;
    this.#set(name, value);
    byId("requests").focus({ preventScroll: true });
    byId("requests").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  };

  /** Drop the rows, because the span or the filters changed. */
  reset() {
    this.#rows = [];
    this.#loaded = false;
    this.#version += 1;
    byId("list").classList.add("waiting");
  }

  /** Fetch the newest requests and add the new ones on top. */
  async refresh(overview) {
    this.#fillOptions(overview);
    const version = (this.#version += 1);
    const page = await fetchData("requests", { span: this.#handlers.span(), ...this.#filters });
    if (version !== this.#version) return;
    const known = new Set(this.#rows.map((row) => row.id));
    const fresh = page.rows.filter((row) => !known.has(row.id));
    const overlaps = page.rows.length === 0 || page.rows.some((row) => known.has(row.id));
    if (!this.#loaded || !overlaps) {
      // The first page, or more new requests than a page holds: start over, so that the list has no gap.
      [this.#rows, this.#after, this.#full] = [page.rows, page.after, page.full];
      this.#fresh = new Set();
    } else {
      if (!fresh.length) return;
      this.#rows = [...fresh, ...this.#rows].sort((row, other) => other.at - row.at).slice(0, MAX_ROWS);
      this.#fresh = new Set(fresh.map((row) => row.id));
    }
    this.#loaded = true;
    this.#draw();
  }

  async #loadMore(button) {
    button.disabled = true;
    const version = (this.#version += 1);
    try {
      const page = await fetchData("requests", { span: this.#handlers.span(), ...this.#filters, after: this.#after });
      if (version !== this.#version) return;
      const last = this.#rows.length;
      this.#rows = [...this.#rows, ...page.rows];
      [this.#after, this.#full] = [page.after, page.full];
      this.#draw();
      byId("list").querySelectorAll("tbody a")[last]?.focus();
    } catch (error) {
      fill(button, `${error.message} Try again`);
    } finally {
      button.disabled = false;
    }
  }

  async #set(name, value) {
    if (value) this.#filters[name] = value;
    else delete this.#filters[name];
    await this.#reload({ [name]: value });
  }

  async #clear() {
    const changes = Object.fromEntries(Object.keys(this.#filters).map((name) => [name, ""]));
    this.#filters = {};
    byId("filter").elements[LABEL].value = "";
    await this.#reload(changes);
  }

  async #reload(changes) {
    this.#handlers.onFilter(changes);
    this.reset();
    try {
      await this.refresh(this.overview ?? {});
    } catch (error) {
      byId("list").classList.remove("waiting");
      fill(byId("list"), h("p", { class: "empty", role: "alert" }, error.message));
    }
  }

  /** Fill the filters with the values that occur in this span, and the selected ones. */
  #fillOptions(overview) {
    this.overview = overview;
    const groups = overview.groups ?? {};
    const names = (totals) => (totals ?? []).map((total) => total.group).filter(Boolean);
    const options = {
      model: names(groups.model), project: names(groups.project), tool: names(groups.tool), mode: MODES,
      kind: names(groups.kind), outcome: Object.keys(labels.OUTCOMES), reason: (overview.newest?.reasons ?? []).map((entry) => entry.reason),
    };
    for (const [name, values] of Object.entries(options)) {
      const select = byId("filter").elements[name];
      const selected = this.#filters[name] ?? "";
      const all = ["", ...new Set(selected ? [...values, selected] : values)];
      const key = JSON.stringify(all);
      if (select.dataset.key !== key) {
        select.dataset.key = key;
        fill(select, all.map((value) => h("option", { value }, value ? ({ kind: labels.kind, outcome: labels.outcome }[name]?.(value) ?? value) : "any")));
      }
      select.value = selected;
    }
    const active = Object.keys(this.#filters).length;
    fill(byId("filter-count"), active ? ` (${active} active)` : "");
  }

  #draw() {
    const box = byId("list");
    box.classList.remove("waiting");
    const isFiltered = Object.keys(this.#filters).length > 0;
    fill(byId("list-note"), this.#rows.length ? `${format.plural(this.#rows.length, "request")} shown, newest first` : "");
    const more = this.#after && h("button", { type: "button", class: "more", on: { click: (event) => this.#loadMore(event.currentTarget) } }, this.#full ? "Show more" : "Search older requests");
    if (!this.#rows.length) {
      const text = isFiltered ? (this.#after ? "None of the newest 20,000 requests matches the filters." : "No request in this span matches the filters.") : "No requests in this span yet.";
      const hint = isFiltered ? "Change the filters or select a longer span." : ["Set ", h("code", {}, `OPENAI_BASE_URL=${new URL("../../v1", import.meta.url).href}`), " in a client and send a request. It appears here."];
      return fill(box, h("div", { class: "empty" }, h("p", {}, text), h("p", { class: "soft" }, hint)), more);
    }
    const head = [["Time", ""], ["Request", ""], ["Mode", "far"], ["Tokens received → sent", ""], ["Saved", "number"], ["Money saved", "number far"], ["Latency", "number far"], ["Outcome", "far"]];
    const most = Math.max(1, ...this.#rows.map((row) => Math.max(row.tokens_received, row.tokens_sent)));
    const focused = document.activeElement?.closest?.("#list a")?.hash;
    fill(box, h("table", { class: "requests" }, h("caption", { class: "visually-hidden" }, "Requests, newest first"),
      h("thead", {}, h("tr", {}, head.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))), h("tbody", {}, this.#rows.map((row) => this.#row(row, most)))), more);
    if (focused) [...box.querySelectorAll("a")].find((link) => link.hash === focused)?.focus({ preventScroll: true });
  }

  #row(row, most) {
    const now = Date.now() / 1000;
    const link = h("a", { href: `#request=${encodeURIComponent(row.id)}`, on: { click: (event) => { event.preventDefault(); this.#handlers.onOpen(row.id); } } }, row.model || row.protocol, visuallyHidden(`, ${format.moment(row.at)}`));
    const open = (event) => !event.target.closest("a, button") && !getSelection()?.toString() && this.#handlers.onOpen(row.id);
    const bar = row.saved_tokens >= 0 ? [["sent", row.tokens_sent / most], ["saved", row.saved_tokens / most]] : [["sent", row.tokens_received / most], ["added", -row.saved_tokens / most]];
    const isObserved = row.would_send !== null;
    const saved = isObserved ? row.tokens_received - row.would_send : row.saved_tokens;
    return h("tr", { class: this.#fresh.has(row.id) ? "fresh" : "", on: { click: open } },
      h("td", { class: "when", title: format.moment(row.at) }, format.time(row.at), now - row.at > 64_800 && h("small", {}, format.day(row.at))),
      h("td", { class: "what" }, link, h("small", {}, [row.project, row.streamed && "streamed", row.shadow_of && "shadow check"].filter(Boolean).join(" · "))),
      h("td", { class: "far" }, row.mode_used),
      h("td", { class: "tokens" }, strip(bar), h("small", {}, `${format.short(row.tokens_received)} → ${format.short(row.tokens_sent)}`)),
      h("td", { class: `number ${tone(saved, isObserved)}`, title: format.count(saved) }, format.share(saved, row.tokens_received), isObserved && h("small", {}, "possible")),
      h("td", { class: `number far ${tone(row.saved_cost)}` }, format.money(row.saved_cost)),
      h("td", { class: "number far", title: `${format.millis(row.overhead_ms)} of it in the proxy` }, format.millis(row.latency_ms)),
      h("td", { class: "far chips" }, chips(row)));
  }
}

/** Show the outcome of a request, and its fail-open reasons. */
export function chips(row) {
  const isGood = row.outcome === "ok" || row.outcome === "served";
  const reasons = row.failed_open ?? [];
  return [
    h("span", { class: `chip ${isGood ? "" : "bad"}` }, labels.outcome(row.outcome), !isGood && row.status ? ` (${row.status})` : ""),
    reasons.map((reason) => h("span", { class: "chip warn", title: labels.reason(reason) }, `failed open: ${reason}`)),
  ];
}

const tone = (value, isObserved = false) => (isObserved ? "" : value > 0 ? "good" : value < 0 ? "warn" : "");
