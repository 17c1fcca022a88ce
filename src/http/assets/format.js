// Formats numbers, durations, times and names for display.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const shortClock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const calendar = new Intl.DateTimeFormat("en", { year: "numeric", month: "short", day: "numeric" });

// Placeholder for an unknown value.
export const NONE = "–";

// Server clock minus local monotonic clock, in milliseconds: ages are computed with the server's clock.
let clockOffset = Date.now() - performance.now();

export function setClock(serverUnixMs) {
  const offset = serverUnixMs - performance.now();
  // A slightly delayed event is not a clock step.
  if (Math.abs(offset - clockOffset) > 300) {
    clockOffset = offset;
  }
}

// The server's current time, in milliseconds since 1970.
export function serverNow() {
  return performance.now() + clockOffset;
}

export function number(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

// Short form with few digits: 12.3K.
export function brief(value) {
  if (value === null || value === undefined) {
    return NONE;
  }
  return Math.abs(value) < 100_000 ? whole.format(value) : compact.format(value);
}

// A rate per second.
export function rate(value) {
  if (value === null || value === undefined) {
    return NONE;
  }
  if (value === 0) {
    return "0";
  }
  if (value < 0.05) {
    return "<0.1";
  }
  return value < 10 ? String(Number(value.toFixed(1))) : brief(value);
}

// An axis label, as precise as its step.
export function mark(value) {
  return value < 10 ? String(Number(value.toFixed(2))) : brief(value);
}

// A measured duration in seconds, to about three digits: 0.42 ms, 1.50 s, 3 min 20 s.
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) {
    return NONE;
  }
  if (seconds < 0.000_999_5) {
    return seconds === 0 ? "0 s" : `${digits(seconds * 1e6)} µs`;
  }
  if (seconds < 0.9995) {
    return `${digits(seconds * 1000)} ms`;
  }
  return seconds < 60 ? `${digits(seconds)} s` : age(seconds);
}

// An axis label for a duration.
export function durationMark(seconds) {
  return seconds >= 1 && Number.isInteger(seconds) ? age(seconds) : duration(seconds);
}

// Up to three significant digits.
function digits(value) {
  if (value >= 99.5) {
    return whole.format(value);
  }
  return value >= 9.95 ? value.toFixed(1) : value.toFixed(2);
}

// An elapsed time in whole seconds: 5 s, 3 min 20 s, 2 h 5 min, 4 d 3 h.
export function age(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) {
    return NONE;
  }
  const total = Math.max(0, Math.floor(seconds));
  const parts = [
    [Math.floor(total / 86400), "d"],
    [Math.floor(total / 3600) % 24, "h"],
    [Math.floor(total / 60) % 60, "min"],
    [total % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) {
    return "0 s";
  }
  return parts.slice(first, first + 2).filter(([count]) => count > 0).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

// The same in short form: 5 s, 3m 20s.
export function shortAge(seconds) {
  return seconds < 60 ? age(seconds) : shortened(age(seconds));
}

function shortened(text) {
  return text.replaceAll(/(\d) (min|[a-z])\b/g, (_, digit, unit) => `${digit}${unit[0]}`);
}

// A measured duration in short form.
export function shortDuration(seconds) {
  return seconds >= 60 ? shortAge(seconds) : duration(seconds);
}

// Elapsed time since a timestamp, by the server's clock.
export function since(unixMs) {
  return unixMs === null || unixMs === undefined ? NONE : age((serverNow() - unixMs) / 1000);
}

// A time as "12 s ago" or "in 3 min".
export function relative(unixMs) {
  if (unixMs === null || unixMs === undefined) {
    return NONE;
  }
  const seconds = (serverNow() - unixMs) / 1000;
  if (Math.abs(seconds) < 1) {
    return "now";
  }
  return seconds < 0 ? `in ${age(1 - seconds)}` : `${age(seconds)} ago`;
}

// The same in short form: in 3m 20s.
export function shortRelative(unixMs) {
  return shortened(relative(unixMs));
}

// A time of day, with the date if it is not today.
export function time(unixMs) {
  const date = new Date(unixMs);
  const day = date.toDateString() === new Date().toDateString() ? "" : `${calendar.format(date)}, `;
  return `${day}${clock.format(date)}`;
}

export function hourAndMinute(unixMs) {
  return shortClock.format(new Date(unixMs));
}

export function exactTime(unixMs) {
  return unixMs === null || unixMs === undefined ? "" : new Date(unixMs).toISOString();
}

export function bytes(count) {
  if (count === null || count === undefined) {
    return NONE;
  }
  if (count < 1024) {
    return `${whole.format(count)} B`;
  }
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = count / 1024;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : whole.format(value)} ${units[unit]}`;
}

export function plural(count, one, many = `${one}s`) {
  return `${whole.format(count)} ${count === 1 ? one : many}`;
}

// The number of unsuccessful runs of any kind.
export function failures({ failed, exceptions, timed_out: late }) {
  return failed + exceptions + late;
}

// Makes invisible characters and bidirectional controls visible. Line breaks and tabs of a workload may be
// kept.
export function visible(text, breaks = false) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu, (character) => {
    const code = character.codePointAt(0);
    if (breaks && (code === 10 || code === 9)) {
      return character;
    }
    if (code < 32) {
      return String.fromCodePoint(0x2400 + code);
    }
    return `‹${code.toString(16).toUpperCase().padStart(4, "0")}›`;
  });
}

// Parses a number of seconds: "90", "90s", "5m", "2h", "1d"; null if invalid.
export function parseSeconds(text) {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?\s*$/i.exec(text);
  if (!match) {
    return null;
  }
  const units = { s: 1, m: 60, min: 60, h: 3600, d: 86400 };
  return Number(match[1]) * units[(match[2] ?? "s").toLowerCase()];
}
