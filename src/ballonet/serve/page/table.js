// The table of all sandboxes: a row for each, with its figures and its last minutes.

import { $, element, setText, svg } from "./dom.js";
import { mib, percent, stateOf } from "./format.js";
import { steps } from "./series.js";

const WINDOW_S = 600;
const WIDTH = 140;
const HEIGHT = 26;

const COLUMNS = [
  { key: "name", heading: "Name", of: (s) => s.name },
  { key: "host", heading: "Host", of: (s) => s.host ?? "", meaning: "Where it runs" },
  { key: "state", heading: "State", of: stateOf },
  { key: "ceiling", heading: "Ceiling", of: (s) => s.ceiling, text: mib, meaning: "The most that it may have" },
  { key: "target", heading: "Target", of: (s) => s.target, text: mib, meaning: "What it should have now" },
  { key: "actual", heading: "Actual", of: (s) => s.actual, text: mib, meaning: "What its guest has now" },
  { key: "guest_ram", heading: "Held", of: (s) => s.guest_ram, text: mib, meaning: "Host memory that holds its guest's RAM" },
  { key: "available", heading: "Available", of: (s) => s.guest_available, text: mib, meaning: "What its guest could still use" },
  { key: "pressure", heading: "Pressure", of: (s) => s.pressure_some_avg10, text: percent, meaning: "Part of the last 10 s in which a task waited for memory" },
];

export class SandboxTable {
  #rows = new Map();
  #select;
  #sort = { key: "name", descending: false };
  #samples = [];
  #trails = new Map();
  #selected = null;

  /** `select(name)` is called when the user selects a sandbox. */
  constructor(select) {
    this.#select = select;
    const head = $("table").tHead.rows[0];
    for (const column of COLUMNS) {
      const button = element("button", { type: "button", click: () => this.#sortBy(column) }, column.heading);
      head.append(element("th", { scope: "col", class: column.key, title: column.meaning }, button));
    }
    head.append(element("th", { scope: "col", class: "history" }, "Last 10 minutes"));
    $("filter").addEventListener("input", () => this.#draw());
    $("table").tBodies[0].addEventListener("keydown", (event) => this.#move(event));
    this.#markSorted();
  }

  /** `trails`: a Series for each name. */
  show(samples, trails, selected) {
    this.#samples = samples;
    $("table").classList.toggle("hosts", samples.some((sample) => sample.host));
    this.#trails = trails;
    this.#selected = selected;
    this.#draw();
  }

  #sortBy(column) {
    const same = this.#sort.key === column.key;
    // The first click on a figure shows the largest one first.
    this.#sort = { key: column.key, descending: same ? !this.#sort.descending : column.text !== undefined };
    this.#markSorted();
    this.#draw();
  }

  #markSorted() {
    for (const [at, column] of COLUMNS.entries()) {
      const sorted = this.#sort.key === column.key;
      const order = this.#sort.descending ? "descending" : "ascending";
      $("table").tHead.rows[0].cells[at].setAttribute("aria-sort", sorted ? order : "none");
    }
  }

  #shown() {
    const words = $("filter").value.trim().toLowerCase();
    const { of } = COLUMNS.find((column) => column.key === this.#sort.key);
    const sign = this.#sort.descending ? -1 : 1;
    const fits = (sample) =>
      [sample.name, sample.host ?? "", stateOf(sample)].some((text) => text.toLowerCase().includes(words));
    return this.#samples.filter(fits).sort((a, b) => {
      const [x, y] = [of(a) ?? null, of(b) ?? null];
      if (x === null || y === null) return (x === null) - (y === null) || (a.name < b.name ? -1 : 1);
      return sign * (x < y ? -1 : x > y ? 1 : 0) || (a.name < b.name ? -1 : 1);
    });
  }

  #draw() {
    const body = $("table").tBodies[0];
    const shown = this.#shown();
    const scale = Math.max(1, ...this.#samples.map((each) => Math.max(each.ceiling ?? 0, each.guest_ram ?? 0)));
    const now = Date.now() / 1000;
    for (const [at, sample] of shown.entries()) {
      let row = this.#rows.get(sample.name);
      if (!row) {
        row = this.#newRow(sample.name);
        this.#rows.set(sample.name, row);
      }
      if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
      this.#fill(row, sample, scale, now);
    }
    while (body.rows.length > shown.length) body.lastChild.remove();
    const known = new Set(this.#samples.map((each) => each.name));
    for (const name of this.#rows.keys()) if (!known.has(name)) this.#rows.delete(name);
    $("empty").hidden = shown.length > 0;
    setText(
      $("empty"),
      this.#samples.length > 0
        ? "No sandbox matches the filter."
        : "There are no sandboxes. Start one on the host: ballonet run -d --name NAME",
    );
  }

  #newRow(name) {
    const row = element("tr", { "data-name": name });
    for (const column of COLUMNS) {
      const kind = column.text ? "td" : column.key === "name" ? "th" : "td";
      const cell = element(kind, { class: column.key, "data-label": column.heading });
      if (column.key === "name") {
        cell.scope = "row";
        cell.append(element("button", { type: "button", click: () => this.#select(name) }, name));
      }
      row.append(cell);
    }
    const view = `0 0 ${WIDTH} ${HEIGHT}`;
    const drawing = svg("svg", { viewBox: view, preserveAspectRatio: "none", role: "img" });
    for (const part of ["held", "actual", "target"]) drawing.append(svg("path", { class: part }));
    row.append(element("td", { class: "history" }, drawing));
    row.addEventListener("click", (event) => {
      if (!(event.target instanceof HTMLButtonElement) && String(getSelection()) === "") this.#select(name);
    });
    return row;
  }

  #fill(row, sample, scale, now) {
    const selected = sample.name === this.#selected;
    row.classList.toggle("selected", selected);
    for (const [at, column] of COLUMNS.entries()) {
      const cell = row.cells[at];
      if (column.key === "name") {
        cell.firstChild.setAttribute("aria-expanded", String(selected));
        continue;
      }
      const value = column.of(sample);
      setText(cell, column.text ? column.text(value) : value);
    }
    row.dataset.state = sample.state;
    const trail = this.#trails.get(sample.name)?.points ?? [];
    // Of a sandbox that does not run, the line ends with its last sample.
    const until = sample.state === "running" ? now : (trail.at(-1)?.at ?? now);
    const how = { now, until, window: WINDOW_S, width: WIDTH, height: HEIGHT, scale };
    const drawing = row.lastChild.firstChild;
    drawing.children[0].setAttribute("d", steps(trail, "guest_ram", { ...how, closed: true }));
    drawing.children[1].setAttribute("d", steps(trail, "actual", how));
    drawing.children[2].setAttribute("d", steps(trail, "target", how));
    drawing.setAttribute("aria-label", `held ${mib(sample.guest_ram)} of ${mib(sample.ceiling)} MiB`);
  }

  #move(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest?.("tr");
    if (!by || !row) return;
    const next = by > 0 ? row.nextElementSibling : row.previousElementSibling;
    next?.querySelector("button").focus();
    event.preventDefault();
  }
}
