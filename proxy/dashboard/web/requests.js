// The list of requests: the newest first, filtered, page by page. New ones appear on top by themselves.

import { get } from "./api.js";
import { strip } from "./charts.js";
import { byId, fill, h, unseen } from "./dom.js";
import * as say from "./format.js";
import * as words from "./words.js";

const FIELDS = { model: "Model", project: "Project", mode: "Mode", tool: "Tool", kind: "Kind", outcome: "Outcome", reason: "Left alone because" };
const MODES = ["off", "observe", "extract", "answer", "summary", "latent"];
const LABEL = "label";
const MOST = 1_000; // rows on the page
const WIDE = "(min-width: 820px)";

export class List {
  #rows = [];
  #after = null;
  #full = false;
  #fresh = new Set();
  #filters = {};
  #on;
  #asked = 0;
  #known = false;

  constructor(on) {
    this.#on = on;
  }

  /** Make the form, with what the address says in it. */
  start(said) {
    for (const name of [...Object.keys(FIELDS), LABEL]) if (said[name]) this.#filters[name] = said[name];
    const selects = Object.entries(FIELDS).map(([name, label]) => h("label", {}, h("span", {}, label), h("select", { name, on: { change: (event) => this.#set(name, event.target.value) } })));
    const text = h("input", { name: LABEL, type: "search", placeholder: "exactly as it is", autocomplete: "off", spellcheck: "false", value: this.#filters[LABEL] });
    const clear = h("button", { type: "button", class: "quiet", on: { click: () => this.#clear() } }, "Clear");
    fill(byId("filter"), selects, h("label", {}, h("span", {}, "User, session, key or id"), text), clear);
    byId("filter").addEventListener("submit", (event) => event.preventDefault());
    text.addEventListener("change", () => this.#set(LABEL, text.value.trim()));
    byId("filters").open = matchMedia(WIDE).matches || Object.keys(this.#filters).length > 0;
    this.#options({});
    fill(byId("list"), h("p", { class: "empty" }, "Loading …"));
  }

  /** Set a filter from elsewhere on the page, and go to the list. */
  choose = (name, value) => {
    byId("filters").open = true;
    this.#set(name, value);
    byId("requests").focus({ preventScroll: true });
    byId("requests").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  };

  /** Forget what is listed: it is of another span. */
  reset() {
    this.#rows = [];
    this.#known = false;
    this.#asked += 1;
    byId("list").classList.add("waiting");
  }

  /** Ask for the newest requests, and put those that are new on top; `seen` is the overview. */
  async refresh(seen) {
    this.#options(seen);
    const asked = (this.#asked += 1);
    const page = await get("requests", { span: this.#on.span(), ...this.#filters });
    if (asked !== this.#asked) return;
    const listed = new Set(this.#rows.map((row) => row.id));
    const fresh = page.rows.filter((row) => !listed.has(row.id));
    const meets = page.rows.length === 0 || page.rows.some((row) => listed.has(row.id));
    if (!this.#known || !meets) {
      // Nothing is listed yet, or more has come than a page holds: begin anew, so that there is no gap.
      [this.#rows, this.#after, this.#full] = [page.rows, page.after, page.full];
      this.#fresh = new Set();
    } else {
      if (!fresh.length) return;
      this.#rows = [...fresh, ...this.#rows].sort((one, other) => other.at - one.at).slice(0, MOST);
      this.#fresh = new Set(fresh.map((row) => row.id));
    }
    this.#known = true;
    this.#draw();
  }

  async #more(button) {
    button.disabled = true;
    const asked = (this.#asked += 1);
    try {
      const page = await get("requests", { span: this.#on.span(), ...this.#filters, after: this.#after });
      if (asked !== this.#asked) return;
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
    await this.#anew({ [name]: value });
  }

  async #clear() {
    const gone = Object.fromEntries(Object.keys(this.#filters).map((name) => [name, ""]));
    this.#filters = {};
    byId("filter").elements[LABEL].value = "";
    await this.#anew(gone);
  }

  async #anew(changes) {
    this.#on.changed(changes);
    this.reset();
    try {
      await this.refresh(this.seen ?? {});
    } catch (error) {
      byId("list").classList.remove("waiting");
      fill(byId("list"), h("p", { class: "empty", role: "alert" }, error.message));
    }
  }

  /** Offer what there is in this span, and what is chosen. */
  #options(seen) {
    this.seen = seen;
    const groups = seen.groups ?? {};
    const names = (found) => (found ?? []).map((one) => one.group).filter(Boolean);
    const offered = {
      model: names(groups.model), project: names(groups.project), tool: names(groups.tool), mode: MODES,
      kind: names(groups.kind), outcome: Object.keys(words.OUTCOMES), reason: (seen.newest?.reasons ?? []).map((one) => one.reason),
    };
    for (const [name, known] of Object.entries(offered)) {
      const select = byId("filter").elements[name];
      const value = this.#filters[name] ?? "";
      const all = ["", ...new Set(value ? [...known, value] : known)];
      const key = JSON.stringify(all);
      if (select.dataset.key !== key) {
        select.dataset.key = key;
        fill(select, all.map((one) => h("option", { value: one }, one ? ({ kind: words.kind, outcome: words.outcome }[name]?.(one) ?? one) : "any")));
      }
      select.value = value;
    }
    const active = Object.keys(this.#filters).length;
    fill(byId("filtered"), active ? ` (${active} on)` : "");
  }

  #draw() {
    const box = byId("list");
    box.classList.remove("waiting");
    const narrowed = Object.keys(this.#filters).length > 0;
    fill(byId("listed"), this.#rows.length ? `${say.plural(this.#rows.length, "request")} listed, the newest first` : "");
    const more = this.#after && h("button", { type: "button", class: "more", on: { click: (event) => this.#more(event.currentTarget) } }, this.#full ? "Show more" : "Look further back");
    if (!this.#rows.length) {
      const text = narrowed ? (this.#after ? "None of the newest 20,000 requests fits." : "No request of this span fits.") : "No request in this span yet.";
      const hint = narrowed ? "Other filters, or a longer span, may find some." : ["Point ", h("code", {}, `OPENAI_BASE_URL`), " at ", h("code", {}, new URL("../../v1", import.meta.url).href), " and ask something: it appears here."];
      return fill(box, h("div", { class: "empty" }, h("p", {}, text), h("p", { class: "soft" }, hint)), more);
    }
    const head = [["Time", ""], ["Request", ""], ["Mode", "far"], ["Tokens received → sent", ""], ["Saved", "number"], ["Money saved", "number far"], ["Took", "number far"], ["Outcome", "far"]];
    const most = Math.max(1, ...this.#rows.map((row) => Math.max(row.tokens_received, row.tokens_sent)));
    const open = document.activeElement?.closest?.("#list a")?.hash;
    fill(box, h("table", { class: "requests" }, h("caption", { class: "unseen" }, "Requests, the newest first"),
      h("thead", {}, h("tr", {}, head.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))), h("tbody", {}, this.#rows.map((row) => this.#row(row, most)))), more);
    if (open) [...box.querySelectorAll("a")].find((link) => link.hash === open)?.focus({ preventScroll: true });
  }

  #row(row, most) {
    const now = Date.now() / 1000;
    const link = h("a", { href: `#request=${encodeURIComponent(row.id)}`, on: { click: (event) => { event.preventDefault(); this.#on.opened(row.id); } } }, row.model || row.protocol, unseen(`, ${say.moment(row.at)}`));
    const open = (event) => !event.target.closest("a, button") && !getSelection()?.toString() && this.#on.opened(row.id);
    const bar = row.saved_tokens >= 0 ? [["sent", row.tokens_sent / most], ["saved", row.saved_tokens / most]] : [["sent", row.tokens_received / most], ["added", -row.saved_tokens / most]];
    const observed = row.would_send !== null;
    const saved = observed ? row.tokens_received - row.would_send : row.saved_tokens;
    return h("tr", { class: this.#fresh.has(row.id) ? "fresh" : "", on: { click: open } },
      h("td", { class: "when", title: say.moment(row.at) }, say.time(row.at), now - row.at > 64_800 && h("small", {}, say.day(row.at))),
      h("td", { class: "what" }, link, h("small", {}, [row.project, row.streamed && "streamed", row.shadow_of && "shadow check"].filter(Boolean).join(" · "))),
      h("td", { class: "far" }, row.mode_used),
      h("td", { class: "tokens" }, strip(bar), h("small", {}, `${say.short(row.tokens_received)} → ${say.short(row.tokens_sent)}`)),
      h("td", { class: `number ${tone(saved, observed)}`, title: say.count(saved) }, say.share(saved, row.tokens_received), observed && h("small", {}, "would save")),
      h("td", { class: `number far ${tone(row.saved_cost)}` }, say.money(row.saved_cost)),
      h("td", { class: "number far", title: `${say.millis(row.overhead_ms)} of it ours` }, say.millis(row.latency_ms)),
      h("td", { class: "far chips" }, chips(row)));
  }
}

/** Say in a word or two how a request ended. */
export function chips(row) {
  const good = row.outcome === "ok" || row.outcome === "served";
  const failed = row.failed_open ?? [];
  return [
    h("span", { class: `chip ${good ? "" : "bad"}` }, words.outcome(row.outcome), !good && row.status ? ` (${row.status})` : ""),
    failed.map((reason) => h("span", { class: "chip warn", title: words.reason(reason) }, `failed open: ${reason}`)),
  ];
}

const tone = (value, observed = false) => (observed ? "" : value > 0 ? "good" : value < 0 ? "warn" : "");
