// Why the autopilot did what it did: its record about one sandbox, and its status.

import { of, request } from "./api.js";
import { $, element } from "./dom.js";
import { input, outcome, time } from "./format.js";

const COUNT = 50;

export async function showDecisions(name) {
  const list = $("decisions");
  let found;
  try {
    found = await request("GET", of(name, `/decisions?last=${COUNT}`));
  } catch (error) {
    list.replaceChildren(element("li", { class: "problem" }, error.message));
    return;
  }
  if (found.length === 0) {
    const none = "No decisions are recorded. They are recorded while an autopilot runs: ballonet pilot";
    list.replaceChildren(element("li", {}, none));
    return;
  }
  list.replaceChildren(...found.reverse().map(decisionOf));
}

function decisionOf(decision) {
  const at = element("time", { datetime: new Date(decision.at * 1000).toISOString() }, time(decision.at));
  const item = element("li", {}, at, " ", element("strong", {}, outcome(decision)), ` (${decision.policy})`);
  item.append(element("p", {}, decision.reason));
  for (const key of ["error", "problem"]) {
    if (decision[key]) item.append(element("p", { class: "problem" }, `${key}: ${decision[key]}`));
  }
  const inputs = Object.entries(decision.inputs ?? {}).map(input).join(", ");
  if (inputs) item.append(element("details", {}, element("summary", {}, "Inputs"), inputs));
  return item;
}

export async function showAutopilot() {
  const { running, policy, paused_since: paused, last } = await request("GET", "v1/autopilot");
  let text = "Autopilot: not running. Targets change only by command, and by each sandbox's pressure relief.";
  if (running && paused !== null) text = `Autopilot: paused (policy ${policy}).`;
  else if (running) {
    text = `Autopilot: running (policy ${policy})`;
    if (last) text += `, last decision at ${time(last.at)}${last.notes?.length ? `: ${last.notes.join("; ")}` : ""}`;
    text += ".";
  }
  $("autopilot").textContent = text;
}
