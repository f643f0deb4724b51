// Requests to the proxy for the data of the page. A failed request raises `ApiError` with a message for the page.

const DATA_URL = new URL("../data/", import.meta.url);
const TIMEOUT = 20_000; // milliseconds

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Fetch the JSON of a path under `/dashboard/data/`; raises ApiError. */
export async function fetchData(path, query = {}) {
  const url = new URL(path, DATA_URL);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT), cache: "no-store", headers: { accept: "application/json" } });
  } catch {
    throw new ApiError("The proxy does not respond. Retrying.");
  }
  if (response.ok) return response.json();
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) throw new ApiError("The dashboard needs an admin key. Reload the page to enter one.", 401);
  throw new ApiError(body?.error?.message ?? `The proxy responded with status ${response.status}.`, response.status);
}

/** Encode a segment of a path. */
export const encodeSegment = (text) => encodeURIComponent(text);
