// Memory over time: points within a window, and how they are drawn. Pure.

/** The fields of a sandbox's sample that are drawn, in the order of a plot's series. */
export const FIELDS = ["ceiling", "target", "actual", "guest_ram", "guest_available"];

/** The fields of the host's sample that are drawn: sums over its sandboxes, and its own. */
export const GUESTS_FIELDS = ["committed", "promised", "held"];
export const HOST_FIELDS = ["total", "available"];

/** The least time that a plot shows (seconds). */
const LEAST_WINDOW = 60;

/** Samples in the order of their time; those older than `keep` seconds are dropped. */
export class Series {
  constructor(fields, keep) {
    this.fields = fields;
    this.keep = keep;
    this.points = [];
  }

  add(sample) {
    const last = this.points.at(-1);
    if (last && sample.at <= last.at) {
      if (sample.at < last.at) return;
      this.points.pop();
    }
    this.points.push(this.#point(sample));
    const oldest = sample.at - this.keep;
    // The last point before the window stays: nothing has changed since.
    let first = 0;
    while (first + 1 < this.points.length && this.points[first + 1].at < oldest) first += 1;
    if (first > 0) this.points.splice(0, first);
  }

  /** Put earlier samples, oldest first, before those that are there. */
  addEarlier(samples) {
    const begins = this.points[0]?.at ?? Infinity;
    this.points.unshift(...samples.filter((each) => each.at < begins).map((each) => this.#point(each)));
  }

  /** Columns for a plot: times, then one column for each field, up to `now`. */
  columns(now) {
    const points = [...this.points];
    const last = points.at(-1);
    if (last && now > last.at) points.push({ ...last, at: now });
    return [points.map((each) => each.at), ...this.fields.map((field) => points.map((each) => each[field]))];
  }

  /** Where a plot of the last `window` seconds begins: with the first point, if there is none before. */
  begin(to, window) {
    const first = this.points[0]?.at ?? to;
    return Math.min(to - LEAST_WINDOW, Math.max(to - window, first));
  }

  #point(sample) {
    const point = { at: sample.at };
    for (const field of this.fields) point[field] = sample[field] ?? null;
    return point;
  }
}

/**
 * The path of a line of steps in an SVG: each value holds until the next one.
 *
 * @param until where the last value ends; by default now
 * @param closed whether the area below the line is enclosed
 */
export function steps(points, field, { now, until = now, window, width, height, scale, closed = false }) {
  let path = "";
  let before = null;
  let begins = 0;
  const x = (at) => Math.max(0, Math.min(width, width * (1 - (now - at) / window)));
  const y = (value) => height - (height * Math.min(value, scale)) / scale;
  const end = (at) => {
    if (before === null) return;
    path += `H${x(at).toFixed(1)}`;
    if (closed) path += `V${height}H${begins.toFixed(1)}Z`;
  };
  if (!scale) return "";
  for (const point of points) {
    const value = point[field];
    if (value === null || value === undefined) {
      end(point.at);
      before = null;
    } else if (before === null) {
      begins = x(point.at);
      path += closed ? `M${begins.toFixed(1)} ${height}V${y(value).toFixed(1)}` : `M${begins.toFixed(1)} ${y(value).toFixed(1)}`;
      before = value;
    } else if (value !== before) {
      path += `H${x(point.at).toFixed(1)}V${y(value).toFixed(1)}`;
      before = value;
    }
  }
  end(until);
  return path;
}
