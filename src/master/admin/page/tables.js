// Tables that are brought up to date in place: what has not changed is not touched, so that a text
// that somebody selects, or a row that they look at, stays.

import { armName, count, countedSince, duration, figure, percent, quantile, span } from "./numbers.js";
import { element, shape } from "./chart.js";

/** Sets a text, if it is another. */
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** As many rows as there are `items`, each with `cells` cells of a kind, filled by `fill`. */
export function rows(body, items, kinds, fill) {
  while (body.rows.length > items.length) body.deleteRow(-1);
  while (body.rows.length < items.length) {
    const row = body.insertRow();
    kinds.forEach((kind, i) => {
      const cell = element(row, i === 0 ? "th" : "td", kind);
      if (i === 0) cell.scope = "row";
    });
  }
  items.forEach((item, i) => fill(body.rows[i], [...body.rows[i].cells], item));
}

const WORKER = ["", "", "bar", "n", "n", "n", "n", "n", "n", "n"];

/** A bar with its number; a tick where the mean is. */
function bar(cell, value, most, mean) {
  if (!cell.firstChild) {
    const meter = element(cell, "div", "meter");
    element(meter, "span", "value");
    const svg = shape(meter, "svg", { height: 12, "aria-hidden": "true" });
    shape(svg, "rect", { class: "room", width: "100%", height: 12, rx: 2 });
    shape(svg, "rect", { class: "fill", height: 12, rx: 2 });
    shape(svg, "line", { class: "mean", y1: 0, y2: 12 });
  }
  const [number, svg] = cell.firstChild.children;
  const [, fill, tick] = svg.children;
  say(number, count(value));
  fill.setAttribute("width", `${most > 0 ? (100 * value) / most : 0}%`);
  const at = `${most > 0 ? (100 * mean) / most : 0}%`;
  tick.setAttribute("x1", at);
  tick.setAttribute("x2", at);
  tick.classList.toggle("gone", mean === null);
}

/** A state, as a dot and in words. */
function mark(row, cell, state, text) {
  if (!cell.firstChild) {
    element(cell, "span", "dot");
    element(cell, "span");
  }
  row.dataset.state = state;
  say(cell.lastChild, text);
}

/** What there is to say of a worker that does not live long. */
function misfortune({ crash_loop: deaths, respawn_in_seconds: wait }) {
  if (deaths === 0) return "";
  const again = wait === null ? "" : `, again in ${Math.ceil(wait)} s`;
  return `, ${deaths} ${deaths === 1 ? "death" : "deaths in a row"}${again}`;
}

/** A number that is best 0. */
const warn = (cell, n) => {
  say(cell, count(n));
  cell.classList.toggle("odd", n > 0);
};

/** All seats; `before` is the report of a moment ago, `seconds` the time since, or neither. */
export function showWorkers(body, drains, report, before, seconds, mean) {
  const most = Math.max(0, ...report.workers.map((w) => w.connections_open), ...report.draining.map((d) => d.connections_open));
  const earlier = new Map((before?.workers ?? []).map((worker) => [worker.worker, worker]));
  rows(body, report.workers, WORKER, (row, cells, worker) => {
    const then = earlier.get(worker.worker);
    const by = (key) => (then ? Math.max(0, worker[key] - then[key]) / seconds : null);
    row.dataset.worker = worker.worker;
    say(cells[0], worker.worker);
    mark(row, cells[1], worker.state, worker.state + misfortune(worker));
    bar(cells[2], worker.connections_open, most, mean);
    say(cells[3], count(worker.requests_in_flight));
    say(cells[4], figure(by("requests")));
    say(cells[5], percent(by("cpu_seconds")));
    warn(cells[6], worker.restarts);
    warn(cells[7], worker.hung);
    say(cells[8], worker.pid === null ? "–" : String(worker.pid));
    say(cells[9], String(worker.generation));
  });
  rows(drains, report.draining, WORKER, (row, cells, drain) => {
    say(cells[0], drain.worker);
    mark(row, cells[1], "draining", `draining, ${Math.ceil(drain.seconds_left)} s left`);
    bar(cells[2], drain.connections_open, most, null);
    say(cells[3], count(drain.requests_in_flight));
    say(cells[8], String(drain.pid));
    say(cells[9], String(drain.generation));
  });
}

/** Requests by class of their status; those that nobody wishes for stand out. */
export function showClasses(body, report, before, seconds) {
  const classes = Object.entries(report.requests).filter(([name, n]) => n > 0 || name !== "1xx");
  rows(body, classes, ["", "n", "n"], (row, cells, [name, n]) => {
    const rate = before ? Math.max(0, n - (before.requests[name] ?? 0)) / seconds : null;
    row.dataset.class = name;
    row.classList.toggle("odd", n > 0 && (name === "5xx" || name === "aborted"));
    say(cells[0], name);
    say(cells[1], figure(rate));
    say(cells[2], count(n));
  });
}

/** Where it listens. */
export function showListeners(body, report) {
  rows(body, report.status.listeners, ["", "n"], (_, cells, listener) => {
    say(cells[0], listener.address);
    say(cells[1], count(listener.connections_open));
  });
}

/** Pairs of a name and a text. */
export function showPairs(list, pairs) {
  while (list.children.length > 2 * pairs.length) list.lastChild.remove();
  while (list.children.length < 2 * pairs.length) element(list, list.children.length % 2 ? "dd" : "dt");
  pairs.flat().forEach((text, i) => say(list.children[i], text));
}

/** What each arm has done so far. */
export function showArms(body, report) {
  const { mode, policy } = report.status;
  rows(body, report.arms, ["", "n", "n", "n", "n", "n", "n", "n"], (row, cells, arm) => {
    if (!cells[0].firstChild) {
      element(cells[0], "span", "swatch");
      element(cells[0], "span");
      element(cells[0], "span", "quiet");
    }
    const isOn = arm.mode === mode && arm.policy === policy;
    row.dataset.mode = arm.mode;
    row.classList.toggle("on", isOn);
    say(cells[0].children[1], armName(arm.mode, arm.policy));
    say(cells[0].children[2], isOn ? " in force" : "");
    say(cells[1], span(arm.active_seconds));
    say(cells[2], count(arm.connections));
    say(cells[3], count(arm.requests));
    say(cells[4], figure(arm.active_seconds > 0 ? arm.requests / arm.active_seconds : null));
    say(cells[5], duration(arm.requests > 0 ? arm.cpu_seconds / arm.requests : null));
    const latency = countedSince(arm.latency);
    say(cells[6], duration(quantile(latency, 0.5)));
    say(cells[7], duration(quantile(latency, 0.99)));
  });
}
