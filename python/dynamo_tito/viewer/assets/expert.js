// Tokens x layers of one expert: where it was chosen.

import { pick, ramp, theme } from "./colour.js";
import { byId, eachFrame, inner, make, sized } from "./dom.js";
import { route } from "./measure.js";
import { count, percent } from "./text.js";

const LEFT = 34;
const BOTTOM = 26;

export class ExpertPanel {
  constructor(app) {
    this.app = app;
    this.root = byId("panel-expert");
    this.canvas = byId("route");
    this.input = byId("expert");
    this.said = byId("route-said");
    this.run = 0;
    this.resized = eachFrame(() => this.update());
    new ResizeObserver(() => this.#wide() !== this.found?.width && this.resized()).observe(this.root);
    this.#listen();
  }

  #wide() {
    return Math.max(Math.floor(inner(this.root) - LEFT), 0);
  }

  async update() {
    const { app } = this;
    const run = ++this.run;
    const { sample, state } = app;
    if (!sample?.experts || this.root.hidden) return;
    this.input.max = sample.experts.experts - 1;
    // What is being typed stays.
    if (document.activeElement !== this.input) this.input.value = state.expert;
    const width = this.#wide();
    const range = state.range ?? [0, sample.length];
    const found = await route(sample, state.expert, range, width, () => run === this.run);
    if (!found) return;
    this.found = Object.assign(found, { expert: state.expert, width });
    this.draw();
  }

  draw() {
    const { found, app } = this;
    if (!found || this.root.hidden) return;
    const { layers } = app.sample.experts;
    const colours = theme();
    const heat = ramp(colours.heat);
    const down = Math.max(7, Math.min(18, Math.floor(440 / layers)));
    const height = layers * down;
    const context = sized(this.canvas, LEFT + found.width, height + BOTTOM);
    context.font = '10px system-ui, "DejaVu Sans", sans-serif';
    context.textBaseline = "middle";
    const across = found.width / found.columns;
    const every = Math.ceil(12 / down);
    for (let layer = 0; layer < layers; layer++) {
      const y = layer * down;
      context.textAlign = "right";
      context.fillStyle = colours.muted;
      if (layer % every === 0) context.fillText(String(layer), LEFT - 6, y + down / 2);
      for (let bucket = 0; bucket < found.columns; bucket++) {
        const [hits, rows] = [found.hits[layer * found.columns + bucket], found.rows[bucket]];
        context.fillStyle = !rows
          ? colours.absent
          : hits
            ? pick(heat, Math.max(Math.sqrt(hits / rows), 0.15))
            : heat[0];
        context.fillRect(LEFT + bucket * across, y, Math.max(across - (across > 4 ? 1 : 0), 1), down - 1);
      }
    }
    for (let bucket = 0; bucket < found.columns; bucket++) {
      if (!found.repeats[bucket]) continue;
      context.fillStyle = colours.flaw;
      context.fillRect(LEFT + bucket * across, height + 1, Math.max(across, 1), 5);
    }
    context.fillStyle = colours.muted;
    context.textAlign = "left";
    context.fillText(count(found.from), LEFT, height + 16);
    context.textAlign = "right";
    context.fillText(count(found.to - 1), LEFT + found.width - 1, height + 16);
    context.textAlign = "center";
    context.fillText("position", LEFT + found.width / 2, height + 16);
    this.#summary();
  }

  #summary() {
    const { found, app } = this;
    const { layers, slots } = app.sample.experts;
    const rows = found.rows.reduce((all, value) => all + value, 0);
    const hits = found.hits.reduce((all, value) => all + value, 0);
    const even = slots / app.sample.experts.experts;
    const lines = [
      `Expert ${found.expert} takes ${percent(hits / (rows * layers))} of the entries of ${count(rows)} rows; even load would be ${percent(even)}.`,
    ];
    const repeats = found.repeats.reduce((all, value) => all + value, 0);
    if (repeats) lines.push(`Marked below: ${count(repeats)} rows equal the row before.`);
    byId("route-summary").replaceChildren(...lines.map((line) => make("p", {}, line)));
  }

  #listen() {
    const { app, canvas, input } = this;
    input.addEventListener("change", () => {
      const most = app.sample.experts.experts - 1;
      app.set({ expert: Math.max(0, Math.min(Math.round(Number(input.value)) || 0, most)) });
    });
    const place = (event) => {
      const { found } = this;
      const box = canvas.getBoundingClientRect();
      const share = (event.clientX - box.left - LEFT) / found.width;
      const bucket = Math.floor(share * found.columns);
      if (bucket < 0 || bucket >= found.columns) return null;
      const layer = Math.floor(
        (event.clientY - box.top) / Math.max(7, Math.min(18, Math.floor(440 / app.sample.experts.layers))),
      );
      const size = found.to - found.from;
      const first = found.from + Math.ceil((bucket * size) / found.columns);
      const last = found.from + Math.ceil(((bucket + 1) * size) / found.columns) - 1;
      return { bucket, layer, first, last };
    };
    canvas.addEventListener("pointermove", (event) => {
      const at = this.found && place(event);
      if (!at || at.layer < 0 || at.layer >= app.sample.experts.layers) return;
      const [hits, rows] = [this.found.hits[at.layer * this.found.columns + at.bucket], this.found.rows[at.bucket]];
      const where =
        at.first === at.last ? `position ${count(at.first)}` : `positions ${count(at.first)} to ${count(at.last)}`;
      this.said.textContent = rows ? `${where}, layer ${at.layer}: ${hits} of ${rows} tokens.` : `${where}: no row.`;
    });
    canvas.addEventListener("click", (event) => {
      const at = this.found && place(event);
      if (!at) return;
      app.set({ focus: at.first });
      app.tokens.show(at.first);
    });
  }
}
