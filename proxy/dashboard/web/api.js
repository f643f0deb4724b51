// Asks the proxy for what the page shows. An answer that is none is a `Trouble`, with words for the page.

const DATA = new URL("../data/", import.meta.url);
const PATIENCE = 20_000; // milliseconds

export class Trouble extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Get a path beneath `/dashboard/data/` with a query; raises Trouble. */
export async function get(path, query = {}) {
  const url = new URL(path, DATA);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store", headers: { accept: "application/json" } });
  } catch {
    throw new Trouble("The proxy does not answer. Trying again.");
  }
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({}));
  if (response.status === 401) throw new Trouble("An admin’s key is needed. Load the page again to give one.", 401);
  throw new Trouble(said?.error?.message ?? `The proxy answered with status ${response.status}.`, response.status);
}

/** Name a part of a path. */
export const part = (text) => encodeURIComponent(text);
