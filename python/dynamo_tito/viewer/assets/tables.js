// Turns of a sequence, sequences of a page, and what else is known of one.

import { byId, facts, make } from "./dom.js";
import { divergence, matching, summary } from "./measure.js";
import { count, number } from "./text.js";

/** A row of cells; numbers stand to the right. */
const row = (cells, attributes = {}) =>
  make(
    "tr",
    attributes,
    ...cells.map((value) =>
      make(
        "td",
        { class: typeof value === "string" ? undefined : "number" },
        typeof value === "object" ? value.text : value,
      ),
    ),
  );

const figure = (text) => ({ text });

export function showTurns(app) {
  const { sample } = app;
  byId("drifts").replaceChildren(...sample.said.drifts.map((drift) => make("p", { class: "notice" }, drift)));
  const versions = sample.get("versions");
  const rows = sample.said.turns.map(([start, completion, end, finish], turn) => {
    const chosen = matching(sample, { side: "sampled", turn, most: null, apart: null });
    const found = summary(sample, chosen);
    const names = new Set();
    if (versions)
      for (let at = completion; at < end; at++) if (versions[at] >= 0) names.add(sample.said.versions[versions[at]]);
    const choose = () => {
      app.set({ range: [start, end], focus: start });
      app.tokens.show(start);
    };
    const cells = [
      figure(make("button", { type: "button", onclick: choose }, String(turn))),
      figure(count(start)),
      figure(count(completion - start)),
      figure(count(end - completion)),
      figure(number(found.mean, 4)),
    ];
    if (sample.difference) cells.push(figure(number(divergence(sample, chosen).k3, 3)));
    return row([...cells, finish, [...names].join(", ") || "–"]);
  });
  const heads = [
    "turn",
    "from",
    "prompt",
    "sampled",
    "mean log-prob.",
    ...(sample.difference ? ["k3"] : []),
    "ended",
    "weights",
  ];
  byId("turns-table").replaceChildren(
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        ...heads.map((name, at) =>
          make("th", { scope: "col", class: at < heads.length - 2 ? "number" : undefined }, name),
        ),
      ),
    ),
    make("tbody", {}, ...rows),
  );
}

const ORDERS = {
  name: (said) => said.index,
  tokens: (said) => said.length,
  sampled: (said) => said.sampled,
  "mean log-prob.": (said) => said.mean ?? Number.POSITIVE_INFINITY,
  k3: (said) => -(said.compared?.k3 ?? Number.NEGATIVE_INFINITY),
};

/** The sequences of a page, in the order that was asked for. */
export function showSamples(app, order = "name") {
  const sections = app.sections.map((said, index) => ({ ...said, index }));
  const key = ORDERS[order];
  sections.sort((one, other) => key(one) - key(other));
  const compared = sections.some((said) => said.compared);
  const heads = Object.keys(ORDERS).filter((name) => name !== "k3" || compared);
  const rows = sections.map((said) => {
    const cells = [figure(count(said.length)), figure(count(said.sampled)), figure(number(said.mean, 4))];
    if (compared) cells.push(figure(number(said.compared?.k3, 3)));
    const open = make("button", { type: "button", onclick: () => app.open(said.index) }, said.name);
    const current = said.index === app.sample.index;
    const ended = said.turns.at(-1)?.[3] ?? "–";
    const made = row([...cells, ended], { "aria-current": current ? "true" : undefined });
    made.prepend(make("td", {}, open));
    return made;
  });
  const head = (name, at) =>
    make(
      "th",
      { scope: "col", class: at ? "number" : undefined, "aria-sort": name === order ? "ascending" : "none" },
      make("button", { type: "button", onclick: () => showSamples(app, name) }, name),
    );
  byId("samples-table").replaceChildren(
    make("thead", {}, make("tr", {}, ...heads.map(head), make("th", { scope: "col" }, "ended"))),
    make("tbody", {}, ...rows),
  );
}

const DTYPES = { u1: "uint8", i2: "int16", u2: "uint16", i4: "int32", f4: "float32", f8: "float64" };

export function showAbout({ sample }) {
  const { said } = sample;
  const columns = Object.entries(said.columns).map(([name, { dtype, shape }]) => [
    name,
    `${DTYPES[dtype]} [${shape.join(", ")}]`,
  ]);
  byId("about").replaceChildren(
    facts([["record", said.kind], ["tokens", count(said.length)], ["sampled", count(said.sampled)], ...said.facts]),
    make("h2", {}, "Arrays of this page"),
    facts(columns),
  );
}
