// Numbers, money and times as people read them. What is not known is a dash, never a nought.

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minute = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const date = new Intl.DateTimeFormat(LOCALE, { month: "short", day: "numeric" });
const utcDate = new Intl.DateTimeFormat(LOCALE, { month: "short", day: "numeric", timeZone: "UTC" });
const full = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

export const UNKNOWN = "–";
const MINUS = "−";
const known = (value) => typeof value === "number" && Number.isFinite(value);
const signed = (text) => text.replace("-", MINUS);

export const count = (value) => (known(value) ? signed(whole.format(value)) : UNKNOWN);
export const short = (value) => (known(value) ? signed(Math.abs(value) < 10_000 ? whole.format(value) : compact.format(value)) : UNKNOWN);
export const change = (value) => (known(value) && value > 0 ? `+${short(value)}` : short(value));

/** Say what share `part` is of `all`, with one decimal. */
export const share = (part, all) => (known(part) && known(all) && all > 0 ? signed(`${((100 * part) / all).toFixed(1)} %`) : UNKNOWN);

/** Write dollars down, with as many decimals as it takes to see something. */
export function money(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 3 : Math.min(8, 1 - Math.floor(Math.log10(size)));
  return (value < 0 ? MINUS : "") + "$" + new Intl.NumberFormat(LOCALE, { minimumFractionDigits: 2, maximumFractionDigits: digits }).format(size);
}

/** Write a sum of dollars down, of requests in one object of figures; where none of them has a price, say so. */
export const sum = (value, { unpriced_savings: unpriced = 0 } = {}) => (!known(value) && unpriced > 0 ? "no price known" : money(value));

/** Write milliseconds down. */
export function millis(value) {
  if (!known(value)) return UNKNOWN;
  if (Number.isInteger(value) && value < 60_000) return value % 1000 || value === 0 ? `${value} ms` : `${value / 1000} s`;
  if (value >= 60_000) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10_000 ? 0 : 1)} s`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} ms`;
}

export const bytes = (value) => (!known(value) ? UNKNOWN : value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`);
export const time = (at) => clock.format(at * 1000);
export const day = (at) => date.format(at * 1000);
export const moment = (at) => full.format(at * 1000);
/** Name a bar of a chart: days are of UTC, as the ledger adds them up; what is shorter is local. */
export const bar = (at, width) => (width >= 86_400 ? utcDate.format(at * 1000) : minute.format(at * 1000));
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
