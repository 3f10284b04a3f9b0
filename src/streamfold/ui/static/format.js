// Numbers and times as people read them. What is not known is a dash, never a zero.

export const DASH = "–";

export function duration(ms) {
  if (ms === null || ms === undefined) return DASH;
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

export function number(value) {
  return value === null || value === undefined ? DASH : value.toLocaleString("en-US");
}

export function short(value) {
  if (value === null || value === undefined) return DASH;
  if (value < 10_000) return number(value);
  return new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
}

export function dollars(value) {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "$0";
  if (value >= 100) return `$${value.toLocaleString("en-US", { maximumFractionDigits: 0 })}`;
  if (value >= 0.1) return `$${value.toFixed(2)}`;
  return `$${Number(value.toPrecision(2)).toLocaleString("en-US", { maximumFractionDigits: 12 })}`;
}

export function exactDollars(value) {
  if (value === null || value === undefined) return DASH;
  return `$${Number(value).toLocaleString("en-US", { maximumFractionDigits: 12 })}`;
}

export function percent(value) {
  if (value === null || value === undefined) return DASH;
  return `${(value * 100).toFixed(value > 0.999 && value < 1 ? 2 : 1)} %`;
}

export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  if (value < 1024) return `${value} B`;
  if (value < 1024 ** 2) return `${(value / 1024).toFixed(1)} KiB`;
  return `${(value / 1024 ** 2).toFixed(1)} MiB`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short" });
const FULL = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export function when(text, now = new Date()) {
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return DASH;
  const clock = CLOCK.format(moment);
  return moment.toDateString() === now.toDateString() ? clock : `${DAY.format(moment)} ${clock}`;
}

export function fullTime(text) {
  const moment = new Date(text);
  return Number.isNaN(moment.getTime()) ? DASH : FULL.format(moment);
}
