// Everything that is known of one token.

import { byId, facts, make } from "./dom.js";
import { count, number, percent } from "./text.js";

export class TokenPanel {
  constructor(app) {
    this.app = app;
    this.root = byId("panel-token");
  }

  update() {
    const { app } = this;
    const { state, sample } = app;
    const token = state.hover >= 0 ? state.hover : state.focus;
    if (token < 0) {
      this.root.replaceChildren(
        make(
          "p",
          { class: "hint" },
          "Point at a token or tap it, or press an arrow key in the text, to see what is known of it.",
        ),
      );
      return;
    }
    this.root.replaceChildren(
      make(
        "header",
        { class: "token" },
        make("code", { class: "text" }, app.text(sample.get("ids")[token])),
        make("span", { class: "muted" }, describe(sample, token)),
      ),
      facts(this.#facts(token)),
      ...this.#alternatives(token),
      ...this.#experts(token),
    );
  }

  #facts(token) {
    const { sample } = this.app;
    const get = (name) => sample.get(name)?.[token];
    const logprob = get("logprobs");
    const id = get("ids");
    const pairs = [
      ["id", id < 0 ? "not known" : String(id)],
      ["position", count(token)],
      ["log-probability", number(logprob, 6)],
      ["probability", Number.isNaN(logprob) ? "–" : percent(Math.exp(logprob))],
    ];
    if (sample.difference) {
      pairs.push(["the other's", number(get("scored"), 6)], ["difference", number(sample.difference[token], 4)]);
    }
    if (get("versions") >= 0) pairs.push(["weights", sample.said.versions[get("versions")]]);
    if (get("vocabulary") > 0) pairs.push(["sampled from", `${count(get("vocabulary"))} ids`]);
    if (get("arrivals") >= 0) pairs.push(["read after", `${number(get("arrivals"), 4)} s`]);
    // Of a token of the prompt most figures are not there.
    return pairs.filter(([name, value]) => value !== "–" || name === "log-probability");
  }

  #alternatives(token) {
    const { app } = this;
    const { sample } = app;
    const found = sample.alternatives(token);
    if (!found.length) return [];
    const own = sample.get("ids")[token];
    const rows = found.map(([id, logprob]) =>
      make(
        "tr",
        { class: id === own ? "own" : undefined },
        make("td", {}, make("code", {}, app.text(id))),
        make("td", { class: "number muted" }, String(id)),
        make("td", { class: "number" }, number(logprob, 4)),
        make("td", { class: "bar" }, chance(logprob)),
      ),
    );
    return [
      make("h2", {}, "Alternatives"),
      make(
        "table",
        { class: "list" },
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            ...["text", "id", "log-prob.", "probability"].map((name, at) =>
              make("th", { scope: "col", class: at === 1 || at === 2 ? "number" : undefined }, name),
            ),
          ),
        ),
        make("tbody", {}, ...rows),
      ),
    ];
  }

  #experts(token) {
    const { app } = this;
    const { sample } = app;
    const route = sample.route(token);
    if (!sample.said.columns.experts) return [];
    const title = make("h2", {}, "Experts of each layer");
    if (!sample.loaded) return [title, make("p", { class: "hint" }, "Being read …")];
    if (!route) return [title, make("p", { class: "hint" }, "No row for this token.")];
    const other = sample.route(token, "experts2");
    const rows = route.map((experts, layer) => {
      const zero = experts.every((expert) => expert === 0) && experts.length > 1;
      return make(
        "tr",
        { class: zero ? "zero" : undefined },
        make("th", { scope: "row" }, String(layer)),
        ...experts.map((expert) =>
          make(
            "td",
            { class: other && !other[layer].includes(expert) ? "differs" : undefined },
            make(
              "button",
              { type: "button", tabindex: -1, onclick: () => app.set({ expert, tab: "expert" }) },
              String(expert),
            ),
          ),
        ),
        make("td", { class: "muted" }, zero ? "zeros" : other ? gone(experts, other[layer]) : ""),
      );
    });
    const said = [];
    if (sample.repeats[token]) said.push(`Equal to the row before, ${count(sample.repeats[token])} in succession.`);
    if (other) said.push("Marked: not among the other's experts, which follow behind the row.");
    return [
      title,
      said.length ? make("p", { class: "hint" }, said.join(" ")) : null,
      make("table", { class: "experts", "aria-label": "Experts of each layer" }, make("tbody", {}, ...rows)),
    ].filter(Boolean);
  }
}

/** A bar as long as the probability. */
function chance(logprob) {
  const bar = make("i");
  bar.style.width = `${(Number.isNaN(logprob) ? 0 : Math.exp(logprob)) * 100}%`;
  return make("span", { class: "chance", role: "img", "aria-label": percent(Math.exp(logprob)) }, bar);
}

/** The other's experts that are not among these. */
function gone(experts, other) {
  const missing = other.filter((expert) => !experts.includes(expert));
  return missing.length ? `← ${missing.join(" ")}` : "";
}

/** Where a token stands, in words. */
export function describe(sample, token) {
  const turn = sample.turn(token);
  const part = sample.get("mask")[token] ? "sampled" : "prompt";
  return sample.said.turns.length > 1 && turn >= 0 ? `turn ${turn}, ${part}` : part;
}
