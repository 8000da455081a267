// Two scorings of the same tokens: how far they are apart, where, and in which layers routing differs.

import { theme } from "./colour.js";
import { byId, facts, inner, make, sized } from "./dom.js";
import { divergence, farthest } from "./measure.js";
import { count, number, percent } from "./text.js";

const BINS = 61;
const HEIGHT = 120;

export class ComparePanel {
  constructor(app) {
    this.app = app;
    this.root = byId("panel-compare");
    this.canvas = byId("spread");
    new ResizeObserver(() => this.draw()).observe(this.root);
  }

  update() {
    const { app } = this;
    const { sample, chosen } = app;
    if (!sample.difference || this.root.hidden) return;
    const found = divergence(sample, chosen);
    this.found = found;
    const pairs = [
      ["tokens compared", `${count(found.count)}${found.skipped ? `, ${count(found.skipped)} left out` : ""}`],
      ["k3 estimate", `${number(found.k3, 5)} nats`],
      ["mean difference", number(found.mean, 5)],
      ["mean size", number(found.meanAbs, 5)],
      ["largest size", found.maxAt < 0 ? "–" : `${number(found.maxAbs, 5)} at position ${count(found.maxAt)}`],
    ];
    const apart = this.#routing();
    if (apart) pairs.push(["routing differs", apart]);
    byId("compare-facts").replaceChildren(facts(pairs));
    byId("compare-notes").replaceChildren(...sample.said.notes.map((note) => make("p", { class: "notice" }, note)));
    this.#table();
    this.draw();
  }

  #routing() {
    const { apart, experts } = this.app.sample;
    if (!apart) return null;
    const { chosen } = this.app;
    let [tokens, differ, entries] = [0, 0, 0];
    for (let at = 0; at < apart.length; at++) {
      if (!chosen[at] || apart[at] < 0) continue;
      tokens++;
      entries += apart[at];
      if (apart[at]) differ++;
    }
    return `${percent(entries / (tokens * experts.layers))} of the entries, ${percent(differ / tokens)} of ${count(tokens)} tokens`;
  }

  #table() {
    const { app } = this;
    const { sample } = app;
    const [ids, logprobs, scored] = ["ids", "logprobs", "scored"].map((name) => sample.get(name));
    const go = (at) => () => {
      app.set({ focus: at });
      app.tokens.show(at);
    };
    const rows = farthest(sample, app.chosen, 20).map((at) =>
      make(
        "tr",
        {},
        make("td", { class: "number" }, make("button", { type: "button", onclick: go(at) }, count(at))),
        make("td", {}, make("code", {}, app.text(ids[at]))),
        ...[logprobs[at], scored[at], sample.difference[at]].map((value) =>
          make("td", { class: "number" }, number(value, 4)),
        ),
      ),
    );
    byId("farthest").replaceChildren(...rows);
  }

  /** How many tokens are how far apart. */
  draw() {
    const { sample, chosen } = this.app;
    if (!sample?.difference || this.root.hidden) return;
    const width = inner(this.root);
    const context = sized(this.canvas, width, HEIGHT);
    const colours = theme();
    const { difference } = sample;
    const full = Math.max(this.found?.meanAbs * 6 || 0, 1e-9);
    const bins = new Uint32Array(BINS);
    for (let at = 0; at < sample.length; at++) {
      if (!chosen[at] || !Number.isFinite(difference[at])) continue;
      const place = Math.round(((difference[at] / full + 1) / 2) * (BINS - 1));
      bins[Math.max(0, Math.min(place, BINS - 1))]++;
    }
    const most = Math.log1p(Math.max(...bins, 1));
    const across = width / BINS;
    bins.forEach((value, bin) => {
      const size = (Math.log1p(value) / most) * (HEIGHT - 24);
      context.fillStyle = bin === (BINS - 1) / 2 ? colours.muted : bin < BINS / 2 ? colours.cold[4] : colours.warm[4];
      context.fillRect(bin * across, HEIGHT - 18 - size, Math.max(across - 1, 1), size);
    });
    context.fillStyle = colours.line;
    context.fillRect(0, HEIGHT - 18, width, 1);
    context.font = '10px system-ui, "DejaVu Sans", sans-serif';
    context.fillStyle = colours.muted;
    context.textBaseline = "middle";
    for (const [text, x, align] of [
      [`≤ ${number(-full, 2)}`, 0, "left"],
      ["0", width / 2, "center"],
      [`≥ ${number(full, 2)}`, width, "right"],
    ]) {
      context.textAlign = align;
      context.fillText(text, x, HEIGHT - 8);
    }
  }
}
