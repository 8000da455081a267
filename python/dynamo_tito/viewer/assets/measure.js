// Figures over tokens: which of them are meant, and what they add up to.

import { otherSet, sliced } from "./sample.js";

/** Per token, whether the filter takes it: 1 or 0. */
export function matching(sample, filter) {
  const { length, difference } = sample;
  const [mask, logprobs] = [sample.get("mask"), sample.get("logprobs")];
  const found = new Uint8Array(length).fill(1);
  if (filter.side !== "all") {
    const wanted = filter.side === "sampled" ? 1 : 0;
    for (let at = 0; at < length; at++) if (mask[at] !== wanted) found[at] = 0;
  }
  if (filter.turn >= 0) {
    const [first, , end] = sample.said.turns[filter.turn];
    found.fill(0, 0, first).fill(0, end);
  }
  // A token without a value is left out: a comparison with NaN is false.
  if (filter.most !== null) for (let at = 0; at < length; at++) if (!(logprobs[at] <= filter.most)) found[at] = 0;
  if (filter.apart !== null && difference) {
    for (let at = 0; at < length; at++) if (!(Math.abs(difference[at]) >= filter.apart)) found[at] = 0;
  }
  return found;
}

/** The tokens of a match that lie in a range, or all of them. */
export function within(match, range) {
  if (!range) return match;
  return match.slice().fill(0, 0, range[0]).fill(0, range[1]);
}

export function summary(sample, chosen) {
  const [mask, logprobs] = [sample.get("mask"), sample.get("logprobs")];
  const found = { tokens: 0, sampled: 0, scored: 0, mean: NaN, lowest: NaN, lowestAt: -1 };
  let sum = 0;
  for (let at = 0; at < sample.length; at++) {
    if (!chosen[at]) continue;
    found.tokens++;
    found.sampled += mask[at];
    const value = logprobs[at];
    if (Number.isNaN(value)) continue;
    found.scored++;
    sum += value;
    if (!(value >= found.lowest)) [found.lowest, found.lowestAt] = [value, at];
  }
  if (found.scored) found.mean = sum / found.scored;
  return found;
}

/** e^x - 1 - x, without loss of digits near 0. */
function k3(x) {
  return Math.abs(x) < 1e-3 ? x * x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x / 120))) : Math.expm1(x) - x;
}

/** How far two scorings are apart over the sampled ones of these tokens, as `tito.divergence` counts. */
export function divergence(sample, chosen) {
  const [mask, { difference }] = [sample.get("mask"), sample];
  const found = { count: 0, skipped: 0, mean: 0, meanAbs: 0, maxAbs: 0, maxAt: -1, k3: 0 };
  for (let at = 0; at < sample.length; at++) {
    if (!chosen[at] || !mask[at]) continue;
    const apart = difference[at];
    if (!Number.isFinite(apart)) {
      found.skipped++;
      continue;
    }
    found.count++;
    found.mean += apart;
    found.meanAbs += Math.abs(apart);
    found.k3 += k3(-apart);
    if (found.maxAt < 0 || Math.abs(apart) > found.maxAbs) [found.maxAbs, found.maxAt] = [Math.abs(apart), at];
  }
  for (const name of ["mean", "meanAbs", "k3"]) found[name] = found.count ? found[name] / found.count : NaN;
  if (!found.count) found.maxAbs = NaN;
  return found;
}

/** Tokens of the largest difference, largest first. */
export function farthest(sample, chosen, most) {
  const { difference } = sample;
  const found = [];
  for (let at = 0; at < sample.length; at++) {
    const size = Math.abs(difference[at]);
    if (!chosen[at] || !(size > 0)) continue;
    if (found.length === most && size <= Math.abs(difference[found[most - 1]])) continue;
    let place = found.length;
    while (place > 0 && Math.abs(difference[found[place - 1]]) < size) place--;
    found.splice(place, 0, at);
    if (found.length > most) found.pop();
  }
  return found;
}

/**
 * Load of every expert over these tokens. `counts` is [layers, experts]; `zeros` counts the entries of a layer that are
 * all zero, `apart` those that differ from the other routing's. Resolves to null when `alive` says no.
 */
export async function load(sample, chosen, alive) {
  const { experts: routing, experts2: other } = sample;
  const { array, layers, slots, experts, start, rows } = routing;
  const found = {
    layers,
    experts,
    rows: 0,
    compared: 0,
    counts: new Uint32Array(layers * experts),
    zeros: new Uint32Array(layers),
    apart: new Uint32Array(layers),
  };
  const { counts, zeros, apart } = found;
  const step = (from, to) => {
    for (let row = from; row < to; row++) {
      if (!chosen[start + row]) continue;
      found.rows++;
      const theirs = other ? other.at(start + row) : -1;
      if (theirs >= 0) found.compared++;
      for (let layer = 0, at = row * routing.width; layer < layers; layer++) {
        if (theirs >= 0 && otherSet(array, at, other.array, theirs + layer * slots, slots)) apart[layer]++;
        let any = 0;
        for (const end = at + slots; at < end; at++) {
          const expert = array[at];
          any |= expert;
          if (expert >= 0) counts[layer * experts + expert]++;
        }
        if (any === 0) zeros[layer]++;
      }
    }
  };
  if (!(await sliced(rows, 128, step, alive))) return null;
  return Object.assign(found, shape(found));
}

/** Per layer: entropy of the load as a share of the even load's, and share and id of the busiest expert. */
function shape({ layers, experts, counts }) {
  const [entropy, share, busiest] = [new Float64Array(layers), new Float64Array(layers), new Int32Array(layers)];
  for (let layer = 0; layer < layers; layer++) {
    const own = counts.subarray(layer * experts, (layer + 1) * experts);
    let [total, most] = [0, 0];
    for (let expert = 0; expert < experts; expert++) {
      total += own[expert];
      if (own[expert] > own[most]) most = expert;
    }
    let sum = 0;
    for (const value of own) if (value) sum -= (value / total) * Math.log(value / total);
    entropy[layer] = total && experts > 1 ? sum / Math.log(experts) : NaN;
    share[layer] = total ? own[most] / total : NaN;
    busiest[layer] = total ? most : -1;
  }
  return { entropy, share, busiest };
}

/** Tokens of [from, to) in `width` buckets: `hits` [layers, width] counts the rows that go to the expert. */
export async function route(sample, expert, [from, to], width, alive) {
  const { array, layers, slots, start, rows } = sample.experts;
  const [first, stop] = [Math.max(from - start, 0), Math.min(to - start, rows)];
  const columns = Math.max(1, Math.min(width, to - from));
  const found = { from, to, columns, hits: new Uint32Array(layers * columns), rows: new Uint32Array(columns) };
  const repeats = new Uint32Array(columns);
  const step = (low, high) => {
    for (let row = first + low; row < first + high; row++) {
      const bucket = Math.floor(((row + start - from) * columns) / (to - from));
      found.rows[bucket]++;
      if (sample.repeats[row + start]) repeats[bucket]++;
      for (let layer = 0, at = row * sample.experts.width; layer < layers; layer++, at += slots) {
        for (let slot = 0; slot < slots; slot++) {
          if (array[at + slot] !== expert) continue;
          found.hits[layer * columns + bucket]++;
          break;
        }
      }
    }
  };
  if (!(await sliced(Math.max(stop - first, 0), 256, step, alive))) return null;
  return Object.assign(found, { repeats });
}
