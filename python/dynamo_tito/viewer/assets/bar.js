// The controls above the text: colours, filters, search, legend, and the line of figures.

import { modes } from "./colour.js";
import { byId, make } from "./dom.js";
import { divergence, summary } from "./measure.js";
import { EVERYTHING } from "./state.js";
import { count, number } from "./text.js";

/** The number in a field; null where it is empty. */
function typed(name) {
  const text = byId(name).value;
  return text === "" ? null : Number(text);
}

function chip([colour, name]) {
  const swatch = make("i", { class: colour ? "swatch" : "swatch none" });
  if (colour) swatch.style.background = colour;
  return make("span", { class: "chip" }, swatch, name);
}

/** What is wrong: one finding stands in the line, several behind it. */
function showFindings(texts) {
  const root = byId("findings");
  root.hidden = !texts.length;
  root.open = false;
  root.classList.toggle("single", texts.length < 2);
  root.querySelector("summary").textContent =
    texts.length === 1 ? texts[0] : `${texts.length} findings: ${texts[0]}; …`;
  root.querySelector("ul").replaceChildren(...(texts.length > 1 ? texts : []).map((text) => make("li", {}, text)));
}

export class Bar {
  constructor(app) {
    this.app = app;
    byId("modes").addEventListener("change", (event) => app.set({ mode: event.target.value }));
    for (const name of ["side", "turn", "most", "apart"]) {
      byId(name).addEventListener(name === "side" || name === "turn" ? "change" : "input", () => this.#filter());
    }
    byId("clear").addEventListener("click", () => this.clear());
    const find = byId("find");
    find.addEventListener("input", () => app.set({ find: find.value }));
    find.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.next(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") byId("tokens").focus();
    });
    byId("next").addEventListener("click", () => this.next(1));
  }

  /** Another sample: what it has decides what there is to choose. */
  open() {
    const { app } = this;
    const { sample, state } = app;
    const choices = modes(sample);
    if (!choices.some(([key]) => key === state.mode)) state.mode = "logprob";
    byId("modes").replaceChildren(
      make("legend", {}, "Colour"),
      ...choices.map(([key, name]) =>
        make(
          "label",
          {},
          make("input", { type: "radio", name: "mode", value: key, checked: key === state.mode }),
          make("span", {}, name),
        ),
      ),
    );
    const { turns } = sample.said;
    byId("turn").replaceChildren(
      make("option", { value: -1 }, "every turn"),
      ...turns.map((_, turn) => make("option", { value: turn }, `turn ${turn}`)),
    );
    byId("turn").parentElement.hidden = turns.length < 2;
    byId("apart").parentElement.hidden = !sample.difference;
    this.#show(state.filter);
    const { findings, notes } = sample.said;
    showFindings([...findings, ...notes]);
  }

  #show(filter) {
    byId("side").value = filter.side;
    byId("turn").value = filter.turn;
    byId("most").value = filter.most ?? "";
    byId("apart").value = filter.apart ?? "";
  }

  #filter() {
    this.app.set({
      filter: {
        side: byId("side").value,
        turn: Number(byId("turn").value),
        most: typed("most"),
        apart: typed("apart"),
      },
    });
  }

  clear() {
    byId("find").value = "";
    this.#show(EVERYTHING);
    this.app.set({ filter: EVERYTHING, range: null, find: "" });
  }

  /** Goes to the next place of what is searched, or of what the filter takes. */
  next(step) {
    const { app } = this;
    const { found, sample, match, state } = app;
    let to = -1;
    if (found) {
      const { starts } = found;
      const later = starts.filter((at) => (step > 0 ? at > state.focus : at < state.focus));
      to = (step > 0 ? (later[0] ?? starts[0]) : (later.at(-1) ?? starts.at(-1))) ?? -1;
    } else {
      for (let at = 1; at <= sample.length && to < 0; at++) {
        const place = (((state.focus + step * at) % sample.length) + sample.length) % sample.length;
        if (match[place]) to = place;
      }
    }
    if (to < 0) return;
    app.set({ focus: to });
    app.tokens.show(to);
  }

  update() {
    this.#legend();
    this.#summary();
    const { found } = this.app;
    byId("hits").textContent = found ? `${count(found.starts.length)} found` : "";
  }

  #legend() {
    const { colours, from, to, items = [] } = this.app.paint.legend;
    const parts = [];
    if (colours) {
      const bar = make("i", { class: "ramp" });
      bar.style.background = `linear-gradient(to right, ${colours.join(",")})`;
      parts.push(make("span", { class: "chip" }, from, bar, to));
    }
    byId("legend").replaceChildren(...parts, ...items.map(chip));
  }

  #summary() {
    const { sample, state, chosen } = this.app;
    const found = summary(sample, chosen);
    this.figures = found;
    const { filter, range } = state;
    const filtered = Object.keys(EVERYTHING).some((name) => filter[name] !== EVERYTHING[name]);
    byId("clear").hidden = !filtered && !range && !state.find;
    const where = range ? `Positions ${count(range[0])} to ${count(range[1] - 1)}` : "Whole sequence";
    const pairs = [
      [filtered ? `${where}, filtered` : where, null],
      ["tokens", count(found.tokens)],
      ["sampled", count(found.sampled)],
      ["mean log-prob.", number(found.mean, 4)],
      ["lowest", found.lowestAt < 0 ? "–" : `${number(found.lowest, 4)} at ${count(found.lowestAt)}`],
    ];
    if (sample.difference) pairs.push(["k3", number(divergence(sample, chosen).k3, 4)]);
    byId("summary").replaceChildren(
      ...pairs.map(([name, value]) => make("span", {}, name, value === null ? null : make("b", {}, value))),
    );
  }
}
