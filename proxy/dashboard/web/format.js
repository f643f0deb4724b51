// Formats numbers, money and times. An unknown value is a dash, never 0.

const LOCALE = "en";
const integer = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minute = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(LOCALE, { month: "short", day: "numeric" });
const utcDate = new Intl.DateTimeFormat(LOCALE, { month: "short", day: "numeric", timeZone: "UTC" });
const full = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

export const UNKNOWN = "–";
const MINUS = "−";
const isKnown = (value) => typeof value === "number" && Number.isFinite(value);
const signed = (text) => text.replace("-", MINUS);

export const count = (value) => (isKnown(value) ? signed(integer.format(value)) : UNKNOWN);
export const short = (value) => (isKnown(value) ? signed(Math.abs(value) < 10_000 ? integer.format(value) : compact.format(value)) : UNKNOWN);
export const change = (value) => (isKnown(value) && value > 0 ? `+${short(value)}` : short(value));

/** Format `part` as a percentage of `whole`, with one decimal. */
export const share = (part, whole) => (isKnown(part) && isKnown(whole) && whole > 0 ? signed(`${((100 * part) / whole).toFixed(1)} %`) : UNKNOWN);

/** Format dollars, with enough decimals for a significant digit. */
export function money(value) {
  if (!isKnown(value)) return UNKNOWN;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 3 : Math.min(8, 1 - Math.floor(Math.log10(size)));
  return (value < 0 ? MINUS : "") + "$" + new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 2, maximumFractionDigits: digits }).format(size);
}

/** Format a sum of dollars over requests; `no price known` if none of them has a price. */
export const sum = (value, { unpriced_savings: unpriced = 0 } = {}) => (!isKnown(value) && unpriced > 0 ? "no price known" : money(value));

/** Format milliseconds. */
export function millis(value) {
  if (!isKnown(value)) return UNKNOWN;
  if (Number.isInteger(value) && value < 60_000) return value % 1000 || value === 0 ? `${value} ms` : `${value / 1000} s`;
  if (value >= 60_000) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10_000 ? 0 : 1)} s`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} ms`;
}

export const bytes = (value) => (!isKnown(value) ? UNKNOWN : value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`);
export const time = (seconds) => clock.format(seconds * 1000);
export const day = (seconds) => date.format(seconds * 1000);
export const moment = (seconds) => full.format(seconds * 1000);
/** Label a chart bar: days are UTC, as in the ledger; shorter bars are in local time. */
export const bar = (start, width) => (width >= 86_400 ? utcDate : minute).format(start * 1000);
export const plural = (number, singular, many = `${singular}s`) => `${count(number)} ${number === 1 ? singular : many}`;
