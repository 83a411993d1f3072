// A plot of memory over time, with uPlot. Lines differ by their dashes, too: colour is not needed to tell them apart.

import uPlot from "./vendor/uplot.js";
import { size, time } from "./format.js";

const MIB = 1024 * 1024;
const HEIGHT = 190;
const NARROW = 600;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function steps(bottom) {
  // Steps of the axis: powers of two, in MiB.
  const step = [];
  for (let of = bottom; of < bottom * 2 ** 24; of *= 2) step.push(of);
  return step;
}

export class MemoryPlot {
  #plot = null;
  #place;
  #lines;
  #data;
  #range = [0, 1];

  /** `lines`: { label, colour (a CSS variable), dash, fill, width }, in the order of the data's columns. */
  constructor(place, lines) {
    this.#place = place;
    this.#lines = lines;
    this.#data = [[], ...lines.map(() => [])];
    new ResizeObserver(() => this.#resize()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#make());
  }

  show(data, from, to) {
    this.#data = data;
    this.#range = [from, to];
    if (this.#place.clientWidth === 0) return; // hidden
    if (this.#plot === null) this.#make();
    else this.#plot.setData(data);
  }

  #resize() {
    const width = this.#place.clientWidth;
    if (width === 0) return;
    if (this.#plot === null) this.#make();
    else if (this.#plot.width !== width) this.#make();
  }

  #make() {
    if (this.#place.clientWidth === 0) return;
    this.#plot?.destroy();
    const width = this.#place.clientWidth;
    const axis = {
      stroke: colour("text"),
      grid: { stroke: colour("line"), width: 1 },
      ticks: { stroke: colour("line"), width: 1 },
      font: "12px system-ui, sans-serif",
    };
    const options = {
      width,
      height: HEIGHT,
      legend: { markers: { dash: (_, index) => (this.#lines[index - 1]?.dash ? "dashed" : "solid") } },
      cursor: { drag: { x: false, y: false } },
      scales: {
        x: { time: true, range: () => this.#range },
        // From zero: areas are comparable.
        y: { range: (_, __, most) => [0, (most || MIB) * 1.05] },
      },
      axes: [
        { ...axis, space: width < NARROW ? 80 : 60, values: "{HH}:{mm}:{ss}" },
        { ...axis, size: 68, incrs: steps(MIB), values: (_, ticks) => ticks.map((tick) => size(tick)) },
      ],
      series: [
        { label: "Time", value: (_, at) => (at === null ? "now" : time(at)) },
        ...this.#lines.map((line) => ({
          label: line.label,
          stroke: colour(line.colour),
          width: line.width ?? 2,
          dash: line.dash,
          fill: line.fill ? `${colour(line.colour)}33` : undefined,
          paths: uPlot.paths.stepped({ align: 1 }),
          points: { show: false },
          value: (plot, value, series, index) => size(index === null ? lastOf(plot.data[series]) : value),
        })),
      ],
    };
    this.#plot = new uPlot(options, this.#data, this.#place);
  }
}

function lastOf(column) {
  return column.length === 0 ? null : column.at(-1);
}
