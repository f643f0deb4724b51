// The panels above the list. Each draws a part of the overview; none fetches data.

import { bars, histogram, strip } from "./charts.js";
import { byId, fill, h, visuallyHidden } from "./dom.js";
import * as format from "./format.js";
import * as labels from "./labels.js";

const DAY = 86_400; // seconds
const MAX_DRIFT = 0.01; // largest share by which a provider's count may differ from the proxy's without a warning
const MAX_BARS = 400;
const SPAN_NOTES = { "1h": "The last hour.", "24h": "The last 24 hours.", "7d": "The last 7 days (UTC).", "30d": "The last 30 days (UTC).", "90d": "The last 90 days (UTC).", all: "All days of the ledger (UTC)." };
const NO_REQUESTS = "No requests in this span yet.";

/** Show the headline numbers. */
export function figures(overview) {
  const { total, newest } = overview;
  const scope = newest.all ? "" : ` of the newest ${format.count(newest.requests)}`;
  const overhead = newest.overhead_ms.percentiles;
  const latency = newest.latency_ms.percentiles;
  fill(
    byId("figures"),
    figure("Tokens saved", format.short(total?.saved), [
      total && `${format.share(total.saved, total.received)} of ${format.short(total.received)} received`,
      total?.would_save > 0 && `+${format.short(total.would_save)} possible (observe mode)`,
    ], tone(total?.saved), "lead", total && format.count(total.saved)),
    figure("Money saved", format.money(total?.saved_cost), [
      total && costNote(total),
      total?.expand_cost > 0 && `${format.money(total.expand_cost)} of it for the way back (clara_expand)`,
      total?.unpriced_savings > 0 && `${format.plural(total.unpriced_savings, "request")} without a known price`,
    ], tone(total?.saved_cost)),
    figure("Requests", format.count(total?.requests ?? 0), [
      total && (total.failures ? `${format.count(total.failures)} failed` : "none failed"),
      total?.cache_misses > 0 && `${format.plural(total.cache_misses, "cache miss", "cache misses")}, ${format.count(total.cache_misses_ours)} after a change by the proxy`,
      total?.unknown_usages > 0 && `${format.count(total.unknown_usages)} with unknown amounts in their usage`,
    ], total?.cache_misses_ours > 0 ? "warn" : ""),
    figure("Overhead", format.millis(overhead?.p50), overhead && [`median; p95 ${format.millis(overhead.p95)}`, latency && `median latency ${format.millis(latency.p50)}`]),
    figure("Compression failures", format.count(newest.failed_open), [newest.requests > 0 && (newest.failed_open ? `requests${scope} with an unchanged passage after a failure` : `no compression failed${scope && ` in the newest ${format.count(newest.requests)} requests`}`)], newest.failed_open ? "warn" : ""),
  );
  fill(byId("span-note"), SPAN_NOTES[overview.span], overview.rows_lost > 0 && ` ${format.plural(overview.rows_lost, "ledger row")} ${overview.rows_lost === 1 ? "was" : "were"} lost when the proxy was killed.`);
}

function figure(name, value, notes, kind = "", size = "", exact = null) {
  const lines = (notes ?? []).filter(Boolean).map((text) => h("dd", { class: "sub" }, text));
  return h("div", { class: `figure ${size}` }, h("dt", {}, name), h("dd", { class: `value ${kind}`, title: exact }, value), lines);
}

/** Describe the cost; null if it is unknown. */
function costNote({ cost, cost_without: baseline, unpriced_savings: unpriced }) {
  if (typeof cost !== "number") return unpriced > 0 ? null : "no costs";
  if (typeof baseline === "number") return `${format.money(cost)} paid, ${format.money(baseline)} without proxy`;
  return cost === 0 && unpriced > 0 ? null : `${format.money(cost)} paid`;
}

const tone = (value) => (value > 0 ? "good" : value < 0 ? "warn" : "");

const METRICS = {
  tokens: {
    title: "Tokens over time",
    legend: [["sent", "sent"], ["saved", "saved"], ["added", "added by the proxy"]],
    parts: (bar) => (bar.saved >= 0 ? [["sent", bar.sent], ["saved", bar.saved]] : [["sent", bar.received], ["added", -bar.saved]]),
    tip: (bar) => [["Received", format.count(bar.received)], ["Sent", format.count(bar.sent)], ["Saved", `${format.count(bar.saved)} (${format.share(bar.saved, bar.received)})`]],
    ticks: format.short,
  },
  money: {
    title: "Money saved over time",
    legend: [["saved", "saved"], ["added", "lost"]],
    parts: (bar) => (bar.saved_cost >= 0 ? [["saved", bar.saved_cost]] : [["added", bar.saved_cost]]),
    tip: (bar) => [["Saved", format.sum(bar.saved_cost, bar)], ["Paid", format.sum(bar.cost, bar)]],
    ticks: format.money,
    isKnown: (bar) => typeof bar.saved_cost === "number",
    countUnpriced: (bar) => bar.unpriced_savings ?? 0,
    emptyText: ({ total }) => (!(total?.unpriced_savings > 0) ? "Nothing was billed in this span." : total.cost > 0 ? "The savings in dollars are unknown in this span." : "No price is known for any request in this span."),
  },
  requests: {
    title: "Requests over time",
    legend: [["sent", "succeeded"], ["bad", "failed"]],
    parts: (bar) => [["sent", bar.requests - bar.failures], ["bad", bar.failures]],
    tip: (bar) => [["Requests", format.count(bar.requests)], ["Failed", format.count(bar.failures)]],
    ticks: format.short,
  },
};

/** Show the chart of a metric over time: `tokens`, `money` or `requests`. */
export function overTime(overview, name) {
  const box = byId("time");
  if (!overview.series.length) return empty(box, NO_REQUESTS);
  const metric = METRICS[name];
  if (metric.isKnown && !overview.series.some(metric.isKnown)) return empty(box, metric.emptyText(overview));
  const data = fillGaps(overview).map((bar) => ({ label: format.bar(bar.at, overview.width), parts: metric.parts(bar), tip: metric.tip(bar) }));
  bars(box, data, { ...metric, columns: [overview.width >= DAY ? "Day (UTC)" : "From", ...metric.tip(EMPTY_BAR).map(([column]) => column)] });
  const unpriced = metric.countUnpriced ? overview.series.reduce((total, bar) => total + metric.countUnpriced(bar), 0) : 0;
  if (unpriced) box.append(h("p", { class: "note" }, `${format.plural(unpriced, "request")} without a known price ${unpriced === 1 ? "is" : "are"} not included.`));
}

const EMPTY_BAR = { received: 0, sent: 0, saved: 0, saved_cost: 0, cost: 0, requests: 0, failures: 0 };

/** Add empty bars for times without requests. */
function fillGaps({ series, width, start, now, span }) {
  const byStart = new Map(series.map((bar) => [Math.round(bar.at), bar]));
  const filled = [];
  const first = span === "all" ? series[0].at : Math.ceil(start / width) * width;
  for (let at = Math.max(first, now - MAX_BARS * width); at <= now; at += width) filled.push(byStart.get(Math.round(at)) ?? { ...EMPTY_BAR, at });
  return filled;
}

/** Show the steps from received to billed tokens. */
export function steps(box, counts) {
  if (!counts || !counts.received) return empty(box, "No tokens in this span yet.");
  const most = Math.max(counts.received, counts.sent, counts.billed, counts.sent + counts.added) || 1;
  const part = (name, value) => [name, value / most];
  const counted = counts.sent - counts.unbilled;
  const rows = [
    stepRow("Received", counts.received, strip([part("sent", counts.received)])),
    counts.left_out ? stepRow("Left out", -counts.left_out, strip([part("saved", counts.left_out)], (counts.received - counts.left_out) / most), "good") : null,
    counts.added ? stepRow("Added: tool definitions and repeated calls", counts.added, strip([part("added", counts.added)], (counts.received - counts.left_out) / most), "warn") : null,
    stepRow("Sent", counts.sent, strip([part("sent", counts.sent)])),
    counts.unbilled ? stepRow("Not billed: no usage reported, or answered locally", -counts.unbilled, strip([part("faint", counts.unbilled)], counted / most)) : null,
    counts.uncounted ? stepRow("Billed but not counted here (embeddings, for example)", counts.uncounted, strip([part("faint", counts.uncounted)], counted / most)) : null,
    counts.drift ? stepRow("Difference from the provider’s count", counts.drift, strip([part(counts.drift > 0 ? "added" : "faint", Math.abs(counts.drift))], Math.min(counted, counts.billed) / most), counts.drift > 0 ? "warn" : "") : null,
    counts.billed ? stepRow("Billed input", counts.billed, strip([part("sent", counts.full_price), part("cache-write", counts.cache_write), part("cache", counts.cache_read)])) : null,
    counts.cache_read ? stepRow("read from the cache", counts.cache_read, null, "", "cache") : null,
    counts.cache_write ? stepRow("written to the cache", counts.cache_write, null, "", "cache-write") : null,
  ];
  fill(box, h("table", { class: "bars steps" }, h("caption", { class: "visually-hidden" }, "From received to billed tokens"), hiddenHead("step", "chart", "tokens"), h("tbody", {}, rows)));
}

function stepRow(name, value, bar, kind = "", swatch = "") {
  const text = kind || value < 0 ? format.change(value) : format.short(value);
  const label = [swatch && h("i", { class: `swatch ${swatch}` }), name];
  const cell = bar ? { scope: "row" } : { scope: "row", colspan: 2, class: "sub" };
  return h("tr", {}, h("th", cell, label), bar && h("td", { class: "bar" }, bar), h("td", { class: `number ${kind}`, title: format.count(value) }, text));
}

const hiddenHead = (...names) => h("thead", { class: "visually-hidden" }, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));
const visibleHead = (names, firstNumber) => h("thead", {}, h("tr", {}, names.map((name, index) => h("th", { scope: "col", class: index >= firstNumber ? "number" : "" }, name || visuallyHidden("chart")))));

const priceNote = (group) => (typeof group.saved_cost !== "number" && group.unpriced_savings > 0 ? "no price known" : null); // a title: the column is narrow

const GROUPINGS = { model: "Model", mode: "Mode", tool: "Tool", kind: "Kind", project: "Project" };
const EMPTY_NAMES = { model: "(none)", tool: "(no tool)", project: "(no project)" };

/** Show the largest groups; a click on a name filters the list. */
export function groups(overview, by, onSelect) {
  const box = byId("groups");
  const isByPassage = by === "tool" || by === "kind";
  const entries = overview.groups[by].filter((group) => group.received > 0 || group.sent > 0);
  if (!entries.length) return empty(box, isByPassage ? "No passages long enough to compress yet." : NO_REQUESTS);
  const most = Math.max(1, ...entries.map((group) => Math.max(group.received, group.sent)));
  const isPriced = !isByPassage && entries.some((group) => "saved_cost" in group);
  const body = entries.map((group) => {
    const label = (by === "kind" ? labels.kind(group.group) : group.group) || EMPTY_NAMES[by] || "(none)";
    const name = group.group ? h("button", { type: "button", class: "link", on: { click: () => onSelect(by, group.group) } }, label) : h("span", { class: "soft" }, label);
    const bar = group.saved >= 0 ? [["sent", group.sent / most], ["saved", group.saved / most]] : [["sent", group.received / most], ["added", -group.saved / most]];
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "bar" }, strip(bar)), h("td", { class: "number", title: format.count(group.received) }, format.short(group.received)),
      h("td", { class: `number ${tone(group.saved)}`, title: format.count(group.saved) }, format.short(group.saved), h("small", {}, group.received ? ` ${format.share(group.saved, group.received)}` : "")),
      isPriced && h("td", { class: `number ${tone(group.saved_cost)}`, title: priceNote(group) }, format.money(group.saved_cost), priceNote(group) && visuallyHidden(` ${priceNote(group)}`)));
  });
  const more = overview.more[by] ?? 0;
  const title = `Tokens by ${GROUPINGS[by].toLowerCase()}`;
  fill(box, h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": title },
    h("table", { class: "bars groups" }, h("caption", { class: "visually-hidden" }, title), visibleHead([GROUPINGS[by], "", "Received", "Saved", ...(isPriced ? ["Money"] : [])], 2), h("tbody", {}, body))),
    more > 0 && h("p", { class: "note" }, `${format.plural(more, "smaller group")} not shown; run `, h("code", {}, `clara-proxy report --by ${by}`), " for all."));
}

/** Show the number of passages left unchanged by reason; a click on a reason filters the list. */
export function reasons(overview, onSelect) {
  const box = byId("reasons");
  const entries = overview.newest.reasons;
  if (!entries.length) return empty(box, "No passages in this span yet.");
  const most = Math.max(...entries.map((entry) => entry.count));
  const failOpen = new Set(overview.newest.fail_open);
  const body = entries.map(({ reason, count }) =>
    h("tr", {}, h("th", { scope: "row" }, h("button", { type: "button", class: "link", on: { click: () => onSelect("reason", reason) } }, reason), h("small", { class: "why" }, labels.reason(reason) === reason ? "" : labels.reason(reason))),
      h("td", { class: "bar" }, strip([[failOpen.has(reason) ? "bad" : "faint", count / most]])), h("td", { class: "number" }, format.short(count))));
  fill(box, h("table", { class: "bars why" }, h("caption", { class: "visually-hidden" }, "Passages left unchanged, by reason"), hiddenHead("reason", "chart", "passages"), h("tbody", {}, body)), sampleNote(overview));
}

/** Show the latency of requests and the part that the proxy adds. */
export function latency(overview) {
  fill(byId("latency"), h("div", { class: "halves" }, histogram("Added by the proxy", overview.newest.overhead_ms, format.millis), histogram("Until the end of the response", overview.newest.latency_ms, format.millis)), sampleNote(overview));
}

/** Show the difference between the proxy's and the provider's token counts by model, and the results of shadow checks. */
export function agreement(overview) {
  const models = (overview.groups.model ?? []).flatMap((group) => [
    { name: group.group, ours: group.drift_sent, theirs: group.drift_billed, isEstimated: false },
    { name: group.group, ours: group.drift_sent_estimated, theirs: group.drift_billed_estimated, isEstimated: true },
  ]).filter((model) => model.ours > 0);
  const body = models.map(({ name, ours, theirs, isEstimated }) => {
    const drift = (theirs - ours) / ours;
    const isLarge = Math.abs(drift) > MAX_DRIFT;
    return h("tr", {}, h("th", { scope: "row" }, name, isEstimated && h("small", {}, " estimated")), h("td", { class: "number", title: format.count(ours) }, format.short(ours)), h("td", { class: "number", title: format.count(theirs) }, format.short(theirs)),
      h("td", { class: `number ${isLarge ? "warn" : ""}` }, drift > 0 ? "+" : "", format.share(theirs - ours, ours), h("small", {}, isLarge ? " large" : "")));
  });
  const counts = body.length
    ? h("table", { class: "bars groups" }, h("caption", { class: "visually-hidden" }, "Tokens sent, counted by the proxy and by the provider"), visibleHead(["Model", "Proxy", "Provider", "Difference"], 1), h("tbody", {}, body))
    : h("p", { class: "empty" }, "No bills in this span yet.");
  fill(byId("agreement"), counts, shadowChecks(overview.shadows));
}

function shadowChecks(checks) {
  if (!checks) return h("p", { class: "note" }, "No shadow checks in this span. Set ", h("code", {}, "CLARA_SHADOW_RATE"), " to compare answers with and without compression.");
  const rate = ({ same, asked, low, high }) => (asked ? `${format.share(same, asked)} of ${format.count(asked)} (95 % interval: ${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)} %)` : "no tool calls");
  const facts = [["Shadow checks", `${format.count(checks.checks)}${checks.failed ? `, ${format.count(checks.failed)} of them failed` : ""}; ${shadowCost(checks)}`], ["Same tools called", rate(checks.tools)], ["Same arguments", rate(checks.arguments)], ["Text similarity", checks.text === null ? null : format.share(checks.text, 1)]];
  return factList(facts);
}

function shadowCost({ cost, unpriced }) {
  if (typeof cost !== "number") return "cost unknown";
  return `cost ${format.money(cost)}${unpriced ? `, without ${format.count(unpriced)} of unknown price` : ""}`;
}

/** Show the status of the local CLaRa model. */
export function clara({ clara: status, auto, keep_content: keepContent }) {
  const facts = status
    ? [["Model", status.model], ["State", status.loaded ? "loaded" : "not loaded; loads on first use"], ["Device", status.device], ["Weights", status.quantization], ["Compression rate", status.subfolder], ["Waiting, running jobs", `${format.count(status.waiting)}, ${format.count(status.running)}`], ["Memory", status.memory_bytes && [`${format.bytes(status.memory_bytes.process)} process`, status.memory_bytes.device ? `, ${format.bytes(status.memory_bytes.device)} device` : ""].join("")], ["Busy time", `${format.count(status.busy_seconds)} s`], ...Object.entries(status.totals ?? {}).map(([name, value]) => [name.replaceAll("_", " "), format.count(value)])]
    : [["Model", "none; set CLARA_MODEL to use one"]];
  fill(byId("clara"), factList([...facts, ["Mode auto uses", auto], ["Stored texts", keepContent === "none" ? "none; set CLARA_KEEP_CONTENT to store them" : keepContent]]));
}

function factList(facts) {
  return h("dl", { class: "facts" }, facts.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}

const sampleNote = (overview) => !overview.newest.all && h("p", { class: "note" }, `Based on the newest ${format.count(overview.newest.requests)} requests of this span.`);

function empty(box, text) {
  fill(box, h("p", { class: "empty" }, text));
}
