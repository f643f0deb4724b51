// The public API of the proxy, as the page `/ask` uses it: files, vector stores and chat completions.

import { ApiError } from "./api.js";

const BASE_URL = new URL("../../v1/", import.meta.url);
const POLL_INTERVAL = 400; // milliseconds
export const keys = { proxy: "", upstream: "" };

async function send(path, { method = "GET", json, form, headers = {}, signal } = {}) {
  const all = { ...headers, ...(keys.proxy && { "x-clara-key": keys.proxy }), ...(json && { "content-type": "application/json" }) };
  let response;
  try {
    response = await fetch(new URL(path, BASE_URL), { method, headers: all, body: json ? JSON.stringify(json) : form, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The proxy does not respond.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ApiError(body?.error?.message ?? `The proxy responded with status ${response.status}.`, response.status);
}

const read = async (path, options) => (await send(path, options)).json();

async function readAll(path) {
  const items = [];
  let after = "";
  for (;;) {
    const page = await read(`${path}?limit=100${after && `&after=${after}`}`);
    items.push(...page.data);
    if (!page.has_more) return items;
    after = page.last_id;
  }
}

export const listStores = () => readAll("vector_stores");
export const createStore = (name) => read("vector_stores", { method: "POST", json: { name } });
export const listStoreFiles = (store) => readAll(`vector_stores/${store}/files`);
export const readFile = (file) => read(`files/${file}`);
export const deleteFile = (file) => read(`files/${file}`, { method: "DELETE" });

export async function search(store, query, signal) {
  return (await read(`vector_stores/${store}/search`, { method: "POST", json: { query, max_num_results: 6 }, signal })).data;
}

/** Return the text of a file of a store, as it was indexed. */
export async function readText(store, file) {
  return (await read(`vector_stores/${store}/files/${file}/content`)).data.map((part) => part.text).join("");
}

/** Upload a file and attach it to a store; resolves with the entry once the file is indexed or has failed. */
export async function addFile(store, file, attributes) {
  const form = new FormData();
  form.set("purpose", "assistants");
  form.set("file", file, attributes.path);
  const { id } = await read("files", { method: "POST", form });
  let entry = await read(`vector_stores/${store}/files`, { method: "POST", json: { file_id: id, attributes } });
  while (entry.status === "in_progress") {
    await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
    entry = await read(`vector_stores/${store}/files/${id}`);
  }
  return entry;
}

/** Yield the pieces of a streamed chat completion. */
export async function* streamChat(model, messages, isLocal, signal) {
  const headers = { "x-clara-mode": "off", ...(!isLocal && keys.upstream && { authorization: `Bearer ${keys.upstream}` }) };
  if (isLocal) delete headers["x-clara-mode"];
  const response = await send("chat/completions", { method: "POST", json: { model, messages, stream: true }, headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    pending += value ?? "";
    const lines = pending.split(/\r?\n/);
    pending = done ? "" : lines.pop();
    for (const line of lines) {
      const data = line.match(/^data:\s*(.*)/)?.[1];
      if (!data || data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message ?? "The model stopped with an error.");
      const text = event.choices?.[0]?.delta?.content;
      if (text) yield text;
    }
    if (done) return;
  }
}
