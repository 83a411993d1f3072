// What can be done with a sandbox: its balloon, and its life.

import { of, request } from "./api.js";
import { $, confirmed, element } from "./dom.js";

const MIB = 1024 * 1024;
// As in 'ballonet top': a step is this part of the ceiling.
const STEP_PART = 8;
const LEAST_STEP_MIB = 16;

function stepOf(sample) {
  return Math.max(LEAST_STEP_MIB, Math.floor(sample.ceiling / MIB / STEP_PART));
}

function moved(by) {
  return async (sample) => {
    const target = Math.max(0, Math.round(sample.target / MIB) + by * stepOf(sample));
    const reply = await request("PUT", of(sample.name, "/balloon"), { target });
    const clamped = reply.target_mib === target ? "" : ` (${target} MiB is outside of its limits)`;
    return `The target of ${sample.name} is ${reply.target_mib} MiB now${clamped}.`;
  };
}

const runs = (sample) => sample.state === "running";
const hasBalloon = (sample) => runs(sample) && sample.target !== null;

const ACTIONS = [
  { id: "grow", text: (s) => `Grow by ${stepOf(s)} MiB`, when: hasBalloon, run: moved(1) },
  { id: "shrink", text: (s) => `Shrink by ${stepOf(s)} MiB`, when: hasBalloon, run: moved(-1) },
  {
    id: "trim",
    text: () => "Trim",
    when: hasBalloon,
    run: async ({ name }) => {
      await request("POST", of(name, "/balloon/trim"), {});
      return `The guest of ${name} has returned memory that it does not need.`;
    },
  },
  {
    id: "pause",
    text: () => "Pause",
    when: runs,
    ask: ({ name }) => `Pause ${name}? It is saved to disk, and takes no memory until it is resumed.`,
    run: async ({ name }) => {
      await request("POST", of(name, "/pause"), {});
      return `${name} is paused.`;
    },
  },
  {
    id: "resume",
    text: () => "Resume",
    when: (sample) => sample.state === "paused",
    run: async ({ name }) => {
      await request("POST", of(name, "/resume"), {});
      return `${name} runs again.`;
    },
  },
  {
    id: "start",
    text: () => "Start",
    when: (sample) => ["created", "stopped", "failed"].includes(sample.state),
    run: async ({ name }) => {
      await request("POST", of(name, "/start"), {});
      return `${name} runs.`;
    },
  },
  {
    id: "stop",
    text: () => "Stop",
    when: (sample) => runs(sample) || sample.state === "paused",
    ask: ({ name }) => `Stop ${name}? Its programs end.`,
    run: async ({ name }) => {
      await request("POST", of(name, "/stop"), {});
      return `${name} was stopped.`;
    },
  },
];

export class ActionBar {
  #sample = null;
  #running = null;
  #buttons = new Map();
  #tell;

  /** `tell(text, isProblem)` shows the result of an action. */
  constructor(tell) {
    this.#tell = tell;
    for (const action of ACTIONS) {
      const attributes = { type: "button", "data-action": action.id, click: () => this.#start(action) };
      const button = element("button", attributes);
      this.#buttons.set(action, button);
      $("actions").append(button);
    }
  }

  show(sample) {
    this.#sample = sample;
    for (const [action, button] of this.#buttons) {
      button.hidden = !action.when(sample);
      // Not 'disabled': the focus would be lost.
      button.setAttribute("aria-disabled", String(this.#running !== null));
      if (!button.hidden) button.textContent = this.#running === action ? `${action.text(sample)}…` : action.text(sample);
    }
  }

  async #start(action) {
    const sample = this.#sample;
    if (this.#running !== null) return;
    if (action.ask && !(await confirmed(action.ask(sample), action.text(sample)))) return;
    this.#running = action;
    this.show(sample);
    this.#tell(`${sample.name}: ${action.text(sample)}…`, false);
    try {
      this.#tell(await action.run(sample), false);
    } catch (error) {
      this.#tell(`${sample.name}: ${error.message}`, true);
    }
    this.#running = null;
    this.show(this.#sample);
  }
}
