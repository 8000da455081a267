// Layers x experts: how often each expert was chosen by the tokens that are meant.

import { cell, pick, ramp, theme } from "./colour.js";
import { byId, eachFrame, inner, make, sized } from "./dom.js";
import { load } from "./measure.js";
import { count, number, percent } from "./text.js";

const LEFT = 34;
const TOP = 18;
const SIDE = 56;

/** Times the even load at which a colour is full. */
const FULL = 4;

export class HeatPanel {
  constructor(app) {
    this.app = app;
    this.root = byId("panel-routing");
    this.canvas = byId("heat");
    this.side = byId("heat-side");
    this.said = byId("heat-said");
    this.draw = eachFrame(() => this.#draw());
    this.cursor = [0, 0];
    this.run = 0;
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.#listen();
  }

  /** Counts anew: other tokens are meant. Resolves when the figures are those that are drawn. */
  async update() {
    const { app } = this;
    const run = ++this.run;
    const { sample, chosen } = app;
    if (!sample.experts) return;
    const found = await load(sample, chosen, () => run === this.run);
    if (!found) return;
    this.found = found;
    this.#summary();
    this.#draw();
  }

  #legend() {
    const bar = make("i", { class: "ramp" });
    bar.style.background = `linear-gradient(to right, ${ramp(theme().heat).join(",")})`;
    const zero = make("i", { class: "swatch" });
    zero.style.background = theme().flaw;
    byId("heat-legend").replaceChildren(
      make("span", { class: "chip" }, "no load", bar, `${FULL} times the even load`),
      make("span", { class: "chip" }, zero, "zero in every row"),
    );
  }

  #summary() {
    const { found, app } = this;
    const { zeros, rows } = found;
    const empty = [...zeros.keys()].filter((layer) => rows && zeros[layer] === rows);
    const some = [...zeros.keys()].filter((layer) => zeros[layer] && zeros[layer] < rows);
    const worst = found.share.reduce(
      (most, share, at) => (share > (found.share[most] ?? 0) && !empty.includes(at) ? at : most),
      -1,
    );
    this.#legend();
    const lines = [`${count(rows)} tokens with a row, ${found.layers} layers, experts 0 to ${found.experts - 1}.`];
    if (worst >= 0) {
      lines.push(
        `Busiest: expert ${found.busiest[worst]} of layer ${worst} has ${percent(found.share[worst])} of its layer's load; even would be ${percent(1 / found.experts)}.`,
      );
    }
    if (empty.length) lines.push(`Zero in every row: ${listed(empty)}.`);
    if (some.length && app.sample.experts.slots > 1) lines.push(`Zero in some rows: ${listed(some)}.`);
    const runs = app.repeatedRuns();
    if (runs.rows)
      lines.push(
        `${count(runs.rows)} rows equal the row before; the longest run begins at position ${count(runs.first)} and has ${count(runs.longest)} rows.`,
      );
    byId("heat-summary").replaceChildren(...lines.map((line) => make("p", {}, line)));
  }

  /** How many bars stand beside a layer. */
  #bars() {
    return this.found.compared ? 3 : 2;
  }

  #size() {
    const { found } = this;
    const space = inner(this.root) - LEFT - this.#bars() * SIDE - 10;
    const across = Math.max(2, Math.min(16, Math.floor(space / found.experts)));
    const down = Math.max(9, Math.min(18, Math.floor(460 / found.layers)));
    return { across, down };
  }

  #draw() {
    const { found } = this;
    if (!found || this.root.hidden) return;
    const { layers, experts, counts, zeros, rows } = found;
    const colours = theme();
    const heat = ramp(colours.heat);
    const { across, down } = this.#size();
    const [width, height] = [LEFT + experts * across + 1, TOP + layers * down + 2];
    const context = sized(this.canvas, width, height);
    context.font = '10px system-ui, "DejaVu Sans", sans-serif';
    context.textBaseline = "middle";
    context.fillStyle = colours.muted;
    const step = Math.max(1, 2 ** Math.ceil(Math.log2(Math.max(28 / across, 1))));
    context.textAlign = "center";
    for (let expert = 0; expert < experts; expert += step)
      context.fillText(String(expert), LEFT + (expert + 0.5) * across, TOP / 2);
    const gap = across > 4 ? 1 : 0;
    const every = down < 12 ? Math.ceil(12 / down) : 1;
    for (let layer = 0; layer < layers; layer++) {
      const y = TOP + layer * down;
      context.fillStyle = colours.muted;
      context.textAlign = "right";
      if (layer % every === 0) context.fillText(String(layer), LEFT - 6, y + down / 2);
      if (rows && zeros[layer] === rows) {
        context.fillStyle = colours.flaw;
        context.fillRect(LEFT, y, experts * across, down - 1);
        continue;
      }
      const even = this.#total(layer) / experts;
      for (let expert = 0; expert < experts; expert++) {
        const value = counts[layer * experts + expert];
        context.fillStyle = value ? pick(heat, Math.max(Math.sqrt(value / even / FULL), 0.06)) : heat[0];
        context.fillRect(LEFT + expert * across, y, across - gap, down - 1);
      }
    }
    const [layer, expert] = this.cursor;
    if (layer < layers && expert < experts) {
      context.strokeStyle = colours.over;
      context.lineWidth = 1.5;
      context.strokeRect(LEFT + expert * across - 0.5, TOP + layer * down - 0.5, across - gap + 1, down);
    }
    this.#sides(colours, down);
  }

  #total(layer) {
    const { experts, counts } = this.found;
    let total = 0;
    for (let at = layer * experts; at < (layer + 1) * experts; at++) total += counts[at];
    return total;
  }

  /** Beside the map: entropy, the busiest expert's share, and with two routings how many entries differ. */
  #sides(colours, down) {
    const { found } = this;
    const context = sized(this.side, 8 + this.#bars() * SIDE, TOP + found.layers * down + 2);
    context.font = '10px system-ui, "DejaVu Sans", sans-serif';
    context.textBaseline = "middle";
    context.fillStyle = colours.muted;
    const zero = (layer) => found.rows && found.zeros[layer] === found.rows;
    const most = (values) => values.reduce((top, value, layer) => (value > top && !zero(layer) ? value : top), 1e-12);
    const [share, apart] = [most(found.share), most(found.apart)];
    const columns = [
      ["entropy", (layer) => found.entropy[layer], colours.heat[2]],
      ["busiest", (layer) => found.share[layer] / share, colours.warm[3]],
    ];
    if (found.compared) columns.push(["differ", (layer) => found.apart[layer] / apart, colours.cold[3]]);
    columns.forEach(([name, value, colour], at) => {
      const x = 8 + at * SIDE;
      context.textAlign = "left";
      context.fillStyle = colours.muted;
      context.fillText(name, x, TOP / 2);
      for (let layer = 0; layer < found.layers; layer++) {
        const y = TOP + layer * down;
        context.fillStyle = colours.absent;
        context.fillRect(x, y, SIDE - 8, down - 1);
        const part = zero(layer) ? NaN : value(layer);
        if (!Number.isFinite(part)) continue;
        context.fillStyle = colour;
        context.fillRect(x, y, (SIDE - 8) * Math.min(part, 1), down - 1);
      }
    });
  }

  #say() {
    const { found, cursor } = this;
    const [layer, expert] = cursor;
    const parts = [
      cell(found, layer, expert),
      `entropy ${number(found.entropy[layer], 3)}`,
      `busiest expert ${found.busiest[layer]} with ${percent(found.share[layer])}`,
    ];
    if (found.compared) parts.push(`routing differs in ${percent(found.apart[layer] / found.compared)}`);
    if (found.rows && found.zeros[layer] === found.rows) parts.push("zero in every row");
    this.said.textContent = `${parts.join("; ")}.`;
  }

  #move(layer, expert) {
    const { found } = this;
    if (!found) return;
    this.cursor = [Math.max(0, Math.min(layer, found.layers - 1)), Math.max(0, Math.min(expert, found.experts - 1))];
    this.#say();
    this.draw();
  }

  #listen() {
    const { canvas, app } = this;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const { across, down } = this.#size();
      return [
        Math.floor((event.clientY - box.top - TOP) / down),
        Math.floor((event.clientX - box.left - LEFT) / across),
      ];
    };
    canvas.addEventListener("pointermove", (event) => this.found && this.#move(...place(event)));
    canvas.addEventListener("click", (event) => {
      if (!this.found) return;
      this.#move(...place(event));
      app.set({ expert: this.cursor[1], tab: "expert" });
    });
    canvas.addEventListener("keydown", (event) => {
      const [layer, expert] = this.cursor;
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (moves[event.key]) {
        event.preventDefault();
        this.#move(layer + moves[event.key][0], expert + moves[event.key][1]);
      } else if (event.key === "Enter" && this.found) app.set({ expert, tab: "expert" });
    });
  }
}

function listed(layers) {
  const shown = layers.slice(0, 12).join(", ");
  const more = layers.length > 12 ? ` and ${layers.length - 12} more` : "";
  return `${layers.length === 1 ? "layer" : "layers"} ${shown}${more}`;
}
