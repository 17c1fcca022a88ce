// Time series line charts in SVG, with axes, a legend and a read-out for the pointer and the arrow keys.

import { h, render } from "./dom.js";
import { hourAndMinute, serverNow, time } from "./format.js";

const HEIGHT = 210;
const TOP = 12;
const BOTTOM = 26;
const LEFT = 62;
const RIGHT = 12;
const NARROW = 480;
const MINUTE = 60_000;
// Minimum length of the time axis, for a server that has just started.
const SHORTEST = 5 * MINUTE;

// A round step, in the given unit, that splits `most` into about four.
function niceStep(most) {
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const lead = [1, 2, 2.5, 5, 10].find((candidate) => candidate * power >= rough);
  return lead * power;
}

// The steps of an axis of durations, in seconds.
const DURATIONS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000, 86_400];

// A step that splits `most` into about four, round in the usual units of durations.
function durationStep(most) {
  return most <= 4 ? niceStep(most) : DURATIONS.find((step) => step * 4 >= most) ?? 86_400 * Math.ceil(most / 4 / 86_400);
}

// The distance between the ticks of an axis up to `most`.
export function stepOf(most, isTime) {
  return isTime ? durationStep(most) : niceStep(most);
}

// The ticks of the time axis: about one per 70 pixels, at round minutes of local time.
function timeMarks(from, until, width) {
  const wanted = Math.max(2, Math.floor(width / 70));
  const steps = [0.25, 0.5, 1, 2, 5, 10, 15, 20, 30, 60].map((minutes) => minutes * MINUTE);
  const step = steps.find((candidate) => (until - from) / candidate <= wanted) ?? 60 * MINUTE;
  const shift = new Date(from).getTimezoneOffset() * MINUTE;
  const marks = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= until; at += step) {
    marks.push({ at, text: step < MINUTE ? time(at) : hourAndMinute(at) });
  }
  return marks;
}

// A chart. Its properties: `label`; `times`, unix milliseconds; `series` of {name, tone, values, dashed,
// area}, of which values may be null; `format` for values, `mark` for the ticks of the axis; `isTime` for
// durations; `least`, the minimum upper end of the value axis.
export class Chart {
  constructor(props) {
    this.element = document.createElement("figure");
    this.element.className = "chart";
    this.props = props;
    this.width = 0;
    this.chosen = null;
    this.watch = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width !== this.width) {
        this.width = width;
        this.draw();
      }
    });
    this.watch.observe(this.element);
    this.draw();
  }

  update(props) {
    this.props = props;
    this.draw();
  }

  leave() {
    this.watch.disconnect();
  }

  draw() {
    const { series, times, format, label } = this.props;
    const last = times.length - 1;
    if (this.chosen !== null && this.chosen > last) {
      this.chosen = null;
    }
    const at = this.chosen ?? last;
    const legend = h("figcaption.legend", null,
      series.map((line) => h("span.legend-item", { key: line.name, class: `tone-${line.tone}` },
        h("span.swatch", { class: line.dashed ? "dashed" : "", "aria-hidden": "true" }), line.name,
        h("b", null, at >= 0 ? format(line.values[at]) : format(null)))),
      h("span.legend-time", { key: "time" }, this.chosen === null ? "now" : time(times[at])));
    const told = series.map((line) => `${line.name} ${at >= 0 ? format(line.values[at]) : "unknown"}`).join(", ");
    const plot = h("div.plot", { tabindex: "0", role: "img", "aria-label": `${label}: ${told}. Arrow keys read earlier values.`, on: this.listeners() }, this.width > 0 && this.drawing());
    render(this.element, [legend, plot]);
  }

  listeners() {
    return {
      pointermove: (event) => this.choose(event),
      pointerdown: (event) => this.choose(event),
      pointerleave: () => this.forget(),
      blur: () => this.forget(),
      keydown: (event) => this.step(event),
    };
  }

  forget() {
    this.chosen = null;
    this.draw();
  }

  choose(event) {
    const { times } = this.props;
    const box = this.element.querySelector("svg")?.getBoundingClientRect();
    if (!box || times.length === 0 || !this.xOf) {
      return;
    }
    const x = event.clientX - box.left;
    let nearest = 0;
    times.forEach((at, index) => {
      if (Math.abs(this.xOf(at) - x) < Math.abs(this.xOf(times[nearest]) - x)) {
        nearest = index;
      }
    });
    this.chosen = nearest;
    this.draw();
  }

  step(event) {
    const { times } = this.props;
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -times.length, End: times.length }[event.key];
    if (by && times.length > 0) {
      event.preventDefault();
      this.chosen = Math.max(0, Math.min(times.length - 1, (this.chosen ?? times.length - 1) + by));
      this.draw();
    } else if (event.key === "Escape") {
      this.forget();
    }
  }

  // The axes and the lines.
  drawing() {
    const { series, times, format, mark = format, isTime = false, least = 1 } = this.props;
    const left = this.width < NARROW ? 48 : LEFT;
    const width = this.width - left - RIGHT;
    const height = HEIGHT - TOP - BOTTOM;
    const until = times.at(-1) ?? Date.now();
    const from = Math.min(times[0] ?? until, until - SHORTEST);
    let most = least;
    for (const line of series) {
      for (const value of line.values) {
        most = Math.max(most, value ?? 0);
      }
    }
    const step = stepOf(most, isTime);
    const top = Math.ceil(most / step) * step;
    const x = (at) => left + ((at - from) / Math.max(1, until - from)) * width;
    const y = (value) => TOP + height - (value / top) * height;
    this.xOf = x;
    const levels = Array.from({ length: Math.round(top / step) + 1 }, (_, index) => index * step);
    return h("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, width: this.width, height: HEIGHT, "aria-hidden": "true" },
      levels.map((level) => h("g", { key: `level ${level}` },
        h("line.grid", { x1: left, x2: left + width, y1: y(level), y2: y(level), class: level === 0 ? "axis" : "" }),
        h("text.tick", { x: left - 8, y: y(level) + 4, "text-anchor": "end" }, mark(level)))),
      timeMarks(from, until, width).map((mark) => h("text.tick", { key: `time ${mark.at}`, x: x(mark.at), y: HEIGHT - 6, "text-anchor": "middle" }, mark.text)),
      series.map((line) => drawLine(line, times, x, y)),
      this.chosen !== null && this.drawChosen(x, y, height));
  }

  drawChosen(x, y, height) {
    const { series, times } = this.props;
    const at = x(times[this.chosen]);
    return h("g", { key: "chosen" },
      h("line.cursor", { x1: at, x2: at, y1: TOP, y2: TOP + height }),
      series.filter((line) => line.values[this.chosen] !== null && line.values[this.chosen] !== undefined).map((line) =>
        h("circle.dot", { key: line.name, class: `tone-${line.tone}`, cx: at, cy: y(line.values[this.chosen]), r: 4 })));
  }
}

// A line with gaps for unknown values; a single value between two gaps is a dot.
function drawLine(line, times, x, y) {
  let path = "";
  let area = "";
  let start = null;
  const close = (index) => {
    if (start !== null) {
      if (index - start === 1) {
        path += "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0";
      }
      area += `L${x(times[index - 1]).toFixed(1)} ${y(0)}L${x(times[start]).toFixed(1)} ${y(0)}Z`;
      start = null;
    }
  };
  times.forEach((at, index) => {
    const value = line.values[index];
    if (value === null || value === undefined) {
      close(index);
      return;
    }
    const point = `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    path += `${start === null ? "M" : "L"}${point}`;
    area += `${start === null ? "M" : "L"}${point}`;
    start ??= index;
  });
  close(times.length);
  return h("g", { key: `line ${line.name}`, class: `tone-${line.tone}` },
    line.area && h("path.area", { d: area }),
    h("path.line", { d: path, class: line.dashed ? "dashed" : "" }));
}

// The end times of the intervals of a history.
export function historyTimes(history) {
  const count = history.submitted.length;
  return Array.from({ length: count }, (_, index) => history.until_unix_ms - (count - 1 - index) * history.interval_s * 1000);
}

// Whether a history is outdated.
export function isOld(history) {
  return !history || serverNow() > history.until_unix_ms + history.interval_s * 1000;
}
