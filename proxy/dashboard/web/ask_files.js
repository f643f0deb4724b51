// The files of a store: chosen, dropped, uploaded one after the other, listed, deleted.

import * as api from "./ask_api.js";
import { byId, fill, h } from "./dom.js";

export class FilePanel {
  #store = "";
  #isBusy = false;
  #names = new Map(); // file id -> name, of files without the attribute `path`

  constructor({ onError }) {
    this.onError = onError;
    byId("pick").addEventListener("click", () => byId("files").click());
    byId("pick-folder").addEventListener("click", () => byId("folder").click());
    for (const id of ["files", "folder"]) {
      byId(id).addEventListener("change", async (event) => {
        const files = [...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
        event.target.value = "";
        await this.add(files);
      });
    }
    const drop = byId("drop");
    for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", async (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      await this.add(await listDropped(event.dataTransfer));
    });
  }

  async select(store) {
    this.#store = store;
    for (const id of ["pick", "pick-folder"]) byId(id).disabled = !store;
    fill(byId("failures"));
    byId("progress-text").textContent = store ? "" : "Create a store first.";
    await this.refresh();
  }

  async refresh() {
    const list = byId("file-list");
    const entries = this.#store ? await api.listStoreFiles(this.#store) : [];
    list.hidden = entries.length === 0;
    if (!entries.length) return entries;
    fill(list.querySelector("summary"), `${entries.length.toLocaleString("en")} ${entries.length === 1 ? "file" : "files"}`);
    const shown = entries.slice(0, 200);
    const names = await Promise.all(shown.map((entry) => this.#readName(entry)));
    fill(list.querySelector("ul"), shown.map((entry, index) => this.#item(entry, names[index])), entries.length > shown.length && h("li", { class: "soft" }, `and ${entries.length - shown.length} more`));
    return entries;
  }

  /** Upload files; a file with the path of an older one replaces it, an unchanged one is skipped. */
  async add(files) {
    if (this.#isBusy || !files.length) return;
    if (!this.#store) return void (byId("progress-text").textContent = "Create a store first.");
    const store = this.#store;
    this.#isBusy = true;
    fill(byId("failures"));
    byId("progress-box").hidden = false;
    const counts = { added: 0, unchanged: 0, failed: 0 };
    try {
      const known = new Map((await api.listStoreFiles(store)).map((entry) => [entry.attributes?.path, entry]));
      for (const [index, { file, path }] of files.entries()) {
        byId("progress").max = files.length;
        byId("progress").value = index;
        byId("progress-text").textContent = `Adding ${index + 1} of ${files.length}: ${path}`;
        counts[await this.#addOne(store, file, path, known.get(path))] += 1;
      }
      const parts = Object.entries(counts).filter(([, count]) => count).map(([name, count]) => `${count} ${name}`);
      byId("progress-text").textContent = `${parts.join(", ")}.`;
      if (store === this.#store) await this.refresh();
    } catch (error) {
      byId("progress-text").textContent = "";
      this.onError(error);
    } finally {
      byId("progress-box").hidden = true;
      this.#isBusy = false;
    }
  }

  async #addOne(store, file, path, old) {
    try {
      const digest = await computeDigest(file);
      if (old && digest && old.attributes.digest === digest && old.status === "completed") return "unchanged";
      const entry = await api.addFile(store, file, { path: path.slice(0, 500), ...(digest && { digest }) });
      if (entry.status === "completed") {
        if (old) await api.deleteFile(old.id);
        return "added";
      }
      this.#fail(path, entry.last_error?.message ?? entry.status);
      await api.deleteFile(entry.id);
    } catch (error) {
      if (error.status !== 413 && error.status !== 400) throw error;
      this.#fail(path, error.message);
    }
    return "failed";
  }

  #fail(path, reason) {
    byId("failures").append(h("li", {}, `${path}: ${reason}`));
  }

  async #readName(entry) {
    if (entry.attributes?.path) return entry.attributes.path;
    if (!this.#names.has(entry.id)) this.#names.set(entry.id, (await api.readFile(entry.id).catch(() => null))?.filename ?? entry.id);
    return this.#names.get(entry.id);
  }

  #item(entry, name) {
    const note = entry.status === "failed" ? h("span", { class: "chip bad" }, "failed") : entry.status !== "completed" && h("span", { class: "chip" }, "indexing");
    const remove = h("button", { type: "button", class: "quiet", "aria-label": `Delete ${name}`, on: { click: () => this.#remove(entry.id, name) } }, "Delete");
    return h("li", {}, h("span", {}, name, " ", note || ""), remove);
  }

  async #remove(id, name) {
    try {
      await api.deleteFile(id);
      byId("progress-text").textContent = `Deleted ${name}.`;
      await this.refresh();
      byId("file-list").querySelector("summary").focus();
    } catch (error) {
      this.onError(error);
    }
  }
}

/** Return the files of a drop, with those in folders; hidden ones are skipped. */
async function listDropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  const files = [];
  const visit = async (entry) => {
    if (entry.name.startsWith(".")) return;
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      files.push({ file, path: entry.fullPath.replace(/^\//, "") });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!batch.length) return;
      for (const child of batch) await visit(child);
    }
  };
  for (const entry of entries) await visit(entry);
  return files;
}

/** Return the SHA-256 of a file in hexadecimal, or "" where the browser offers none (over http from another machine). */
async function computeDigest(file) {
  if (!globalThis.crypto?.subtle) return "";
  const hash = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
