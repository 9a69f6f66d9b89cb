// The comparison: for each arm the ratio to the first one, with its interval, and what follows.

import { NONE, change, count, duration, figure, span } from "./numbers.js";
import { element, shape } from "./chart.js";
import { rows, say } from "./tables.js";

const METRICS = [
  { key: "throughput", floor: "throughput", name: "Requests/s", wish: "more is better", own: (arm) => figure(arm.requests_per_second) },
  { key: "cpu", floor: "cpu", name: "CPU per request", wish: "less is better", own: (arm) => duration(seconds(arm.cpu_us_per_request)) },
  { key: "latency_p99", floor: "p99", name: "Latency p99", wish: "less is better", own: (arm) => duration(arm.p99) },
];

const VERDICTS = {
  better: "better",
  worse: "worse",
  "no-difference": "no difference can be told",
  "too-little": "too few rounds to tell",
};

const ENDINGS = {
  running: () => "",
  complete: () => "complete",
  interrupted: () => "ended before its time",
  guarded: ({ why }) => `ended by its guard: ${why}`,
  failed: ({ why }) => `broken off: ${why}`,
};

const seconds = (us) => (us === null ? null : us / 1e6);
const isRatio = (n) => Number.isFinite(n) && n > 0;
const $ = (id) => document.getElementById(id);

/** Shows a report; null: there is none. */
export function showComparison(report) {
  $("comparison-none").hidden = report !== null;
  $("comparison").hidden = report === null;
  say($("comparison-what"), report ? what(report.comparison) : "");
  if (report === null) return;
  const { comparison, summary } = report;
  showProgress(comparison);
  const { text, configuration } = summary.recommendation;
  say($("recommendation"), text);
  say($("configuration"), configuration ?? "");
  $("configuration").hidden = configuration === null;
  const axes = METRICS.map((metric) => axis(metric, summary));
  showHead(axes);
  rows($("forest").tBodies[0], summary.arms, ["", ...METRICS.map(() => "interval"), "words"], (row, cells, arm) => {
    showArm(row, cells, arm, summary, axes);
  });
}

/** What was compared, when and how, in a line. */
function what({ scenario, load, circumstances, blocks, ending }) {
  const end = (ENDINGS[ending.ending] ?? (() => ending.ending))(ending);
  const last = blocks.at(-1);
  return [
    load || scenario,
    circumstances.began > 0 ? new Date(circumstances.began * 1000).toLocaleString("sv-SE") : "",
    last ? `took ${span(last.began + last.seconds)}` : "",
    end,
  ].filter(Boolean).join(" · ");
}

function showProgress({ blocks, arms, rounds, ending }) {
  const isRunning = ending.ending === "running";
  $("progress").hidden = !isRunning;
  if (!isRunning) return;
  const planned = Math.max(1, rounds * arms.length);
  $("progress").firstChild.value = Math.min(1, blocks.length / planned);
  const round = Math.min(rounds, Math.floor(blocks.length / Math.max(1, arms.length)) + 1);
  say($("progress-text"), `round ${round} of ${rounds}, block ${count(blocks.length)} of ${count(planned)}`);
}

/** Where ratios stand: logarithmic, 1 in the middle, as wide as the widest interval needs. */
function axis(metric, { arms, floor }) {
  const noise = floor?.[metric.floor] ?? null;
  const ends = arms.flatMap((arm) => (arm[metric.key] ? [arm[metric.key].low, arm[metric.key].high] : []));
  if (noise !== null) ends.push(1 + noise);
  const far = ends.filter(isRatio).map((ratio) => Math.abs(Math.log(ratio)));
  const reach = Math.min(Math.max(Math.log(1.05), ...far) * 1.12, Math.log(12));
  // In per cent of the width; what lies beyond is drawn at the edge.
  const place = (ratio) => 50 + 50 * Math.max(-1, Math.min(1, Math.log(ratio) / reach));
  const pairs = [[0.1, 10], [0.25, 4], [0.5, 2], [0.67, 1.5], [0.8, 1.25], [0.9, 1.1], [0.95, 1.05], [0.98, 1.02]];
  const marks = pairs.find(([low]) => Math.log(low) > -reach * 0.92) ?? [];
  return { metric, noise, place, marks: [marks[0], 1, marks[1]].filter(isRatio) };
}

function showHead(axes) {
  const row = $("forest").tHead.rows[0];
  row.replaceChildren();
  element(row, "th", "", "Mode and policy").scope = "col";
  for (const { metric, marks, place } of axes) {
    const head = element(row, "th", "interval");
    head.scope = "col";
    element(head, "span", "", metric.name + " ");
    element(head, "span", "quiet", metric.wish);
    const svg = shape(head, "svg", { height: 16, "aria-hidden": "true" });
    for (const mark of marks) {
      shape(svg, "text", { class: "middle", x: place(mark) + "%", y: 12 }, mark === 1 ? "1" : "×" + mark);
    }
  }
  element(row, "th", "words", "In words").scope = "col";
}

function showArm(row, cells, arm, summary, axes) {
  const isTwin = arm.twin_of !== null;
  const isBest = summary.recommendation.arm !== null && summary.arms[summary.recommendation.arm] === arm;
  row.dataset.arm = arm.name;
  row.classList.toggle("best", isBest);
  row.classList.toggle("twin", isTwin);
  const isBase = summary.arms[0] === arm;
  cells[0].replaceChildren();
  element(cells[0], "span", "", arm.name);
  const role = isTwin ? "the base once more: noise" : isBase ? "the base" : isBest ? "recommended" : "";
  if (role) element(cells[0], "span", "quiet role", role);
  if (arm.errors > 0) element(cells[0], "span", "role odd", `${count(arm.errors)} errors`);
  axes.forEach((scale, i) => showInterval(cells[i + 1], arm, scale));
  say(cells.at(-1), arm.words || (isBase ? "" : VERDICTS[arm.throughput?.verdict] ?? ""));
}

/** An interval in words; the unit once where both ends have it. */
function range(low, high) {
  const ends = [low, high].map(change);
  if (ends.every((end) => end.endsWith("%"))) return `${ends[0].replace(" %", "")} … ${ends[1]}`;
  // One way of saying it for both: per cent beside times can hardly be read.
  return [low, high].map((end) => "×" + Number(end.toPrecision(2))).join(" … ");
}

function showInterval(cell, arm, { metric, noise, place, marks }) {
  const contrast = arm[metric.key];
  cell.replaceChildren();
  cell.dataset.name = metric.name;
  const figures = element(cell, "p");
  element(figures, "span", "", metric.own(arm));
  const svg = shape(cell, "svg", { role: "img" });
  const at = (ratio) => `${place(ratio)}%`;
  if (noise !== null) {
    const [from, to] = [place(1 / (1 + noise)), place(1 + noise)];
    shape(svg, "rect", { class: "noise", x: `${from}%`, width: `${to - from}%`, height: "100%" });
  }
  for (const mark of marks) {
    shape(svg, "line", { class: mark === 1 ? "one" : "grid", x1: at(mark), x2: at(mark), y1: 0, y2: "100%" });
  }
  svg.setAttribute("aria-label", `${metric.name}: ${NONE}`);
  if (!contrast || ![contrast.ratio, contrast.low, contrast.high].every(isRatio)) return;
  const { ratio, low, high, rounds, verdict } = contrast;
  const kind = VERDICTS[verdict] ? verdict : "too-little";
  const interval = range(low, high);
  element(figures, "span", "by " + kind, change(ratio)).title = `×${ratio.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)}), ${rounds} rounds`;
  element(cell, "p", "quiet", interval);
  shape(svg, "line", { class: "reach " + kind, x1: at(low), x2: at(high), y1: "50%", y2: "50%" });
  shape(svg, "circle", { class: "ratio " + kind, cx: at(ratio), cy: "50%", r: 4.5 });
  svg.setAttribute("aria-label", `${metric.name}: ${change(ratio)}, interval ${interval}, ${VERDICTS[kind]}`);
}
