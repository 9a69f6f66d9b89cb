// From counters to rates, from histograms to quantiles, and from both to text. Pure.

// The shape of scoreboard/histogram.rs: every power of two is cut into 16 buckets of equal width.
const UNIT = 125e-9;
const PER_OCTAVE = 16;

/** The first duration, in seconds, that no longer belongs to a bucket. */
function upperEdge(bucket) {
  const octave = Math.floor(bucket / PER_OCTAVE);
  const place = bucket % PER_OCTAVE;
  const units = octave === 0 ? place + 1 : (PER_OCTAVE + place + 1) * 2 ** (octave - 1);
  return units * UNIT;
}

/** What a histogram has counted since `then`, as pairs of bucket and count. Without `then`: ever. */
export function countedSince(now, then) {
  const before = new Map(then ? then.buckets : []);
  return now.buckets
    .map(([bucket, n]) => [bucket, n - (before.get(bucket) ?? 0)])
    .filter(([, n]) => n > 0);
}

/** The duration, in seconds, below which the share `q` of what was counted lies; null: nothing was. */
export function quantile(counted, q) {
  const all = counted.reduce((sum, [, n]) => sum + n, 0);
  if (all === 0) return null;
  const rank = Math.max(1, Math.ceil(q * all));
  let below = 0;
  for (const [bucket, n] of counted) {
    below += n;
    if (below >= rank) return upperEdge(bucket);
  }
  return null;
}

/** The sum of an object's numbers. */
export const total = (counts) => Object.values(counts).reduce((sum, n) => sum + n, 0);

export const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const isNumber = (n) => typeof n === "number" && Number.isFinite(n);

/** Three digits that count, for numbers of any size. */
function digits(n) {
  const size = Math.abs(n);
  return n.toFixed(size >= 100 || n === 0 ? 0 : size >= 10 ? 1 : 2);
}

/** A whole number; roughly, where it is more than a script can count. */
export function count(n) {
  if (!isNumber(n)) return NONE;
  return Number.isSafeInteger(n) ? whole.format(n) : n.toExponential(1).replace("+", "");
}

/** A number of which a part may be a fraction: 0.4, 12, 5,320, 1.25 M. */
export function figure(n) {
  if (!isNumber(n)) return NONE;
  const size = Math.abs(n);
  if (size >= 1e9) return digits(n / 1e9) + " G";
  if (size >= 1e6) return digits(n / 1e6) + " M";
  return size >= 10 || Number.isInteger(n) ? whole.format(n) : n.toFixed(1);
}

/** Seconds, in the unit that suits. */
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds === 0) return "0 s";
  if (seconds < 0.9995e-3) return digits(seconds * 1e6) + " µs";
  if (seconds < 0.9995) return digits(seconds * 1e3) + " ms";
  return digits(seconds) + " s";
}

/** A long time, in at most two units. */
export function span(seconds) {
  const rest = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, size, of] of [["d", 86400, Infinity], ["h", 3600, 24], ["min", 60, 60], ["s", 1, 60]]) {
    const n = Math.floor(rest / size) % of;
    if (n > 0 || parts.length > 0) parts.push(n > 0 ? `${n} ${unit}` : "");
  }
  return parts.slice(0, 2).filter(Boolean).join(" ") || "0 s";
}

/** Bytes. */
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  let rest = n;
  while (rest >= 1000 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return (unit === 0 ? count(rest) : digits(rest)) + " " + units[unit];
}

/** A share of one core. */
export const percent = (share) => (isNumber(share) ? digits(share * 100) + " %" : NONE);

/** How many cores were busy. */
export const cores = (n) => (isNumber(n) ? n.toFixed(2) : NONE);

/** How far a ratio is from 1: +5.1 %, or ×3.2 where per cent would mislead. */
export function change(ratio) {
  if (!isNumber(ratio)) return NONE;
  if (ratio >= 2 || ratio <= 0.5) return "×" + ratio.toPrecision(2);
  const by = (ratio - 1) * 100;
  const text = Math.abs(by).toFixed(1);
  return (Number(text) === 0 ? "±" : by > 0 ? "+" : "−") + text + " %";
}

/** A time of day. */
export const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");

/** An arm's name. */
export const armName = (mode, policy) => (policy === "none" || !policy ? mode : `${mode}/${policy}`);
