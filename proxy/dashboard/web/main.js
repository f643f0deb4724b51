// The page: polls the overview, draws it, and keeps the selection in the address.

import { fetchData } from "./api.js";
import { byId, fill, h, segments } from "./dom.js";
import * as format from "./format.js";
import * as panels from "./panels.js";
import { RequestList } from "./requests.js";
import { RequestView } from "./view.js";

const POLL_INTERVAL = 5_000; // milliseconds
const SPANS = [["1h", "1 h"], ["24h", "24 h"], ["7d", "7 d"], ["30d", "30 d"], ["90d", "90 d"], ["all", "All"]];
const METRICS = [["tokens", "Tokens"], ["money", "Money"], ["requests", "Requests"]];
const GROUPINGS = [["model", "Model"], ["mode", "Mode"], ["tool", "Tool"], ["kind", "Kind"], ["project", "Project"]];

const selection = { span: "24h", metric: "tokens", by: "model", ...Object.fromEntries(readAddress()) };
if (!SPANS.some(([name]) => name === selection.span)) selection.span = "24h";
if (!METRICS.some(([name]) => name === selection.metric)) selection.metric = "tokens";
if (!GROUPINGS.some(([name]) => name === selection.by)) selection.by = "model";
let overview = null;
let live = true;
let timer = 0;
let drawn = "";

const list = new RequestList({ span: () => selection.span, onFilter: (filters) => updateAddress(filters), onOpen: (id) => updateAddress({ request: id }, true) });
const view = new RequestView({ onClose: () => updateAddress({ request: "" }) });

function readAddress() {
  return new URLSearchParams(location.hash.slice(1));
}

/** Write the selection into the address, so that it can be shared; `addEntry` adds an entry to the browser's history. */
function updateAddress(changes, addEntry = false) {
  const parameters = readAddress();
  for (const [name, value] of Object.entries(changes)) value ? parameters.set(name, value) : parameters.delete(name);
  const hash = parameters.size ? `#${parameters}` : location.pathname;
  if (addEntry) location.hash = hash;
  else history.replaceState(null, "", hash);
}

async function refresh() {
  clearTimeout(timer);
  const span = selection.span;
  try {
    const data = await fetchData("overview", { span });
    if (span !== selection.span) return;
    overview = data;
    draw();
    await list.refresh(overview);
    showError(null);
  } catch (error) {
    showError(error);
  } finally {
    clearTimeout(timer);
    if (live && !document.hidden) timer = setTimeout(refresh, POLL_INTERVAL);
  }
}

/** Draw the overview unless nothing changed: redrawing would make a chart flicker. */
function draw() {
  const { now, ...rest } = overview;
  const key = JSON.stringify([rest, selection.metric, selection.by]);
  byId("live-text").textContent = live ? "Live" : "Paused";
  byId("live").title = `Updated at ${format.time(now)}. ${live ? "Click to pause updates" : "Click to resume updates"}`;
  fill(byId("foot"), `Updated at ${format.time(now)}. `, h("code", {}, "clara-proxy report"), " prints the same numbers from the ledger.");
  if (key === drawn) return;
  drawn = key;
  panels.figures(overview);
  panels.overTime(overview, selection.metric);
  panels.steps(byId("steps"), overview.steps);
  panels.groups(overview, selection.by, list.select);
  panels.reasons(overview, list.select);
  panels.latency(overview);
  panels.agreement(overview);
  panels.clara(overview);
  document.body.classList.add("ready");
}

function showError(error) {
  const box = byId("error-box");
  document.body.classList.toggle("stale", error !== null);
  box.hidden = error === null;
  if (error === null) return;
  if (!(error instanceof Error && "status" in error)) console.error(error);
  const message = "status" in error ? error.message : "This page has an internal error. Reload it.";
  if (box.textContent !== message) fill(box, message);
  byId("live-text").textContent = "Offline";
}

function select(name, value) {
  selection[name] = value;
  updateAddress({ [name]: value });
  if (name === "span") {
    document.body.classList.remove("ready");
    list.reset();
    refresh();
  } else if (overview) draw();
}

segments(byId("spans"), "span", SPANS, selection.span, (value) => select("span", value));
segments(byId("metric"), "metric", METRICS, selection.metric, (value) => select("metric", value));
segments(byId("by"), "by", GROUPINGS, selection.by, (value) => select("by", value));
byId("live").addEventListener("click", () => {
  live = !live;
  byId("live").setAttribute("aria-pressed", String(live));
  if (live) refresh();
  else draw();
});
document.addEventListener("visibilitychange", () => !document.hidden && live && refresh());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash of the address holds the selection
  byId("requests").focus();
  byId("requests").scrollIntoView();
});
const showSelectedRequest = () => view.show(readAddress().get("request"));
addEventListener("hashchange", showSelectedRequest);
list.start(Object.fromEntries(readAddress()));
refresh();
showSelectedRequest();
