// The page's heart: asks the master again and again, and shows what changed.

import * as n from "./page/numbers.js";
import { LONGEST, TimeChart, linearAxis, logAxis, skyline } from "./page/chart.js";
import { say, showArms, showClasses, showListeners, showPairs, showWorkers } from "./page/tables.js";
import { showComparison } from "./page/comparison.js";

// Milliseconds between two questions, the longest after failures, and how long an answer may take.
const EVERY = 1000;
const COMPARISON_EVERY = 5000;
const AT_MOST = 10_000;
const PATIENCE = 5000;
// After a longer pause (nobody looked, nobody answered) there is no line through it.
const GAP = 4000;
// A mean over a longer pause says nothing of now.
const TOO_LONG = 15_000;
// More workers than this are hard to take in as rows.
const MANY = 16;

const $ = (id) => document.getElementById(id);

/**
 * Asks for `path` again and again: never twice at once, not while nobody looks, less and less often while
 * there is no answer. `took` gets each answer, `missed` the reason why there was none.
 */
function keepAsking(path, every, took, missed) {
  let [timer, isAsking, failures] = [0, false, 0];
  async function ask() {
    clearTimeout(timer);
    if (isAsking || document.hidden) return;
    isAsking = true;
    const begun = performance.now();
    let answer;
    try {
      const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!response.ok) throw new Error(`it answers ${response.status}`);
      answer = await response.json();
      failures = 0;
    } catch (error) {
      failures += 1;
      missed(error);
    }
    isAsking = false;
    const pause = failures > 0 ? Math.min(every * 2 ** (failures - 1), AT_MOST) : every;
    timer = setTimeout(ask, Math.max(0, pause - (failures > 0 ? 0 : performance.now() - begun)));
    // Last: should the page stumble over an answer, it goes on with the next one.
    if (failures === 0) took(answer);
  }
  document.addEventListener("visibilitychange", ask);
  addEventListener("online", ask);
  ask();
}

const latencyAxis = (values) => (values.length > 0 ? logAxis(Math.min(...values), Math.max(...values)) : logAxis(1e-4, 1e-2));
const charts = [
  new TimeChart($("throughput"), {
    about: "requests a second",
    lines: [{ key: "rate", name: "requests/s", kind: "first" }, { key: "errors", name: "errors/s", kind: "bad" }],
    text: n.figure,
    axis: (values) => linearAxis(Math.max(1, ...values)),
  }),
  new TimeChart($("latency"), {
    about: "latency",
    lines: [{ key: "p50", name: "p50", kind: "first" }, { key: "p99", name: "p99", kind: "second" }],
    text: n.duration,
    axis: latencyAxis,
  }),
];

/** The last report, and when it came. */
let before = null;
let cameAt = 0;
/** What the charts show. */
let samples = [];

/** What happened between two reports of the same master. */
function difference(now, then) {
  const seconds = now.at - then.at;
  const by = (key) => Math.max(0, (now.requests[key] ?? 0) - (then.requests[key] ?? 0));
  const requests = Object.keys(now.requests).reduce((sum, key) => sum + by(key), 0);
  const counted = n.countedSince(now.latency, then.latency);
  const cpu = Math.max(0, now.cpu_seconds - then.cpu_seconds);
  return {
    seconds,
    rate: requests / seconds,
    errors: (by("5xx") + by("aborted")) / seconds,
    p50: n.quantile(counted, 0.5),
    p99: n.quantile(counted, 0.99),
    cpu: cpu / seconds,
    cpuEach: requests > 0 ? cpu / requests : null,
    opened: Math.max(0, now.connections - then.connections) / seconds,
  };
}

/** Is `now` from a master that was not there when `then` came? Its clock has begun anew. */
const isAnother = (now, then) => now.status.pid !== then.status.pid || now.at < then.at;

/**
 * Can a difference be taken? Not if nobody looked for long. Not if the master's clock went otherwise than ours:
 * in a container the next master has the same process id, and may have run for longer than the first when we
 * looked again.
 */
function isSame(now, then, passed) {
  const seconds = now.at - then.at;
  return passed < TOO_LONG && !isAnother(now, then) && seconds > 0 && Math.abs(seconds - passed / 1000) < 5;
}

function took(now) {
  const moment = performance.now();
  const passed = moment - cameAt;
  const then = before && isSame(now, before, passed) ? before : null;
  const isNew = before !== null && isAnother(now, before);
  const did = then ? difference(now, then) : null;
  const { mode, policy } = now.status;
  if (did) {
    const isGap = passed > GAP || samples.at(-1)?.t !== cameAt;
    samples.push({ ...did, t: moment, from: isGap ? moment - Math.min(passed, EVERY) : cameAt, gap: isGap, mode, arm: n.armName(mode, policy) });
  }
  samples = samples.filter((sample) => sample.t > moment - LONGEST);
  before = now;
  cameAt = moment;
  answered(isNew);
  showHead(now);
  showTiles(now, did);
  showRest(now, then, did?.seconds);
  for (const chart of charts) chart.show(samples, moment);
}

let missedSince = null;

function answered(isNew) {
  missedSince = null;
  document.body.dataset.contact = "live";
  if (isNew) say($("contact"), `live; started anew at ${n.clock(Date.now())}`);
  else if (!$("contact").textContent.startsWith("live")) say($("contact"), "live");
}

function missed(error) {
  missedSince ??= performance.timeOrigin + (cameAt || performance.now());
  document.body.dataset.contact = "none";
  const why = error.name === "TypeError" ? "" : error.name === "TimeoutError" ? ": it takes too long" : `: ${error.message}`;
  say($("contact"), `no answer since ${n.clock(missedSince)}${why}; asking on`);
}

function showHead({ status }) {
  say($("mode"), status.mode);
  $("mode").dataset.mode = status.mode;
  say($("policy"), status.policy === "none" ? "" : status.policy);
  say($("state"), status.state);
  $("state").dataset.state = status.state;
  const upgrades = status.upgrades > 0 ? ` · ${status.upgrades} ${status.upgrades === 1 ? "upgrade" : "upgrades"}` : "";
  say($("facts"), `version ${status.version} · up ${n.span(status.uptime_seconds)} · process ${status.pid}${upgrades}`);
  $("operation").hidden = status.operation === null;
  say($("operation"), status.operation === null ? "" : `In progress: ${status.operation}`);
  const failures = [
    status.last_failure && `The last thing asked for failed: ${status.last_failure}`,
    !status.reload.successful && `The last reload failed and changed nothing: ${status.reload.error ?? "no reason given"}`,
  ].filter(Boolean);
  $("failure").hidden = failures.length === 0;
  say($("failure"), failures.join(" · "));
}

function showTiles(now, did) {
  say($("rate"), n.figure(did?.rate));
  say($("p50"), n.duration(did?.p50));
  say($("p99"), n.duration(did?.p99));
  say($("flight"), n.count(now.requests_in_flight));
  say($("open"), n.count(now.status.connections_open));
  say($("opened"), did ? `open, ${n.figure(did.opened)} new/s` : "open");
  say($("skew"), now.imbalance > 0 ? now.imbalance.toFixed(2) : n.NONE);
  say($("cpu"), n.cores(did?.cpu));
  say($("cpu-each"), did?.cpuEach ? `${n.duration(did.cpuEach)} a request` : "busy");
  const errors = (now.requests["5xx"] ?? 0) + (now.requests.aborted ?? 0);
  const { connections_lost: lost } = now.status;
  say($("errors"), n.figure(did?.errors) + (did ? "/s" : ""));
  say($("lost"), `${n.count(errors)} in all, ${n.count(lost)} lost`);
  $("errors-tile").classList.toggle("odd", (did?.errors ?? 0) > 0);
  $("lost").classList.toggle("odd", lost > 0);
}

function showRest(now, then, seconds) {
  const { status } = now;
  const open = now.workers.filter((worker) => worker.state === "ready").map((worker) => worker.connections_open);
  const mean = open.length > 0 ? open.reduce((sum, some) => sum + some, 0) / open.length : null;
  const odd = [[status.workers_hung, "hung"], [status.workers_draining, "draining"], [status.crash_loops, "in a crash loop"]];
  const others = odd.filter(([some]) => some > 0).map(([some, what]) => `, ${some} ${what}`);
  say($("workers-ready"), `${status.workers_ready} of ${status.workers} ready${others.join("")}`);
  $("skyline").hidden = now.workers.length <= MANY;
  if (now.workers.length > MANY) skyline($("skyline"), now.workers, mean ?? 0);
  showWorkers($("workers").tBodies[0], $("draining"), now, then, seconds, mean);
  showClasses($("classes").tBodies[0], now, then, seconds);
  showListeners($("listeners").tBodies[0], now);
  showArms($("arms").tBodies[0], now);
  const { count, file } = status.reload;
  showPairs($("besides"), [
    ["From clients", n.bytes(now.received)],
    ["To clients", n.bytes(now.sent)],
    ["Connections taken", n.count(now.connections)],
    ["Handed over", n.count(now.handoffs)],
    ["Hand-over p99", n.duration(n.quantile(n.countedSince(now.handoff), 0.99))],
    ["Redispatched", n.count(status.connections_redispatched)],
    ["CPU time", n.span(now.cpu_seconds)],
    ...(file ? [["File", file]] : []),
    ...(count > 0 ? [["Reloads", n.count(count)]] : []),
  ]);
}

document.title = `Pointsman · ${location.host}`;
keepAsking("live", EVERY, took, missed);
keepAsking("comparison?brief", COMPARISON_EVERY, showComparison, () => {});
