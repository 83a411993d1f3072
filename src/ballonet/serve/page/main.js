// The page: connects, keeps the figures of all sandboxes, and passes them to its parts.

import { ApiError, events, of, request, token } from "./api.js";
import { showAutopilot } from "./decisions.js";
import { $, setText, showFigures } from "./dom.js";
import { percent, size } from "./format.js";
import { Panel } from "./panel.js";
import { MemoryPlot } from "./plot.js";
import { FIELDS, GUESTS_FIELDS, HOST_FIELDS, Series } from "./series.js";
import { SandboxTable } from "./table.js";

const MIB = 1024 * 1024;
const POLL_MS = 2000;
const AUTOPILOT_MS = 10_000;
const TRAIL_S = 600;
const HOST_S = 3600;
// How many histories are requested at once.
const LOADERS = 4;
const AGAIN_MS = 2000;

const GUESTS_LINES = [
  { label: "Ceilings", colour: "ceiling", dash: [2, 4] },
  { label: "Promised (targets)", colour: "target", dash: [8, 4] },
  { label: "Held", colour: "held", fill: true, width: 1 },
];
const HOST_LINES = [
  { label: "Total", colour: "ceiling", dash: [2, 4] },
  { label: "Available", colour: "available", fill: true },
];

const state = { host: null, samples: [], trails: new Map(), selected: null };
const guestsSeries = new Series(GUESTS_FIELDS, HOST_S);
const hostSeries = new Series(HOST_FIELDS, HOST_S);
let guestsPlot, hostPlot, table, panel;
let polling = null;
let pollAgain = false;

/** Read the memory of the host and of all sandboxes. Calls while it is read lead to one more. */
function poll() {
  if (polling) {
    pollAgain = true;
    return polling;
  }
  polling = readMemory().finally(() => {
    polling = null;
    if (pollAgain) {
      pollAgain = false;
      poll();
    }
  });
  return polling;
}

async function readMemory() {
  try {
    const { host, sandboxes } = await request("GET", "v1/memory");
    state.host = host;
    state.samples = sandboxes;
    hostSeries.add(host);
    guestsSeries.add(host);
    const missing = [];
    for (const sample of sandboxes) {
      let trail = state.trails.get(sample.name);
      if (!trail || trail.createdFor !== sample.run_id) {
        trail = Object.assign(new Series(FIELDS, TRAIL_S), { createdFor: sample.run_id });
        state.trails.set(sample.name, trail);
        missing.push(sample.name);
      }
      if (sample.state === "running") trail.add(sample);
    }
    const names = new Set(sandboxes.map((each) => each.name));
    for (const name of state.trails.keys()) if (!names.has(name)) state.trails.delete(name);
    connected(true);
    draw();
    loadTrails(missing);
  } catch (error) {
    failed(error);
  }
}

/** The last minutes of sandboxes from their histories. */
async function loadTrails(names) {
  const load = async () => {
    for (let name; (name = names.pop()) !== undefined; ) {
      try {
        const found = await request("GET", of(name, `/history?since=${Date.now() / 1000 - TRAIL_S}`));
        state.trails.get(name)?.addEarlier(found);
      } catch {
        // it is gone, or has no history
      }
    }
  };
  if (names.length === 0) return;
  await Promise.all(Array.from({ length: LOADERS }, load));
  draw();
}

/** Follow events: a move of a balloon is shown at once, other changes by reading all memory again. */
async function follow() {
  let after = null;
  for (;;) {
    try {
      for await (const { kind, id, data } of events("v1/events", { after })) {
        after = id ?? after;
        if (kind === "balloon") balloonMoved(data);
        else poll();
        if (kind === "state" && data.name === panel.name) panel.describe();
      }
    } catch (error) {
      failed(error);
      if (error instanceof ApiError && error.status === 401) return;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function balloonMoved(data) {
  const sample = state.samples.find((each) => each.name === data.name);
  if (!sample) return;
  const bytes = (mib) => (mib === null ? null : mib * MIB);
  sample.target = bytes(data.target_mib);
  sample.requested = bytes(data.requested_mib);
  sample.actual = bytes(data.actual_mib);
  sample.limit = data.limit_mib === null ? sample.ceiling : bytes(data.limit_mib);
  sample.balloon_state = data.state;
  sample.at = Math.max(sample.at, Date.parse(data.at) / 1000);
  state.trails.get(sample.name)?.add(sample);
  draw();
}

let drawing = false;

/** Show what is known now, once for each frame: many balloons may move at once. A hidden page draws nothing. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawNow();
  });
}

function drawNow() {
  table.show(state.samples, state.trails, state.selected);
  const chosen = state.samples.find((each) => each.name === state.selected);
  if (chosen) panel.update(chosen);
  else if (state.selected !== null && state.host) select(null);
  const { host } = state;
  if (!host) return;
  const running = state.samples.filter((each) => each.state === "running").length;
  showFigures($("host-figures"), [
    ["Total", size(host.total)],
    ["Available", size(host.available)],
    ["Held by guests", size(host.held)],
    ["Promised", size(host.promised), "The sum of all targets"],
    ["Ceilings", `${size(host.committed)}${host.overcommit ? ` (${host.overcommit.toFixed(2)} × host)` : ""}`],
    ["Pressure", percent(host.pressure_some_avg10), "Part of the last 10 s in which a task waited for memory"],
    ["Sandboxes", `${state.samples.length}, ${running} running`],
  ]);
  const to = Math.max(host.at, Date.now() / 1000);
  const window = Number($("host-window").value);
  guestsPlot.show(guestsSeries.columns(to), guestsSeries.begin(to, window), to);
  hostPlot.show(hostSeries.columns(to), hostSeries.begin(to, window), to);
}

function select(name) {
  if (name === state.selected) name = null; // a second click closes it
  const before = state.selected;
  state.selected = name;
  history.replaceState(null, "", name === null ? location.pathname : `#${encodeURIComponent(name)}`);
  panel.choose(name);
  drawNow();
  if (name !== null) {
    $("panel-title").focus({ preventScroll: true });
    $("panel").scrollIntoView({ block: "nearest" });
  } else if (before !== null) {
    document.querySelector(`#table tr[data-name="${CSS.escape(before)}"] button`)?.focus();
  }
}

function tell(text, isProblem) {
  $("message-text").textContent = text;
  $("message-text").className = isProblem ? "problem" : "";
  $("message-close").hidden = text === "";
  if (text === "") return;
  if (!text.endsWith("…")) poll();
}

function connected(works, why = "") {
  setText($("connection"), works ? "Connected" : `Not connected: ${why}`);
  $("connection").className = works ? "" : "problem";
}

function failed(error) {
  if (error.name === "AbortError") return;
  connected(false, error.message);
  if (error instanceof ApiError && error.status === 401) location.reload(); // asks for a token again
}

async function start() {
  try {
    await request("GET", "v1/version");
  } catch (error) {
    setText($("connection"), "Not connected");
    if (error.status === 401) {
      askForToken(token.get() ? error.message : "");
    } else {
      connected(false, error.message);
      setTimeout(start, AGAIN_MS);
    }
    return;
  }
  $("login").hidden = true;
  $("content").hidden = false;
  $("forget").hidden = token.get() === null;
  guestsPlot = new MemoryPlot($("guests-plot"), GUESTS_LINES);
  hostPlot = new MemoryPlot($("host-plot"), HOST_LINES);
  table = new SandboxTable(select);
  panel = new Panel(tell, () => select(null));
  $("message-close").addEventListener("click", () => tell("", false));
  $("host-window").addEventListener("change", draw);
  await poll();
  const named = decodeURIComponent(location.hash.slice(1));
  if (state.samples.some((each) => each.name === named)) select(named);
  follow();
  const every = (ms, work) => {
    work();
    setInterval(() => document.hidden || work(), ms);
  };
  every(POLL_MS, poll);
  every(AUTOPILOT_MS, () => showAutopilot().catch(failed));
  document.addEventListener("visibilitychange", () => document.hidden || poll());
}

function askForToken(why) {
  token.forget();
  $("login").hidden = false;
  $("login-problem").textContent = why;
  $("token").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("token").value = "";
  start();
});
$("forget").addEventListener("click", () => {
  token.forget();
  location.reload();
});
start();
