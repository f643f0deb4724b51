// The page `/ask`: choose a store, add files, ask, and see the passages on which the answer rests.

import { fetchData } from "./api.js";
import * as api from "./ask_api.js";
import { FilePanel } from "./ask_files.js";
import { byId, fill, h, segments } from "./dom.js";

const MAX_SHOWN = 200_000; // characters of a document
const SHORT_PASSAGE = 330; // characters that are shown without a fade
const read = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const write = (name, value) => { try { localStorage.setItem(name, value); } catch { /* storage is disabled */ } };

let options = null;
let engine = "upstream";
let running = null; // the AbortController of a question
const panel = new FilePanel({ onError: showError });

function showError(error) {
  const box = byId("error-box");
  box.hidden = error === null;
  if (error === null) return;
  const isKnown = "status" in error;
  if (!isKnown) console.error(error);
  fill(box, isKnown ? error.message : "This page has an internal error. Reload it.");
}

async function start() {
  try {
    options = await fetchData("ask");
  } catch (error) {
    showError(error);
    return;
  } finally {
    document.body.classList.add("ready");
  }
  if (!options.memory) {
    for (const element of document.querySelectorAll("main button, main select, main input, main textarea")) element.disabled = true;
    fill(byId("error-box"), "Memory is off. Start the proxy with ", h("code", {}, "CLARA_MEMORY=true"), " to keep files and vector stores here.");
    byId("error-box").hidden = false;
    return;
  }
  byId("model").value = read("clara-ask-model") ?? options.default_model;
  const choices = [["upstream", "Upstream"], ...(options.clara ? [["clara", "clara"]] : [])];
  segments(byId("engine"), "engine", choices, engine, setEngine);
  setEngine(engine);
  byId("proxy-key-field").hidden = !options.needs_key;
  byId("upstream-key-field").hidden = options.has_upstream_key;
  byId("keys").hidden = !options.needs_key && options.has_upstream_key;
  byId("keys").open = options.needs_key;
  fill(byId("keys-note"), "Keys stay in this page until it is closed.", options.needs_key ? " Files belong to the key of this proxy." : "");
  await loadStores(read("clara-ask-store"));
}

async function loadStores(chosen) {
  const select = byId("store");
  try {
    const stores = options.needs_key && !api.keys.proxy ? [] : await api.listStores();
    const items = stores.map((store) => h("option", { value: store.id }, store.name || store.id));
    fill(select, items.length ? items : h("option", { value: "" }, "No store yet"));
    select.disabled = stores.length === 0;
    if (stores.some((store) => store.id === chosen)) select.value = chosen;
    await panel.select(select.value);
    showError(null);
  } catch (error) {
    showError(error);
  }
}

function setEngine(name) {
  engine = name;
  byId("model-field").hidden = name === "clara";
  const notes = {
    upstream: "The question and the passages go to the upstream model. The files stay here.",
    clara: options.clara === "clara-nano" ? "Answered on this machine by clara-nano, a small model trained on synthetic facts: check its answers." : "Answered by your CLaRa model; nothing goes to the upstream.",
  };
  byId("engine-note").textContent = notes[name];
}

async function ask(question) {
  running?.abort();
  const controller = (running = new AbortController());
  const store = byId("store").value;
  showError(null);
  setRunning(true);
  byId("result").hidden = false;
  fill(byId("answer"));
  fill(byId("passages"));
  byId("answer-note").textContent = "Searching…";
  try {
    const passages = await api.search(store, question, controller.signal);
    fill(byId("passages"), passages.map((passage, index) => buildPassage(store, passage, index + 1)));
    if (!passages.length) return void (byId("answer-note").textContent = "No passage fits the question.");
    byId("answer-note").textContent = "Answering…";
    await streamAnswer(question, passages, controller.signal);
    byId("answer-note").textContent = byId("answer").textContent ? "" : "The model gave no answer.";
  } catch (error) {
    byId("answer-note").textContent = error.name === "AbortError" ? "Stopped." : "";
    if (error.name !== "AbortError") showError(error);
  } finally {
    if (running === controller) setRunning(false);
  }
}

async function streamAnswer(question, passages, signal) {
  const isLocal = engine === "clara";
  const model = isLocal ? "clara" : byId("model").value.trim() || options.default_model;
  if (!isLocal) write("clara-ask-model", model);
  let text = "";
  for await (const piece of api.streamChat(model, buildMessages(question, passages, isLocal), isLocal, signal)) {
    text += piece;
    drawAnswer(text, passages.length);
  }
}

/** Return the chat: for the local model one message per passage, which it reads as a document. */
function buildMessages(question, passages, isLocal) {
  if (isLocal) return [...passages.map((passage) => ({ role: "system", content: textOf(passage) })), { role: "user", content: question }];
  const escape = (text) => text.replace(/<(?=\s*\/?\s*passage)/gi, "&lt;");
  const quoteName = (name) => escape(name.replaceAll('"', "'").replace(/\s+/g, " "));
  const quoted = passages.map((passage, index) => `<passage number="${index + 1}" file="${quoteName(passage.filename)}">\n${escape(textOf(passage))}\n</passage>`);
  return [{ role: "system", content: options.instructions }, { role: "user", content: `${quoted.join("\n")}\n\nQuestion: ${question}` }];
}

const textOf = (passage) => passage.content.map((part) => part.text).join("\n");

/** Draw the text; a citation such as [2] becomes a button that leads to its passage. */
function drawAnswer(text, count) {
  const parts = text.split(/(\[\d{1,2}\])/).map((part) => {
    const number = Number(part.match(/^\[(\d+)\]$/)?.[1]);
    if (!number || number > count) return part;
    byId(`passage-${number}`)?.classList.add("cited");
    return h("button", { type: "button", class: "cite", "aria-label": `Passage ${number}`, on: { click: () => showPassage(number) } }, String(number));
  });
  fill(byId("answer"), parts);
}

function showPassage(number) {
  for (const item of document.querySelectorAll(".sources li")) item.classList.toggle("shown", item.id === `passage-${number}`);
  const item = byId(`passage-${number}`);
  item.scrollIntoView({ block: "nearest" });
  item.querySelector("button").focus({ preventScroll: true });
}

function buildPassage(store, passage, number) {
  const text = textOf(passage);
  const open = h("button", { type: "button", class: "link", "aria-label": `Show passage ${number} in ${passage.filename}`, on: { click: () => openDocument(store, passage, text) } }, passage.filename);
  return h("li", { id: `passage-${number}` }, h("div", { class: "from" }, h("span", { class: "chip" }, String(number)), open), h("p", { class: text.length < SHORT_PASSAGE ? "short" : null }, text));
}

async function openDocument(store, passage, text) {
  try {
    const whole = await api.readText(store, passage.file_id);
    const position = whole.indexOf(text);
    const first = whole.length > MAX_SHOWN ? Math.max(0, position - MAX_SHOWN / 2) : 0;
    const last = Math.min(whole.length, first + MAX_SHOWN);
    const mark = position < 0 ? null : h("mark", {}, text);
    byId("document-title").textContent = passage.filename;
    byId("document-note").textContent = last - first < whole.length ? "A long document: only the part around the passage is shown." : "";
    fill(byId("document-text"), ...(mark ? [whole.slice(first, position), mark, whole.slice(position + text.length, last)] : [whole.slice(first, last)]));
    byId("document").showModal();
    mark?.scrollIntoView({ block: "center" });
  } catch (error) {
    showError(error);
  }
}

function setRunning(isRunning) {
  byId("send").disabled = isRunning;
  byId("stop").hidden = !isRunning;
  byId("answer").setAttribute("aria-busy", String(isRunning));
  if (!isRunning) running = null;
}

byId("store").addEventListener("change", async (event) => {
  write("clara-ask-store", event.target.value);
  await panel.select(event.target.value).catch(showError);
});
byId("create").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const store = await api.createStore(byId("store-name").value.trim());
    byId("store-name").value = "";
    write("clara-ask-store", store.id);
    await loadStores(store.id);
    byId("pick").focus();
  } catch (error) {
    showError(error);
  }
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!byId("store").value) showError(Object.assign(new Error("Create a store and add files first."), { status: 0 }));
  else if (question) ask(question);
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running?.abort());
byId("close").addEventListener("click", () => byId("document").close());
byId("proxy-key").addEventListener("change", async (event) => {
  api.keys.proxy = event.target.value.trim();
  await loadStores(read("clara-ask-store"));
});
byId("upstream-key").addEventListener("change", (event) => { api.keys.upstream = event.target.value.trim(); });
start();
