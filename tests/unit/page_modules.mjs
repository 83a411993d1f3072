// Tests of the page's pure modules, for Node.js: node page_modules.mjs DIRECTORY. Prints 'all passed', or fails.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const load = async (name) => {
  // As a data URL: without a package.json, Node.js would take a .js file for a script.
  const text = readFileSync(join(process.argv[2], name), "utf8");
  return import(`data:text/javascript;base64,${Buffer.from(text).toString("base64")}`);
};
const { EventParser } = await load("event_parser.js");
const { Series, steps } = await load("series.js");
const { mib, size, time, stateOf, outcome, input, plain } = await load("format.js");

// Events arrive in any pieces.
const stream = ': keep-alive\n\nevent: balloon\nid: a-1\ndata: {"name": "box"}\n\nevent: end\ndata: {}\n\nevent: la';
const expected = [
  { kind: "balloon", id: "a-1", data: { name: "box" } },
  { kind: "end", id: "a-1", data: {} },
];
for (let length = 1; length <= stream.length; length += 1) {
  const parser = new EventParser();
  const found = [];
  for (let at = 0; at < stream.length; at += length) found.push(...parser.feed(stream.slice(at, at + length)));
  assert.deepEqual(found, expected);
}

// A series keeps what its window needs, and the value before it.
const series = new Series(["target"], 10);
for (const at of [100, 104, 108, 112, 116]) series.add({ at, target: at, other: 1 });
assert.deepEqual(series.points.map((each) => each.at), [104, 108, 112, 116]);
series.add({ at: 116, target: 5 }); // a later figure of the same moment
series.add({ at: 110, target: 6 }); // too late
assert.deepEqual(series.points.at(-1), { at: 116, target: 5 });
series.addEarlier([{ at: 90, target: 1 }, { at: 106, target: 2 }]);
assert.deepEqual(series.points.map((each) => each.at), [90, 104, 108, 112, 116]);
assert.deepEqual(series.columns(120)[0].at(-1), 120);
assert.deepEqual(series.columns(120)[1].at(-1), 5);
assert.equal(series.begin(120, 25), 60); // at least a minute
assert.equal(series.begin(220, 600), 90); // not before the first point
assert.equal(series.begin(220, 100), 120);
assert.equal(new Series(["x"], 1).begin(100, 600), 40);

// A line of steps: values hold, unknown ones leave a gap, and what is older is cut.
const how = { now: 100, window: 100, width: 100, height: 10, scale: 10 };
const line = (...points) => points.map(([at, v]) => ({ at, v }));
assert.equal(steps(line([-50, 10], [50, 5]), "v", how), "M0.0 0.0H50.0V5.0H100.0");
assert.equal(steps(line([10, 5], [40, null], [80, 10]), "v", how), "M10.0 5.0H40.0M80.0 0.0H100.0");
assert.equal(steps(line([20, 5]), "v", { ...how, closed: true }), "M20.0 10V5.0H100.0V10H20.0Z");
assert.equal(steps(line([20, 5]), "v", { ...how, until: 60 }), "M20.0 5.0H60.0");
assert.equal(steps(line([20, 50]), "v", how), "M20.0 0.0H100.0"); // no more than the scale
assert.equal(steps([], "v", how), "");
assert.equal(steps(line([20, 5]), "v", { ...how, scale: 0 }), "");

// Figures.
assert.deepEqual([mib(null), mib(1 << 20), size(null), size(3 << 20), size(1.5 * 2 ** 30)], ["–", "1", "–", "3 MiB", "1.5 GiB"]);
assert.match(time(86400 * 365, 86400 * 365 + 5), /^\d\d:\d\d:\d\d$/);
assert.match(time(86400 * 365, 86400 * 400), /^197\d-\d\d-\d\d \d\d:\d\d:\d\d$/);
assert.equal(stateOf({ state: "paused" }), "paused");
assert.equal(stateOf({ state: "running", balloon_state: "applied", unknown: {} }), "applied");
assert.equal(stateOf({ state: "running", balloon_state: null, unknown: { guest: "x" } }), "silent guest");
assert.equal(stateOf({ state: "running", unknown: { guest: "x", balloon: "y" } }), "no answer");
assert.equal(outcome({ target_mib: null, old_mib: 5 }), "unchanged");
assert.equal(outcome({ target_mib: 5, old_mib: 5 }), "stays at 5 MiB");
assert.equal(outcome({ target_mib: 4, old_mib: 5 }), "5 → 4 MiB");
assert.equal(outcome({ target_mib: null, pause: true }), "paused");
assert.deepEqual([["a", 1.23456789], ["b", 3], ["c", null], ["d", "x"]].map(input), ["a 1.23457", "b 3", "c –", "d x"]);
assert.equal(plain("\x1b[1;31mred\x1b[0m\x1b]0;title\x07 a\tb\r\n\x00\x9b"), "red a\tb\n");

console.log("all passed");
