// Figures as text. Pure.

const MIB = 1024 * 1024;

/** Bytes as MiB; "–" if unknown. */
export function mib(bytes) {
  return bytes === null || bytes === undefined ? "–" : String(Math.round(bytes / MIB));
}

/** Bytes with a unit. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  if (Math.abs(bytes) >= 1024 * MIB) return `${(bytes / MIB / 1024).toFixed(1)} GiB`;
  return `${Math.round(bytes / MIB)} MiB`;
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(1)} %`;
}

/** Unix seconds as local time, with the date if it is another day than `now`. */
export function time(at, now = Date.now() / 1000) {
  const moment = new Date(at * 1000);
  const clock = moment.toTimeString().slice(0, 8);
  if (moment.toDateString() === new Date(now * 1000).toDateString()) return clock;
  const [month, day] = [moment.getMonth() + 1, moment.getDate()].map((part) => String(part).padStart(2, "0"));
  return `${moment.getFullYear()}-${month}-${day} ${clock}`;
}

/** The state of a sandbox, and of its balloon if it runs: what `ballonet top` shows. */
export function stateOf(sample) {
  if (sample.state !== "running") return sample.state;
  if (sample.unknown?.guest) return sample.unknown.balloon ? "no answer" : "silent guest";
  return sample.balloon_state ?? sample.state;
}

/** What a decision of the autopilot did. */
export function outcome(decision) {
  const { target_mib: target, old_mib: old } = decision;
  if (decision.pause) return "paused";
  if (target === null) return "unchanged";
  return target === old ? `stays at ${target} MiB` : `${old} → ${target} MiB`;
}

/** An input of a decision: a name and a value. */
export function input([name, value]) {
  const text = typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(6))) : value;
  return `${name} ${text === null ? "–" : text}`;
}

// Escape sequences of terminals (ECMA-48), and control characters besides tab and newline.
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/** Output of a program as plain text. */
export function plain(text) {
  return text.replace(ESCAPES, "").replace(CONTROLS, "");
}
