// What a colour says: one painter for each way to colour tokens, with its legend.

import { count, number, percent } from "./text.js";

const LIGHT = {
  ink: "#1c1d20",
  muted: "#6a6d74",
  line: "#deded9",
  sheet: "#ffffff",
  accent: "#1d5fc4",
  warm: ["#ffffff", "#fdeedd", "#fbd3ab", "#f6a972", "#e97a4c"],
  cold: ["#ffffff", "#e3effb", "#bcd9f5", "#8bbcec", "#5b9be0"],
  heat: ["#f4f4f1", "#d9e6f4", "#9fc3e6", "#5594cf", "#1d5fa8", "#0b2f5e"],
  sampled: "#d6e6fb",
  groups: ["#d6e6fb", "#fbe3c8", "#d9efd6", "#ecdcf6", "#f9d9dd", "#d3eeec"],
  flaw: "#f2b6c6",
  absent: "#ecece8",
  over: "#1c1d20",
};

const DARK = {
  ink: "#e9e9e6",
  muted: "#9a9da5",
  line: "#303338",
  sheet: "#141517",
  accent: "#82b1ff",
  warm: ["#141517", "#33241a", "#59351f", "#854525", "#b1562c"],
  cold: ["#141517", "#182838", "#1f4162", "#265a8c", "#2f74b5"],
  heat: ["#1d1f22", "#1b3350", "#20528a", "#3a7cc4", "#7fb3ea", "#dcecfb"],
  sampled: "#203a5e",
  groups: ["#203a5e", "#573c1b", "#254726", "#44305a", "#592a33", "#1c4a49"],
  flaw: "#7a2f46",
  absent: "#232528",
  over: "#ffffff",
};

const dark = window.matchMedia("(prefers-color-scheme: dark)");

export const theme = () => {
  const chosen = document.documentElement.dataset.theme;
  return (chosen ? chosen === "dark" : dark.matches) ? DARK : LIGHT;
};

export const onTheme = (run) => dark.addEventListener("change", run);

function parts(colour) {
  return [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
}

/** `steps` colours from the first of `stops` to the last. */
export function ramp(stops, steps = 64) {
  const known = stops.map(parts);
  return Array.from({ length: steps }, (_, step) => {
    const place = (step / (steps - 1)) * (known.length - 1);
    const low = Math.min(Math.floor(place), known.length - 2);
    const mixed = known[low].map((value, at) => Math.round(value + (known[low + 1][at] - value) * (place - low)));
    return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
  });
}

export function pick(colours, share) {
  return colours[Math.max(0, Math.min(colours.length - 1, Math.round(share * (colours.length - 1))))];
}

/** Nats at which the colour of a log-probability is full. */
const FULL = 6;

const MODES = {
  logprob: {
    name: "Log-probability",
    has: () => true,
    make(sample, { warm, absent }) {
      const [colours, mask, logprobs] = [ramp(warm), sample.get("mask"), sample.get("logprobs")];
      const missing = logprobs.some((value, at) => mask[at] && Number.isNaN(value));
      return {
        fill: (at) => {
          const value = logprobs[at];
          if (Number.isNaN(value)) return mask[at] ? absent : null;
          return value > -0.02 ? null : pick(colours, Math.sqrt(-value / FULL));
        },
        legend: {
          colours,
          from: "0",
          to: `≤ ${number(-FULL, 1)}`,
          items: missing ? [[absent, "sampled, none given"]] : [],
        },
      };
    },
  },
  mask: {
    name: "Mask",
    has: () => true,
    make(sample, { sampled }) {
      const mask = sample.get("mask");
      return {
        fill: (at) => (mask[at] ? sampled : null),
        legend: {
          items: [
            [sampled, "sampled"],
            [null, "prompt"],
          ],
        },
      };
    },
  },
  turn: {
    name: "Turn",
    has: (sample) => sample.said.turns.length > 1,
    make(sample, { groups }) {
      const { turns } = sample.said;
      const shown = turns.slice(0, groups.length).map((_, turn) => [groups[turn], String(turn)]);
      return {
        fill: (at) => {
          const turn = sample.turn(at);
          return turn < 0 ? null : groups[turn % groups.length];
        },
        legend: { items: turns.length > groups.length ? [...shown, [null, "and so on"]] : shown },
      };
    },
  },
  version: {
    name: "Weights",
    has: (sample) => sample.said.versions.length > 0,
    make(sample, { groups }) {
      const versions = sample.get("versions");
      const items = sample.said.versions.map((version, at) => [groups[at % groups.length], version]);
      return {
        fill: (at) => (versions[at] < 0 ? null : groups[versions[at] % groups.length]),
        legend: { items: items.length > 8 ? [...items.slice(0, 8), [null, `${items.length - 8} more`]] : items },
      };
    },
  },
  difference: {
    name: "Difference",
    has: (sample) => Boolean(sample.difference),
    make(sample, { warm, cold, absent }) {
      const [more, less, { difference }] = [ramp(warm), ramp(cold), sample];
      const full = scale(difference);
      return {
        fill: (at) => {
          const value = difference[at];
          if (Number.isNaN(value)) return absent;
          return value === 0 ? null : pick(value > 0 ? more : less, Math.sqrt(Math.abs(value) / full));
        },
        legend: {
          colours: [...less.toReversed(), ...more],
          from: `${number(-full, 2)} the other is higher`,
          to: `this is higher ${number(full, 2)}`,
          items: [[absent, "not compared"]],
        },
      };
    },
  },
  apart: {
    name: "Routing differs",
    has: (sample) => Boolean(sample.said.columns.experts2),
    make(sample, { warm, absent }) {
      const [colours, { apart }] = [ramp(warm), sample];
      const layers = sample.said.columns.experts.shape[1];
      return {
        fill: (at) => (!apart || apart[at] < 0 ? absent : apart[at] ? pick(colours, apart[at] / layers) : null),
        legend: { colours, from: "in no layer", to: `in all ${layers}`, items: [[absent, "not compared"]] },
      };
    },
  },
  capture: {
    name: "Rows of routing",
    has: (sample) => Boolean(sample.said.columns.experts),
    make(sample, { flaw, absent, sampled }) {
      return {
        fill: (at) => {
          if (!sample.experts || sample.experts.at(at) < 0) return absent;
          return sample.repeats[at] ? flaw : sampled;
        },
        legend: {
          items: [
            [sampled, "row"],
            [flaw, "equal to the row before"],
            [absent, "no row"],
          ],
        },
      };
    },
  },
};

/** The difference at which the colour is full: few tokens of a sample are farther apart. */
function scale(difference) {
  const step = Math.max(1, Math.floor(difference.length / 4096));
  const sizes = [];
  for (let at = 0; at < difference.length; at += step) {
    if (Number.isFinite(difference[at])) sizes.push(Math.abs(difference[at]));
  }
  sizes.sort((one, other) => one - other);
  return Math.max(sizes[Math.floor(sizes.length * 0.99)] ?? 0, 1e-6);
}

export function modes(sample) {
  return Object.entries(MODES)
    .filter(([, mode]) => mode.has(sample))
    .map(([key, mode]) => [key, mode.name]);
}

export function painter(sample, mode) {
  return MODES[mode].make(sample, theme());
}

/** What a cell of the heat map says in words. */
export function cell(found, layer, expert) {
  const hits = found.counts[layer * found.experts + expert];
  const share = found.rows ? hits / found.rows : NaN;
  return `layer ${layer}, expert ${expert}: ${count(hits)} of ${count(found.rows)} tokens (${percent(share)})`;
}
