// How values are written: units always, digits only as far as they mean something.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => whole.format(value);

/** US dollars: cents where that tells enough, else two digits that are not zero. */
export function usd(value) {
  if (value === null || value === undefined) return "unknown";
  if (value === 0) return "$0";
  if (Math.abs(value) >= 0.995) return "$" + value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  return "$" + decimal(value, 2);
}

/** Plain decimal with this many digits that are not zero. */
export function decimal(value, digits) {
  if (value === 0) return "0";
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(places, 12)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return decimal(value, 2) + " ms";
  if (value < 995) return Math.round(value) + " ms";
  return (value / 1000).toFixed(value < 9950 ? 2 : 1) + " s";
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = share * 100;
  if (value === 0 || value === 100) return value + " %";
  if (value > 99.9) return "> 99.9 %";
  return (value < 10 ? decimal(value, 2) : Math.round(value)) + " %";
}

export function rate(perSecond) {
  if (perSecond === 0) return "0 / s";
  return (perSecond < 10 ? decimal(perSecond, 2) : count(perSecond)) + " / s";
}

/** A score: minus signs as they are printed. */
export function score(value) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);
  return text.replace("-", "\u2212");
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (value >= 1024 && place < units.length - 1) { value /= 1024; place += 1; }
  return (value < 10 && place > 0 ? value.toFixed(1) : Math.round(value)) + " " + units[place];
}

export function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

export function ago(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return seconds + " s ago";
  if (seconds < 5400) return Math.round(seconds / 60) + " min ago";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h ago";
  return Math.round(seconds / 86400) + " days ago";
}

/** Why a request went the way it did, in words. */
export const REASONS = {
  accepted: "sure enough",
  certified: "sure enough, certified",
  certified_agreement: "sure enough, agreement certified",
  low_confidence: "not sure enough",
  early_low_confidence: "not sure enough, stopped early",
  early_unlikely: "unlikely to become sure, stopped early",
  no_evidence: "evidence was missing",
  by_value: "worth the price",
  skipped_by_value: "skipped: worth the price",
  pinned: "conversation stays there",
  uncertified: "nothing certified",
  other_key: "not what was certified",
  alarmed: "promise in alarm",
  unmonitored: "promise not monitored",
  cannot: "local model cannot",
  not_ready: "not ready",
  overloaded: "queue full",
  context: "too long for its context",
  error: "failed",
  degraded: "kept: the upstream failed",
};

export const OUTCOMES = {
  local: "Local",
  escalated: "Escalated",
  direct: "Direct",
  failed: "Failed",
  refused: "Refused",
  canceled: "Left",
};

export const MEANINGS = {
  local: "a model on the box answered",
  escalated: "the cascade ended at an upstream",
  direct: "the rule asks the upstream",
  failed: "nobody answered",
  refused: "refused by a policy, or for a fault of the client's",
  canceled: "the client left",
};
