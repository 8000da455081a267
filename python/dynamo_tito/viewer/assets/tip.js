// A small note beside the token under the pointer.

import { byId, make } from "./dom.js";
import { count, number } from "./text.js";

const MOST = 4;

const scored = (logprob) => (Number.isNaN(logprob) ? "" : `, log-probability ${number(logprob, 4)}`);

export function showTip(app) {
  const tip = byId("tip");
  const { state, sample } = app;
  if (state.hover < 0) {
    tip.hidden = true;
    return;
  }
  const token = state.hover;
  const id = sample.get("ids")[token];
  const lines = [
    make(
      "div",
      {},
      make("code", {}, app.text(id)),
      make("span", { class: "muted" }, ` id ${id < 0 ? "not known" : id}`),
    ),
    make("div", {}, `position ${count(token)}${scored(sample.get("logprobs")[token])}`),
  ];
  if (sample.difference && !Number.isNaN(sample.difference[token]))
    lines.push(make("div", {}, `difference ${number(sample.difference[token], 3)}`));
  const found = sample.alternatives(token).slice(0, MOST);
  for (const [other, logprob] of found) {
    lines.push(
      make(
        "div",
        { class: "row" },
        make("code", {}, app.text(other)),
        make("span", { class: "muted" }, number(logprob, 3)),
      ),
    );
  }
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const box = app.tokens.box(token);
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const below = box.bottom + height + 12 < window.innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, window.innerWidth - width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 6 : box.top - height - 6}px`;
}
