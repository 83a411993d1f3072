// The selected sandbox: its memory over time, decisions about it, a terminal, its log, and what can be done with it.

import { ActionBar } from "./actions.js";
import { of, request } from "./api.js";
import { showDecisions } from "./decisions.js";
import { $, setText, showFigures } from "./dom.js";
import { percent, size, stateOf, time } from "./format.js";
import { LogView } from "./logs.js";
import { MemoryPlot } from "./plot.js";
import { FIELDS, Series } from "./series.js";
import { TerminalView } from "./terminal.js";

const TABS = ["memory", "decisions", "terminal", "logs"];
const LINES = [
  { label: "Ceiling", colour: "ceiling", dash: [2, 4], width: 1.5 },
  { label: "Target", colour: "target", dash: [8, 4] },
  { label: "Actual", colour: "actual" },
  { label: "Held", colour: "held", fill: true, width: 1 },
  { label: "Available in the guest", colour: "available", dash: [4, 3], width: 1.5 },
];

export class Panel {
  name = null;
  #tab = "memory";
  #series = null;
  #plot = new MemoryPlot($("plot"), LINES);
  #logs = new LogView();
  #terminal;
  #actions;
  #close;

  constructor(tell, close) {
    this.#close = close;
    this.#terminal = new TerminalView((error) => tell(error.message, true));
    this.#actions = new ActionBar(tell);
    for (const tab of TABS) $(`tab-${tab}`).addEventListener("click", () => this.#open(tab));
    $("panel").querySelector("[role=tablist]").addEventListener("keydown", (event) => this.#moveTab(event));
    $("panel-close").addEventListener("click", () => this.#close());
    $("decisions-reload").addEventListener("click", () => showDecisions(this.name));
    $("window").addEventListener("change", () => this.#load());
  }

  /** Show another sandbox; null: none. */
  async choose(name) {
    if (name === this.name) return;
    this.name = name;
    this.#series = null;
    this.#terminal.choose(name);
    this.#logs.follow(null);
    $("panel").hidden = name === null;
    if (name === null) return;
    $("panel-title").textContent = name;
    $("panel-about").textContent = "";
    this.#open(this.#tab);
    await Promise.all([this.#load(), this.describe()]);
  }

  /** What it is made of. */
  async describe() {
    const name = this.name;
    if (name === null) return;
    try {
      const found = await request("GET", of(name));
      if (name !== this.name) return;
      const parts = [`image ${found.image ?? "built-in"}`];
      if (found.command) parts.push(`command ${found.command.join(" ")}`);
      if (found.ports.length > 0) parts.push(`ports ${found.ports.join(", ")}`);
      if (found.health) parts.push(found.health);
      if (found.started_at) parts.push(`started ${time(Date.parse(found.started_at) / 1000)}`);
      if (found.end_reason) parts.push(`ended: ${found.end_detail ?? found.end_reason}`);
      for (const [key, value] of Object.entries(found.labels)) parts.push(`${key}=${value}`);
      $("panel-about").textContent = parts.join(" · ");
    } catch (error) {
      $("panel-about").textContent = error.message;
    }
  }

  /** New figures of the sandbox that is shown. */
  update(sample) {
    setText($("panel-state"), stateOf(sample));
    this.#actions.show(sample);
    if (sample.state === "running") this.#series?.add(sample);
    showFigures($("figures"), [
      ["Ceiling", size(sample.ceiling), "The most that it may have"],
      ["Target", size(sample.target), "What it should have now"],
      ["Actual", size(sample.actual), "What its guest has now"],
      ["Held", size(sample.guest_ram), "Host memory that holds its guest's RAM"],
      ["Engine", size(sample.overhead), "Memory of the engine itself"],
      ["Available", size(sample.guest_available), "What its guest could still use"],
      ["Caches", size(sample.guest_caches), "Files that its guest keeps in memory"],
      ["Floor", size(sample.floor), "The least that a target may be"],
      ["Limit", size(sample.limit), "The most that a target may be now"],
      ["Pressure", percent(sample.pressure_some_avg10), "Part of the last 10 s in which a task waited for memory"],
      ["Out of memory", String(sample.oom_kills ?? "–"), "Programs that its kernel has killed for lack of memory"],
    ]);
    this.draw();
  }

  draw() {
    if (this.#tab !== "memory" || this.name === null || this.#series === null) return;
    const now = Date.now() / 1000;
    const last = this.#series.points.at(-1);
    const to = Math.max(now, last?.at ?? now);
    // A sandbox that does not run has no memory now: its lines end with its last sample.
    const runs = stateIs("running");
    const begin = this.#series.begin(to, Number($("window").value));
    this.#plot.show(this.#series.columns(runs ? to : (last?.at ?? to)), begin, to);
  }

  async #load() {
    const name = this.name;
    const window = Number($("window").value);
    const series = new Series(FIELDS, window);
    try {
      const found = await request("GET", of(name, `/history?since=${Date.now() / 1000 - window}`));
      if (name !== this.name || window !== Number($("window").value)) return;
      series.addEarlier(found);
    } catch {
      // no history: it was never started, or it is gone
    }
    if (name === this.name) {
      this.#series = series;
      this.draw();
    }
  }

  #open(tab) {
    this.#tab = tab;
    for (const each of TABS) {
      const chosen = each === tab;
      $(`tab-${each}`).setAttribute("aria-selected", String(chosen));
      $(`tab-${each}`).tabIndex = chosen ? 0 : -1;
      $(`view-${each}`).hidden = !chosen;
    }
    this.#logs.follow(tab === "logs" ? this.name : null);
    if (tab === "memory") this.draw();
    if (tab === "decisions") showDecisions(this.name);
  }

  #moveTab(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = TABS[(TABS.indexOf(this.#tab) + by + TABS.length) % TABS.length];
    this.#open(next);
    $(`tab-${next}`).focus();
    event.preventDefault();
  }
}

function stateIs(state) {
  return document.querySelector("#table tr.selected")?.dataset.state === state;
}
