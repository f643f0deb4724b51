// The panels above the list: what is shown of an overview. Each takes data and returns elements; none asks for data.

import { bars, spread, strip } from "./charts.js";
import { byId, fill, h, unseen } from "./dom.js";
import * as say from "./format.js";
import * as words from "./words.js";

const DAY = 86_400;
const SPAN_NOTE = { "1h": "The last hour.", "24h": "The last 24 hours.", "7d": "Seven days; days are of UTC.", "30d": "30 days; days are of UTC.", "90d": "90 days; days are of UTC.", all: "Since this ledger began; days are of UTC." };

/** Show the figures at a glance. */
export function figures(seen) {
  const { total, newest } = seen;
  const asked = newest.requests;
  const of = newest.all ? "" : ` of the newest ${say.count(asked)}`;
  const overhead = newest.overhead_ms.percentiles;
  const latency = newest.latency_ms.percentiles;
  fill(
    byId("figures"),
    figure("Tokens saved", say.short(total?.saved), [
      total && `${say.share(total.saved, total.received)} of ${say.short(total.received)} received`,
      total?.would_save > 0 && `${say.short(total.would_save)} more, were it not only observed`,
    ], tone(total?.saved), "lead", total && say.count(total.saved)),
    figure("Money saved", say.money(total?.saved_cost), [
      total && paid(total),
      total?.unpriced_savings > 0 && `${say.plural(total.unpriced_savings, "request")} without a known price`,
    ], tone(total?.saved_cost)),
    figure("Requests", say.count(total?.requests ?? 0), [total && (total.failures ? `${say.count(total.failures)} came to nothing` : "all came to something")]),
    figure("Time added", say.millis(overhead?.p50), overhead && [`95 % under ${say.millis(overhead.p95)}`, latency && `answers take ${say.millis(latency.p50)}`]),
    figure("Failed open", say.count(newest.failed_open), [asked > 0 && (newest.failed_open ? `requests${of} with something sent whole` : `nothing went wrong${of}`)], newest.failed_open ? "warn" : ""),
  );
  fill(byId("span-note"), SPAN_NOTE[seen.span], seen.rows_lost > 0 && ` ${say.plural(seen.rows_lost, "row")} of the ledger ${seen.rows_lost === 1 ? "was" : "were"} lost when the proxy was killed.`);
}

function figure(name, value, notes, kind = "", size = "", exact = null) {
  const lines = (notes ?? []).filter(Boolean).map((text) => h("dd", { class: "sub" }, text));
  return h("div", { class: `figure ${size}` }, h("dt", {}, name), h("dd", { class: `value ${kind}`, title: exact }, value), lines);
}

/** Say what was billed; nothing where it is not known, or where only somebody else was billed. */
function paid({ cost, cost_without: without, unpriced_savings: unpriced }) {
  if (typeof cost !== "number") return unpriced > 0 ? null : "nothing was billed";
  if (typeof without === "number") return `of ${say.money(without)} without us; ${say.money(cost)} paid`;
  return cost === 0 && unpriced > 0 ? null : `${say.money(cost)} paid`;
}

const tone = (value) => (value > 0 ? "good" : value < 0 ? "warn" : "");

const METRICS = {
  tokens: {
    title: "Tokens over time",
    legend: [["sent", "sent"], ["saved", "left out"], ["added", "sent beyond what came"]],
    parts: (one) => (one.saved >= 0 ? [["sent", one.sent], ["saved", one.saved]] : [["sent", one.received], ["added", -one.saved]]),
    tip: (one) => [["Received", say.count(one.received)], ["Sent", say.count(one.sent)], ["Saved", `${say.count(one.saved)} (${say.share(one.saved, one.received)})`]],
    ticks: say.short,
  },
  money: {
    title: "Money saved over time",
    legend: [["saved", "saved"], ["added", "lost"]],
    parts: (one) => (one.saved_cost >= 0 ? [["saved", one.saved_cost]] : [["added", one.saved_cost]]),
    tip: (one) => [["Saved", say.sum(one.saved_cost, one)], ["Paid", say.sum(one.cost, one)]],
    ticks: say.money,
    known: (one) => typeof one.saved_cost === "number",
    unknown: (one) => one.unpriced_savings ?? 0,
    without: ({ total }) => (!(total?.unpriced_savings > 0) ? "Nothing was billed in this span." : total.cost > 0 ? "What was saved in dollars is not known in this span." : "No price is known for any request in this span."),
  },
  requests: {
    title: "Requests over time",
    legend: [["sent", "came to something"], ["bad", "came to nothing"]],
    parts: (one) => [["sent", one.requests - one.failures], ["bad", one.failures]],
    tip: (one) => [["Requests", say.count(one.requests)], ["Came to nothing", say.count(one.failures)]],
    ticks: say.short,
  },
};

/** Show the chart over time of a metric: `tokens`, `money` or `requests`. */
export function overTime(seen, metric) {
  const box = byId("time");
  if (!seen.series.length) return empty(box, "No request in this span yet.");
  const how = METRICS[metric];
  if (how.known && !seen.series.some(how.known)) return empty(box, how.without(seen));
  const data = everyBar(seen).map((one) => ({ label: say.bar(one.at, seen.width), parts: how.parts(one), tip: how.tip(one) }));
  bars(box, data, { ...how, columns: [seen.width >= DAY ? "Day (UTC)" : "From", ...how.tip(NOTHING).map(([name]) => name)] });
  const missing = how.unknown ? seen.series.reduce((total, one) => total + how.unknown(one), 0) : 0;
  if (missing) box.append(h("p", { class: "note" }, `Without ${say.plural(missing, "request")} whose price is not known.`));
}

const NOTHING = { received: 0, sent: 0, saved: 0, saved_cost: 0, cost: 0, requests: 0, failures: 0 };
const MOST_BARS = 400;

/** Put empty bars where nothing was asked, so that time is drawn evenly. */
function everyBar({ series, width, start, now, span }) {
  const known = new Map(series.map((one) => [Math.round(one.at), one]));
  const all = [];
  let at = span === "all" ? series[0].at : Math.ceil(start / width) * width;
  at = Math.max(at, now - MOST_BARS * width);
  for (; at <= now; at += width) all.push(known.get(Math.round(at)) ?? { ...NOTHING, at });
  return all;
}

/** Show the way from received to billed. */
export function steps(box, way) {
  if (!way || !way.received) return empty(box, "No tokens in this span yet.");
  const most = Math.max(way.received, way.sent, way.billed, way.sent + way.added) || 1;
  const part = (name, value) => [name, value / most];
  const counted = way.sent - way.unbilled;
  const rows = [
    row("Received", way.received, strip([part("sent", way.received)])),
    way.left_out ? row("Left out", -way.left_out, strip([part("saved", way.left_out)], (way.received - way.left_out) / most), "good") : null,
    way.added ? row("Tools offered, and asking again", way.added, strip([part("added", way.added)], (way.received - way.left_out) / most), "warn") : null,
    row("Sent", way.sent, strip([part("sent", way.sent)])),
    way.unbilled ? row("Not billed: no usage came, or answered here", -way.unbilled, strip([part("faint", way.unbilled)], counted / most)) : null,
    way.uncounted ? row("Only the provider counted it (embeddings, say)", way.uncounted, strip([part("faint", way.uncounted)], counted / most)) : null,
    way.drift ? row("Counted otherwise by the provider", way.drift, strip([part(way.drift > 0 ? "added" : "faint", Math.abs(way.drift))], Math.min(counted, way.billed) / most), way.drift > 0 ? "warn" : "") : null,
    way.billed ? row("Billed input", way.billed, strip([part("sent", way.full_price), part("cache-write", way.cache_write), part("cache", way.cache_read)])) : null,
    way.cache_read ? row("of it read from the cache", way.cache_read, null, "", "cache") : null,
    way.cache_write ? row("of it written to the cache", way.cache_write, null, "", "cache-write") : null,
  ];
  const body = h("table", { class: "bars steps" }, h("caption", { class: "unseen" }, "From tokens received to tokens billed"), h("thead", { class: "unseen" }, h("tr", {}, ["step", "drawn", "tokens"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows));
  fill(box, body);
}

function row(name, value, bar, kind = "", swatch = "") {
  const shown = kind || value < 0 ? say.change(value) : say.short(value);
  const label = [swatch && h("i", { class: `swatch ${swatch}` }), name];
  const span = bar ? { scope: "row" } : { scope: "row", colspan: 2, class: "sub" };
  return h("tr", {}, h("th", span, label), bar && h("td", { class: "bar" }, bar), h("td", { class: `number ${kind}`, title: say.count(value) }, shown));
}

const unpriced = (one) => (typeof one.saved_cost !== "number" && one.unpriced_savings > 0 ? "no price known" : null); // a dash leaves room for names

const BY = { model: "Model", mode: "Mode", tool: "Tool", kind: "Kind", project: "Project" };
const NAMELESS = { model: "(none)", tool: "(no tool)", project: "(no project)" };

/** Show the largest groups; a click on a name filters the list. */
export function groups(seen, by, choose) {
  const box = byId("groups");
  const found = seen.groups[by].filter((one) => one.received > 0 || one.sent > 0);
  if (!found.length) return empty(box, by === "project" ? "No request in this span yet." : by === "tool" || by === "kind" ? "No passage long enough to be looked at yet." : "No request in this span yet.");
  const most = Math.max(1, ...found.map((one) => Math.max(one.received, one.sent)));
  const priced = found.some((one) => "saved_cost" in one && by !== "tool" && by !== "kind");
  const head = [BY[by], "", "Received", "Saved", ...(priced ? ["Money"] : [])];
  const body = found.map((one) => {
    const label = (by === "kind" ? words.kind(one.group) : one.group) || NAMELESS[by] || "(none)";
    const name = one.group ? h("button", { type: "button", class: "link", on: { click: () => choose(by, one.group) } }, label) : h("span", { class: "soft" }, label);
    const bar = one.saved >= 0 ? [["sent", one.sent / most], ["saved", one.saved / most]] : [["sent", one.received / most], ["added", -one.saved / most]];
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "bar" }, strip(bar)), h("td", { class: "number", title: say.count(one.received) }, say.short(one.received)),
      h("td", { class: `number ${tone(one.saved)}`, title: say.count(one.saved) }, say.short(one.saved), h("small", {}, one.received ? ` ${say.share(one.saved, one.received)}` : "")),
      priced && h("td", { class: `number ${tone(one.saved_cost)}`, title: unpriced(one) }, say.money(one.saved_cost), unpriced(one) && unseen(` ${unpriced(one)}`)));
  });
  const more = seen.more[by] ?? 0;
  fill(box, h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `By ${BY[by].toLowerCase()}` },
    h("table", { class: "bars groups" }, h("caption", { class: "unseen" }, `Tokens by ${BY[by].toLowerCase()}`), h("thead", {}, h("tr", {}, head.map((text, at) => h("th", { scope: "col", class: at > 1 ? "number" : "" }, text || unseen("drawn"))))), h("tbody", {}, body))),
    more > 0 && h("p", { class: "note" }, `and ${say.plural(more, "smaller one")}: clara-proxy report --by ${by}`));
}

/** Show why passages were left alone. */
export function reasons(seen, choose) {
  const box = byId("reasons");
  const found = seen.newest.reasons;
  if (!found.length) return empty(box, "No passage was looked at in this span yet.");
  const most = Math.max(...found.map((one) => one.count));
  const bad = new Set(seen.newest.fail_open);
  const body = found.map(({ reason, count }) =>
    h("tr", {}, h("th", { scope: "row" }, h("button", { type: "button", class: "link", on: { click: () => choose("reason", reason) } }, reason), h("small", { class: "why" }, words.reason(reason) === reason ? "" : words.reason(reason))),
      h("td", { class: "bar" }, strip([[bad.has(reason) ? "bad" : "faint", count / most]])), h("td", { class: "number" }, say.short(count))));
  fill(box, h("table", { class: "bars why" }, h("caption", { class: "unseen" }, "Passages left alone, by reason"), h("thead", { class: "unseen" }, h("tr", {}, ["reason", "drawn", "passages"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, body)), sample(seen));
}

/** Show how long answers take, and how much of it is ours. */
export function latency(seen) {
  fill(byId("latency"), h("div", { class: "halves" }, spread("Added by the proxy", seen.newest.overhead_ms, say.millis), spread("Until the answer ended", seen.newest.latency_ms, say.millis)), sample(seen));
}

/** Show whether the provider counts as we do, by model, and whether shortened requests are answered as whole ones are. */
export function agreement(seen) {
  const models = (seen.groups.model ?? []).flatMap((one) => [
    { name: one.group, ours: one.drift_sent, theirs: one.drift_billed, guessed: false },
    { name: one.group, ours: one.drift_sent_estimated, theirs: one.drift_billed_estimated, guessed: true },
  ]).filter((one) => one.ours > 0);
  const body = models.map(({ name, ours, theirs, guessed }) => {
    const drift = (theirs - ours) / ours;
    const far = Math.abs(drift) > DRIFT;
    return h("tr", {}, h("th", { scope: "row" }, name, guessed && h("small", {}, " by a stand-in vocabulary")), h("td", { class: "number", title: say.count(ours) }, say.short(ours)), h("td", { class: "number", title: say.count(theirs) }, say.short(theirs)),
      h("td", { class: `number ${far ? "warn" : ""}` }, drift > 0 ? "+" : "", say.share(theirs - ours, ours), h("small", {}, far ? " drifts" : "")));
  });
  const counts = body.length
    ? h("table", { class: "bars groups" }, h("caption", { class: "unseen" }, "Tokens sent, by our count and by the provider’s"), h("thead", {}, h("tr", {}, ["Model", "Our count", "The bill’s", "Difference"].map((name, at) => h("th", { scope: "col", class: at ? "number" : "" }, name)))), h("tbody", {}, body))
    : h("p", { class: "empty" }, "No bill came in this span yet.");
  fill(byId("agreement"), counts, checks(seen.shadows));
}

const DRIFT = 0.01; // share beyond which a provider's count is said to drift from ours

function checks(found) {
  if (!found) return h("p", { class: "note" }, "No shadow checks in this span: CLARA_SHADOW_RATE makes some.");
  const of = ({ same, asked, low, high }) => (asked ? `${say.share(same, asked)} of ${say.count(asked)} (95 %: ${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)} %)` : "none asked for any");
  const facts = [["Shadow checks", `${say.count(found.checks)}${found.failed ? `, ${say.count(found.failed)} of them failed` : ""}, ${price(found)}`], ["Same tools called", of(found.tools)], ["Same arguments", of(found.arguments)], ["Texts alike", found.text === null ? null : say.share(found.text, 1)]];
  return h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function price({ cost, unpriced }) {
  if (typeof cost !== "number") return "at a price that is not known";
  return `for ${say.money(cost)}${unpriced ? ` without ${say.count(unpriced)} whose price is not known` : ""}`;
}

/** Show how CLaRa is. */
export function clara({ clara: now, auto, keep_content: keeps }) {
  const facts = now
    ? [["Model", now.model], ["State", now.loaded ? "loaded" : "not loaded: it loads when it is needed"], ["Runs on", now.device], ["Weights", now.quantization], ["Compression", now.subfolder], ["Waiting, running", `${say.count(now.waiting)}, ${say.count(now.running)}`], ["Memory", now.memory_bytes && [`${say.bytes(now.memory_bytes.process)} process`, now.memory_bytes.device ? `, ${say.bytes(now.memory_bytes.device)} device` : ""].join("")], ["Has worked", `${say.count(now.busy_seconds)} s`], ...Object.entries(now.totals ?? {}).map(([name, value]) => [name.replaceAll("_", " "), say.count(value)])]
    : [["Model", "none: CLARA_MODEL names one"]];
  const rest = [["Mode auto means", auto], ["Texts kept to be looked at", keeps === "none" ? "none (CLARA_KEEP_CONTENT)" : keeps]];
  fill(byId("clara"), h("dl", { class: "facts" }, [...facts, ...rest].filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))))));
}

export const sample = (seen) => !seen.newest.all && h("p", { class: "note" }, `Of the newest ${say.count(seen.newest.requests)} requests of this span.`);

function empty(box, text) {
  fill(box, h("p", { class: "empty" }, text));
}
