// Charts over the last minutes, and small bars: drawn as SVG, coloured by the style sheet.

import { NONE, clock } from "./numbers.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element of SVG in `parent`. */
export function shape(parent, name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== "") element.textContent = text;
  parent.append(element);
  return element;
}

/** An element of HTML in `parent`. */
export function element(parent, name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== "") made.textContent = text;
  parent.append(made);
  return made;
}

// Milliseconds that a chart can show; the shortest that all there is has room in.
const WINDOWS = [60_000, 120_000, 300_000];
export const LONGEST = WINDOWS.at(-1);
const HEIGHT = 190;
const EDGE = { top: 24, right: 8, bottom: 20, left: 58 };

/** Marks for an axis from 0 that has room for `most`: steps of 1, 2 or 5. */
export function linearAxis(most) {
  const raw = Math.max(most, 1) / 4;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * size).find((n) => n >= raw * 0.999);
  const steps = Math.ceil(Math.max(most, 1) / step - 1e-9);
  const marks = Array.from({ length: steps + 1 }, (_, i) => i * step);
  const top = step * steps;
  return { marks, place: (value) => value / top };
}

/** Marks for an axis on which each step is a factor; all values are above 0. */
export function logAxis(least, most) {
  const steps = [];
  for (let e = Math.floor(Math.log10(least)) - 1; 10 ** e <= most * 10; e += 1) {
    for (const n of [1, 2, 5]) steps.push(n * 10 ** e);
  }
  const low = steps.filter((step) => step <= least * 1.0001).at(-1);
  const high = steps.find((step) => step >= most * 0.9999 && step > low * 1.5);
  const within = steps.filter((step) => step >= low && step <= high);
  const isDecade = (step) => Math.abs(Math.log10(step) - Math.round(Math.log10(step))) < 1e-6;
  const marks = within.length > 6 ? within.filter(isDecade) : within;
  const width = Math.log(high / low);
  return { marks, place: (value) => Math.log(value / low) / width };
}

/** One value or several over time, with the mode that was in force. */
export class TimeChart {
  /**
   * lines: what is drawn: {key, name, kind}. text: a value in words. axis: from all values to marks.
   * about: what it is a chart of.
   */
  constructor(place, { lines, text, axis, about }) {
    Object.assign(this, { lines, text, axis, about });
    this.window = WINDOWS[0];
    this.samples = [];
    this.looked = null;
    this.width = 0;
    this.now = performance.now();
    this.readout = element(place, "p", "readout");
    this.values = lines.map(({ name, kind }) => {
      const item = element(this.readout, "span", "key " + kind, name + " ");
      return element(item, "b");
    });
    this.when = element(this.readout, "span", "quiet when");
    this.svg = shape(place, "svg", { role: "img", tabindex: "0", height: HEIGHT });
    new ResizeObserver(([entry]) => {
      this.width = Math.floor(entry.contentRect.width);
      this.draw();
    }).observe(place);
    this.svg.addEventListener("pointermove", (event) => {
      const x = event.clientX - this.svg.getBoundingClientRect().left;
      this.look(this.now - this.window * (1 - (x - EDGE.left) / this.room().width));
    });
    for (const leaves of ["pointerleave", "blur"]) {
      this.svg.addEventListener(leaves, () => this.look(null));
    }
    this.svg.addEventListener("keydown", (event) => this.step(event));
  }

  /** Shows these samples, ascending in time; `now` is the right edge. */
  show(samples, now) {
    this.samples = samples;
    this.now = now;
    const reach = samples.length > 0 ? now - samples[0].from : 0;
    this.window = WINDOWS.find((window) => window >= reach) ?? LONGEST;
    this.draw();
  }

  /** Looks at the sample nearest to `moment`; null: at the last one. */
  look(moment) {
    this.looked = moment;
    this.draw();
  }

  /** Looks about with the arrow keys. */
  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      const at = Math.max(0, this.samples.indexOf(this.seen()) + by);
      this.look(this.samples[Math.min(at, this.samples.length - 1)]?.t ?? null);
    } else if (event.key === "Escape") {
      this.look(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** The sample that is looked at. */
  seen() {
    if (this.looked === null) return this.samples.at(-1);
    const far = (sample) => Math.abs(sample.t - this.looked);
    return this.samples.reduce((best, sample) => (best && far(best) <= far(sample) ? best : sample), undefined);
  }

  room() {
    return {
      width: Math.max(40, this.width - EDGE.left - EDGE.right),
      height: HEIGHT - EDGE.top - EDGE.bottom,
    };
  }

  draw() {
    if (this.width === 0) return;
    const { svg } = this;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const room = this.room();
    const values = this.samples.flatMap((s) => this.lines.map(({ key }) => s[key])).filter((v) => v !== null);
    const axis = this.axis(values);
    const x = (t) => EDGE.left + room.width * (1 - (this.now - t) / this.window);
    const y = (value) => EDGE.top + room.height * (1 - axis.place(value));
    this.drawGrid(axis, room, y);
    this.drawModes(x);
    for (const { key, kind } of this.lines) {
      shape(svg, "path", { class: "line " + kind, d: this.path(key, x, y) });
    }
    this.drawSeen(x, y);
  }

  drawGrid(axis, room, y) {
    const right = EDGE.left + room.width;
    for (const mark of axis.marks) {
      const at = y(mark);
      shape(this.svg, "line", { class: "grid", x1: EDGE.left, x2: right, y1: at, y2: at });
      shape(this.svg, "text", { class: "end", x: EDGE.left - 6, y: at + 4 }, this.text(mark).replace(/\.0+(?!\d)/, ""));
    }
    const seconds = this.window / 1000;
    const step = (seconds > 120 ? 60 : seconds / 4) * (room.width < 320 ? 2 : 1);
    for (let ago = 0; ago <= seconds; ago += step) {
      const at = right - (room.width * ago) / seconds;
      const name = ago === 0 ? "now" : ago % 60 === 0 ? `−${ago / 60} min` : `−${ago} s`;
      const kind = ago === 0 ? "end" : ago === seconds ? "" : "middle";
      shape(this.svg, "text", { class: kind, x: at, y: HEIGHT - 4 }, name);
    }
  }

  /** A strip above the chart: which mode was in force when, and a line at each change. */
  drawModes(x) {
    const runs = [];
    for (const sample of this.samples) {
      const last = runs.at(-1);
      if (last && last.arm === sample.arm && !sample.gap) last.end = sample.t;
      else runs.push({ arm: sample.arm, mode: sample.mode, begin: sample.from, end: sample.t, after: last });
    }
    for (const { arm, mode, begin, end, after } of runs) {
      const left = Math.max(EDGE.left, x(begin));
      const width = x(end) - left;
      if (width <= 0) continue;
      const strip = shape(this.svg, "rect", { class: "mode", x: left, y: 2, width, height: 14, rx: 2, "data-mode": mode });
      shape(strip, "title", {}, arm);
      const name = [arm, mode].find((text) => text.length * 6.2 + 8 < width);
      if (name) shape(this.svg, "text", { class: "on", x: left + 4, y: 13 }, name);
      if (after && after.arm !== arm && x(begin) > EDGE.left) {
        shape(this.svg, "line", { class: "change", x1: left, x2: left, y1: 2, y2: HEIGHT - EDGE.bottom });
      }
    }
  }

  path(key, x, y) {
    let d = "";
    let isOn = false;
    for (const sample of this.samples) {
      const value = sample[key];
      if (value === null) {
        isOn = false;
        continue;
      }
      // A value that stands alone gets a width, or nobody would see it.
      const to = `${x(sample.t).toFixed(1)} ${y(value).toFixed(1)}`;
      d += isOn && !sample.gap ? `L${to}` : `M${to}h.01`;
      isOn = true;
    }
    return d;
  }

  drawSeen(x, y) {
    const seen = this.seen();
    this.lines.forEach(({ key }, i) => {
      const value = seen?.[key] ?? null;
      this.values[i].textContent = value === null ? NONE : this.text(value);
      if (value !== null && this.looked !== null) {
        shape(this.svg, "circle", { class: this.lines[i].kind, cx: x(seen.t), cy: y(value), r: 3.5 });
      }
    });
    const moment = seen && this.looked !== null ? clock(performance.timeOrigin + seen.t) : "";
    this.when.textContent = moment && `${moment}, ${seen.arm}`;
    const said = this.lines.map(({ name }, i) => `${name} ${this.values[i].textContent}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.about}: ${said}${moment && " at " + moment}`);
  }
}

/** One column for each worker: who has how many connections open. For many of them. */
export function skyline(place, workers, mean) {
  place.replaceChildren();
  const [height, gap] = [64, 1];
  const most = Math.max(1, ...workers.map((worker) => worker.connections_open));
  const about = `connections open of ${workers.length} workers: at most ${most}, ${mean.toFixed(1)} in the mean`;
  const svg = shape(place, "svg", {
    role: "img", "aria-label": about, height, preserveAspectRatio: "none", viewBox: `0 0 ${workers.length * 10} ${height}`,
  });
  workers.forEach((worker, i) => {
    const tall = (height * worker.connections_open) / most;
    const column = shape(svg, "rect", {
      class: "fill", x: i * 10 + gap, width: 10 - 2 * gap, y: height - Math.max(tall, 1), height: Math.max(tall, 1), "data-state": worker.state,
    });
    shape(column, "title", {}, `worker ${worker.worker}: ${worker.connections_open}`);
  });
  const at = height * (1 - mean / most);
  shape(svg, "line", { class: "mean", x1: 0, x2: workers.length * 10, y1: at, y2: at });
}
