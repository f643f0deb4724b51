// What the short names in the ledger mean, in words. A name that is not here is shown as it is.

export const REASONS = {
  "too-short": "shorter than what is worth it",
  role: "not one of the roles that may be shortened",
  "live-instruction": "somebody’s own words, still current",
  recent: "the model’s own words, still current",
  "file-read": "a file as the agent read it, needed as it is for an edit",
  "all-signal": "content of which nearly everything gets used",
  "protected-tool": "a tool whose output is protected by a setting",
  "kept-by-tag": "the client asked to keep it",
  expansion: "fetched back before, so never shortened again",
  refused: "the compressor found nothing to leave out",
  "no-gain": "it would not have become shorter",
  old: "it was old, and reading it again and again cost more than leaving it out",
  "too-many-expansions": "the model went on asking for what was left out: the request went up as it came",
  late: "compression was not done in time: sent as it was",
  busy: "too many passages were waiting: sent as it was",
  failed: "compression failed: sent as it was",
  "store-full": "no room for the original: sent as it was",
  "unknown-shape": "a request of an unknown shape, forwarded as it came",
  bypass: "the client asked to leave the request alone",
  "over-budget": "still above the budget that was asked for",
};

export const OUTCOMES = {
  ok: "answered",
  cancelled: "client left",
  served: "served here",
  rejected: "refused here",
  upstream_error: "provider’s error",
  failed: "failed",
};

export const KINDS = {
  tool: "tool output",
  block: "document",
  fence: "fenced block",
  code: "code",
  numbered: "numbered documents",
  pasted: "pasted text",
  text: "text",
  added: "added by the proxy",
  tags: "tags of ours, taken out",
};

export const reason = (name) => REASONS[name] ?? name;
export const kind = (name) => KINDS[name] ?? name;
export const outcome = (name) => OUTCOMES[name] ?? name;
