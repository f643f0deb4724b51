// Texts for the short names in the ledger. A name without a text is shown unchanged.

export const REASONS = {
  "too-short": "too short to be worth compressing",
  role: "messages of this role are not compressed",
  "live-instruction": "the user's current instruction",
  recent: "the model's own text, still recent",
  "file-read": "a file that the agent has read; edits need its exact text",
  "all-signal": "kept whole: most of this kind of content is usually needed",
  "protected-tool": "the output of a tool that a setting protects",
  "kept-by-tag": "the client marked it to be kept",
  expansion: "text fetched back earlier is never compressed again",
  refused: "the compressor found nothing to leave out",
  "not-prunable": "not for the pruner (structure, or no question); extracted instead",
  "not-in-memory": "the model says that its memories do not hold the answer; extracted instead",
  "no-gain": "compression would save less than 5 % of the tokens",
  compacted: "the provider reads a summary in its place",
  old: "old output; its first line plus marker would not be shorter",
  "too-many-expansions": "the model kept fetching text back, so the request was forwarded unchanged",
  late: "compression missed its deadline; forwarded unchanged",
  busy: "the compression queue was full; forwarded unchanged",
  failed: "compression failed; forwarded unchanged",
  "store-full": "the store had no room for the original; forwarded unchanged",
  "unknown-shape": "the format of the request is unknown; forwarded unchanged",
  bypass: "the client asked for no compression",
  "over-budget": "still above the token budget of the client",
};

export const CACHE_MISSES = {
  ours: "the proxy had changed what it forwarded before",
  theirs: "the client changed it, or the provider dropped its entry",
  expired: "the entry was older than its lifetime",
  unknown: "the provider does not say why",
};

export const OUTCOMES = {
  ok: "answered",
  cancelled: "client disconnected",
  served: "answered locally",
  rejected: "rejected by the proxy",
  upstream_error: "upstream error",
  failed: "failed",
};

export const KINDS = {
  tool: "tool output",
  block: "document",
  fence: "fenced block",
  code: "code",
  file: "file",
  numbered: "numbered documents",
  retrieved: "retrieved documents",
  pasted: "pasted text",
  text: "text",
  added: "added by the proxy",
  tags: "keep tags, removed",
};

export const reason = (name) => REASONS[name] ?? name;
export const kind = (name) => KINDS[name] ?? name;
export const outcome = (name) => OUTCOMES[name] ?? name;
