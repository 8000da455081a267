// What the reader chose, and what follows from it. Panels read it; `set` changes it.

import { painter } from "./colour.js";
import { matching, within } from "./measure.js";

export const EVERYTHING = { side: "all", turn: -1, most: null, apart: null };

export const START = {
  focus: -1,
  hover: -1,
  range: null,
  mode: "logprob",
  filter: EVERYTHING,
  find: "",
  tab: "token",
  expert: 0,
};

/** The names of what differs between two states. */
export function changed(before, after) {
  return new Set(Object.keys(after).filter((name) => before[name] !== after[name]));
}

/** Brings what follows from the state up to date. */
export function follow(app, names) {
  const { sample, state } = app;
  if (names.has("sample") || names.has("mode") || names.has("loaded") || names.has("theme"))
    app.paint = painter(sample, state.mode);
  if (names.has("sample") || names.has("filter")) app.match = matching(sample, state.filter);
  if (names.has("sample") || names.has("filter") || names.has("range")) app.chosen = within(app.match, state.range);
  if (names.has("sample") || names.has("find")) app.found = state.find ? app.vocabulary.find(sample, state.find) : null;
}
