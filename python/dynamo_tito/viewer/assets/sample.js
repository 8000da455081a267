// One sequence: its columns, and what follows from them.

import { column, parsed, pause } from "./data.js";

const FIRST = ["ids", "mask", "logprobs", "versions", "scored"];

/** Milliseconds of work between two pauses: a frame stays well below 100 ms. */
const SLICE = 8;

/** Calls `step(from, to)` over `count` rows, with pauses, until all are done or `alive` says no. */
export async function sliced(count, rows, step, alive = () => true) {
  let since = performance.now();
  for (let from = 0; from < count; from += rows) {
    step(from, Math.min(from + rows, count));
    if (performance.now() - since > SLICE) {
      await pause();
      if (!alive()) return false;
      since = performance.now();
    }
  }
  return alive();
}

/** Rows of routed experts: `array` is [rows, layers, slots], row 0 at position `start`. */
class Experts {
  constructor(array, shape, start, experts) {
    [this.rows, this.layers, this.slots] = shape;
    Object.assign(this, { array, start, experts, width: this.layers * this.slots });
  }

  /** Where the row of a position begins in `array`; -1 where there is none. */
  at(position) {
    const row = position - this.start;
    return row >= 0 && row < this.rows ? row * this.width : -1;
  }
}

export class Sample {
  constructor(index, said) {
    Object.assign(this, { index, said, name: said.name, length: said.length, columns: {}, loaded: false });
  }

  get(name) {
    return this.columns[name];
  }

  async #read(names) {
    for (const name of names) {
      const header = this.said.columns[name];
      if (header && !this.columns[name]) this.columns[name] = await column(`s${this.index}`, name, header);
    }
  }

  /** Reads what the first picture needs; once, however often it is asked for. */
  open() {
    this.opening ??= this.#open();
    return this.opening;
  }

  /** Reads the rest, and looks through the routed experts once. */
  load() {
    this.loading ??= this.#load();
    return this.loading;
  }

  async #open() {
    if (this.index > 0) await parsed;
    await this.#read(FIRST);
    const { logprobs, scored } = this.columns;
    if (scored) {
      this.difference = new Float64Array(this.length);
      for (let at = 0; at < this.length; at++) this.difference[at] = logprobs[at] - scored[at];
    }
  }

  async #load() {
    await parsed;
    await this.#read(Object.keys(this.said.columns));
    if (this.columns.top_counts) this.tops = sums(this.columns.top_counts);
    for (const name of ["experts", "experts2"]) {
      if (!this.columns[name]) continue;
      const { columns, starts, experts } = this.said;
      this[name] = new Experts(this.columns[name], columns[name].shape, starts[name], experts);
    }
    if (this.experts) this.repeats = await repeated(this.experts, this.length);
    if (this.experts2) this.apart = await differing(this.experts, this.experts2, this.length);
    this.loaded = true;
  }

  /** The alternatives of a position: pairs of an id and a log-probability. */
  alternatives(position) {
    if (!this.tops) return [];
    const { top_ids: ids, top_logprobs: logprobs } = this.columns;
    const found = [];
    for (let at = this.tops[position]; at < this.tops[position + 1]; at++) found.push([ids[at], logprobs[at]]);
    return found;
  }

  /** The experts of a position, per layer, in this routing or the other one; null where there is no row. */
  route(position, name = "experts") {
    const experts = this[name];
    const first = experts ? experts.at(position) : -1;
    if (first < 0) return null;
    const layers = [];
    for (let at = first; at < first + experts.width; at += experts.slots) {
      layers.push(Array.from(experts.array.subarray(at, at + experts.slots)));
    }
    return layers;
  }

  /** The number of the turn of a position; -1 where there is none. */
  turn(position) {
    const { turns } = this.said;
    let [low, high] = [0, turns.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (turns[middle][2] <= position) low = middle + 1;
      else high = middle;
    }
    return low < turns.length && turns[low][0] <= position ? low : -1;
  }
}

function sums(counts) {
  const offsets = new Int32Array(counts.length + 1);
  for (let at = 0; at < counts.length; at++) offsets[at + 1] = offsets[at] + counts[at];
  return offsets;
}

/** Per position, how many rows in succession, this one included, are equal to those before; 0 for none. */
async function repeated(experts, length) {
  const { array, rows, width, start } = experts;
  const runs = new Int32Array(length);
  await sliced(rows, 512, (from, to) => {
    for (let row = Math.max(from, 1); row < to; row++) {
      const first = row * width;
      let at = first;
      while (at < first + width && array[at] === array[at - width]) at++;
      const position = start + row;
      if (at === first + width && position < length) runs[position] = runs[position - 1] + 1;
    }
  });
  return runs;
}

/** Per position, in how many layers two routings name other experts; -1 where one of them has no row. */
async function differing(one, other, length) {
  const found = new Int16Array(length).fill(-1);
  await sliced(length, 256, (from, to) => {
    for (let position = from; position < to; position++) {
      const [a, b] = [one.at(position), other.at(position)];
      if (a < 0 || b < 0) continue;
      let layers = 0;
      for (let layer = 0; layer < one.layers; layer++) {
        if (otherSet(one.array, a + layer * one.slots, other.array, b + layer * one.slots, one.slots)) layers++;
      }
      found[position] = layers;
    }
  });
  return found;
}

/** Whether two entries name other experts, in whichever order. */
export function otherSet(one, a, other, b, slots) {
  for (let slot = 0; slot < slots; slot++) {
    if (one[a + slot] === other[b + slot]) continue;
    for (let mine = 0; mine < slots; mine++) {
      let held = false;
      for (let theirs = 0; theirs < slots && !held; theirs++) held = one[a + mine] === other[b + theirs];
      if (!held) return true;
    }
    for (let theirs = 0; theirs < slots; theirs++) {
      let held = false;
      for (let mine = 0; mine < slots && !held; mine++) held = one[a + mine] === other[b + theirs];
      if (!held) return true;
    }
    return false;
  }
  return false;
}
