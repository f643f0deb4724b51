// The page: asks for an overview every few seconds, shows it, and keeps what is chosen in the address.

import { get } from "./api.js";
import { byId, fill, h, segments } from "./dom.js";
import * as say from "./format.js";
import * as panels from "./panels.js";
import { List } from "./requests.js";
import { View } from "./view.js";

const EVERY = 5_000; // milliseconds
const SPANS = [["1h", "1 h"], ["24h", "24 h"], ["7d", "7 d"], ["30d", "30 d"], ["90d", "90 d"], ["all", "All"]];
const METRICS = [["tokens", "Tokens"], ["money", "Money"], ["requests", "Requests"]];
const BY = [["model", "Model"], ["mode", "Mode"], ["tool", "Tool"], ["kind", "Kind"], ["project", "Project"]];

const chosen = { span: "24h", metric: "tokens", by: "model", ...Object.fromEntries(address()) };
if (!SPANS.some(([name]) => name === chosen.span)) chosen.span = "24h";
if (!METRICS.some(([name]) => name === chosen.metric)) chosen.metric = "tokens";
if (!BY.some(([name]) => name === chosen.by)) chosen.by = "model";
let seen = null;
let live = true;
let timer = 0;
let drawn = "";

const list = new List({ span: () => chosen.span, changed: (filters) => remember(filters), opened: (id) => remember({ request: id }, true) });
const view = new View({ closed: () => remember({ request: "" }) });

function address() {
  return new URLSearchParams(location.hash.slice(1));
}

/** Keep what is chosen in the address, so that it can be sent to somebody; `step` makes it something to go back from. */
function remember(changes, step = false) {
  const now = address();
  for (const [name, value] of Object.entries(changes)) value ? now.set(name, value) : now.delete(name);
  const hash = now.size ? `#${now}` : location.pathname;
  if (step) location.hash = hash;
  else history.replaceState(null, "", hash);
}

async function refresh() {
  clearTimeout(timer);
  const span = chosen.span;
  try {
    const found = await get("overview", { span });
    if (span !== chosen.span) return;
    seen = found;
    show();
    await list.refresh(seen);
    trouble(null);
  } catch (error) {
    trouble(error);
  } finally {
    clearTimeout(timer);
    if (live && !document.hidden) timer = setTimeout(refresh, EVERY);
  }
}

/** Show what was seen, unless it is what is shown already: a chart that somebody reads must not flicker. */
function show() {
  const { now, ...rest } = seen;
  const key = JSON.stringify([rest, chosen.metric, chosen.by]);
  byId("live-text").textContent = live ? "Live" : "Paused";
  byId("live").title = `As of ${say.time(now)}. ${live ? "Press to pause" : "Press to go on"}`;
  fill(byId("foot"), `As of ${say.time(now)}. Figures are the ledger’s: what `, h("code", {}, "clara-proxy report"), " says, too.");
  if (key === drawn) return;
  drawn = key;
  panels.figures(seen);
  panels.overTime(seen, chosen.metric);
  panels.steps(byId("steps"), seen.steps);
  panels.groups(seen, chosen.by, list.choose);
  panels.reasons(seen, list.choose);
  panels.latency(seen);
  panels.agreement(seen);
  panels.clara(seen);
  document.body.classList.add("ready");
}

function trouble(error) {
  const box = byId("trouble");
  document.body.classList.toggle("stale", error !== null);
  box.hidden = error === null;
  if (error === null) return;
  if (!(error instanceof Error && "status" in error)) console.error(error);
  const said = "status" in error ? error.message : "Something on this page went wrong; load it again.";
  if (box.textContent !== said) fill(box, said);
  byId("live-text").textContent = "Offline";
}

function choose(name, value) {
  chosen[name] = value;
  remember({ [name]: value });
  if (name === "span") {
    document.body.classList.remove("ready");
    list.reset();
    refresh();
  } else if (seen) show();
}

segments(byId("spans"), "span", SPANS, chosen.span, (value) => choose("span", value));
segments(byId("metric"), "metric", METRICS, chosen.metric, (value) => choose("metric", value));
segments(byId("by"), "by", BY, chosen.by, (value) => choose("by", value));
byId("live").addEventListener("click", () => {
  live = !live;
  byId("live").setAttribute("aria-pressed", String(live));
  if (live) refresh();
  else show();
});
document.addEventListener("visibilitychange", () => !document.hidden && live && refresh());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds what is chosen
  byId("requests").focus();
  byId("requests").scrollIntoView();
});
const follow = () => view.show(address().get("request"));
addEventListener("hashchange", follow);
list.start(Object.fromEntries(address()));
refresh();
follow();
