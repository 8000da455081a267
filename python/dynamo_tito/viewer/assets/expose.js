// What is drawn, for a test to read: `window.tito`. Nothing of it can be changed.

import { divergence } from "./measure.js";

const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

const plain = (value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);

function copied(found) {
  return found ? Object.fromEntries(Object.entries(found).map(([name, value]) => [name, plain(value)])) : null;
}

export function expose(app, started) {
  const read = {
    /** Resolves when the sequence is read to its end. */
    loaded: () => started,
    /** Resolves when what was asked for is drawn. */
    settled: async () => {
      await started;
      do {
        await app.opening;
        await nextFrame();
        await nextFrame();
        await app.work;
      } while (app.dirty.size);
    },
    state: () => structuredClone(app.state),
    said: () => structuredClone(app.sample.said),
    /** An array of the sequence as the page holds it. */
    column: (name) => plain(app.sample.get(name)),
    /** Tokens in view: position, colour, text, x and y in the canvas. */
    tokens: () =>
      app.tokens.drawn.cells.map(([at, fill, x, y]) => ({
        at,
        fill,
        x,
        y,
        text: app.vocabulary.shown[app.tokens.index[at]],
      })),
    view: () => [app.tokens.drawn.from, app.tokens.drawn.to],
    summary: () => copied(app.bar.figures),
    load: () => copied(app.heat.found),
    route: () => copied(app.expert.found),
    divergence: () => (app.sample.difference ? divergence(app.sample, app.chosen) : null),
    apart: () => plain(app.sample.apart),
    repeats: () => plain(app.sample.repeats),
    alternatives: (position) => app.sample.alternatives(position),
    experts: (position) => app.sample.route(position),
    /** Where a token stands on the screen. */
    box: (position) => app.tokens.box(position),
  };
  Object.defineProperty(window, "tito", { value: Object.freeze(read) });
}
