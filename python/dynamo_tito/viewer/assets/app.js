// The page: opens a sequence, keeps the panels in step, and shows what is drawn to a test.

import { onTheme } from "./colour.js";
import { Bar } from "./bar.js";
import { ComparePanel } from "./compare.js";
import { json } from "./data.js";
import { byId, eachFrame, make } from "./dom.js";
import { ExpertPanel } from "./expert.js";
import { expose } from "./expose.js";
import { HeatPanel } from "./heat.js";
import { changed, follow, START } from "./state.js";
import { Sample } from "./sample.js";
import { StripView } from "./strip.js";
import { showAbout, showSamples, showTurns } from "./tables.js";
import { number } from "./text.js";
import { showTip } from "./tip.js";
import { describe, TokenPanel } from "./token.js";
import { TokensView } from "./tokens.js";
import { Vocabulary } from "./vocabulary.js";

const FIGURES = ["sample", "filter", "range", "loaded"];

class App {
  constructor(manifest) {
    this.manifest = manifest;
    this.sections = manifest.sections;
    this.samples = this.sections.map((said, index) => new Sample(index, said));
    this.state = { ...START };
    this.dirty = new Set();
    this.work = Promise.resolve();
    this.flush = eachFrame(() => this.#flush());
  }

  async start() {
    this.vocabulary = await Vocabulary.read(this.manifest.vocabulary);
    this.tokens = new TokensView(this);
    this.strip = new StripView(this);
    this.bar = new Bar(this);
    this.token = new TokenPanel(this);
    this.heat = new HeatPanel(this);
    this.expert = new ExpertPanel(this);
    this.compare = new ComparePanel(this);
    this.#header();
    this.#tabs();
    this.#keys();
    onTheme(() => this.#restyle());
    await this.open(0);
  }

  /** Shows another sequence of the page; of two in quick succession the second. */
  open(index) {
    this.wanted = index;
    this.opening = this.#open(index);
    return this.opening;
  }

  async #open(index) {
    const sample = this.samples[index];
    await sample.open();
    if (this.wanted !== index) return;
    this.sample = sample;
    Object.assign(this.state, { focus: -1, hover: -1, range: null, filter: START.filter });
    byId("sample").value = index;
    for (const [tab, there] of [
      ["routing", sample.said.columns.experts],
      ["expert", sample.said.columns.experts],
      ["turns", sample.said.turns.length],
      ["compare", sample.difference],
      ["samples", this.sections.length > 1],
    ]) {
      byId(`tab-${tab}`).hidden = !there;
      if (!there && this.state.tab === tab) this.state.tab = "token";
    }
    this.bar.open();
    follow(this, new Set(["sample"]));
    this.runs = null;
    this.tokens.arrange();
    this.tokens.scroller.scrollTop = 0;
    showAbout(this);
    if (this.sections.length > 1) showSamples(this);
    this.#mark("sample");
    await this.#load(sample);
  }

  async #load(sample) {
    byId("loading").hidden = sample.loaded;
    await sample.load();
    performance.mark("loaded");
    if (sample !== this.sample) return;
    byId("loading").hidden = true;
    follow(this, new Set(["loaded"]));
    this.#mark("loaded");
  }

  /** Changes what the reader chose. */
  set(changes) {
    const after = { ...this.state, ...changes };
    const names = changed(this.state, after);
    if (!names.size) return;
    this.state = after;
    follow(this, names);
    for (const name of names) this.dirty.add(name);
    this.flush();
  }

  #mark(name) {
    this.dirty.add(name);
    this.flush();
  }

  /** Draws what changed. Figures over many tokens are counted in slices and drawn when they are there. */
  #flush() {
    const { dirty, state } = this;
    this.dirty = new Set();
    const any = (...names) => names.some((name) => dirty.has(name));
    if (any("tab", "sample")) this.#showTab();
    this.tokens.draw();
    if (any("sample", "mode", "filter", "loaded", "theme")) this.strip.refresh();
    else this.strip.draw();
    if (any(...FIGURES, "mode", "find", "theme")) this.bar.update();
    if (any("focus", "hover", "sample", "loaded")) this.token.update();
    if (any("hover", "sample")) showTip(this);
    if (any("focus") && state.focus >= 0) this.#announce();
    const work = [];
    if (any(...FIGURES)) work.push(this.heat.update());
    if (any("theme", "tab")) this.heat.draw();
    if (any("range", "sample", "loaded", "expert", "tab")) work.push(this.expert.update());
    if (any("theme")) this.expert.draw();
    if (any(...FIGURES, "tab")) this.compare.update();
    if (any("theme")) this.compare.draw();
    if (any("sample", "loaded")) showTurns(this);
    if (work.length) this.work = Promise.all(work);
  }

  /** Called when tokens were drawn: the strip shows which. */
  viewed() {
    if (!performance.getEntriesByName("tokens").length) performance.mark("tokens");
    this.strip.draw();
  }

  text(id) {
    return this.vocabulary.text(id);
  }

  /** Rows that equal the row before, and the longest run of them. */
  repeatedRuns() {
    if (this.runs) return this.runs;
    const { repeats } = this.sample;
    const found = { rows: 0, longest: 0, first: 0 };
    repeats.forEach((run, at) => {
      if (!run) return;
      found.rows++;
      if (run + 1 > found.longest) Object.assign(found, { longest: run + 1, first: at - run });
    });
    this.runs = found;
    return found;
  }

  #announce() {
    const { sample, state } = this;
    const at = state.focus;
    const logprob = sample.get("logprobs")[at];
    const value = Number.isNaN(logprob) ? "no log-probability" : `log-probability ${number(logprob, 3)}`;
    byId("live").textContent = `${this.text(sample.get("ids")[at])}, position ${at}, ${describe(sample, at)}, ${value}`;
  }

  #header() {
    byId("title").textContent = this.manifest.title;
    const select = byId("sample");
    select.replaceChildren(...this.sections.map((said, index) => make("option", { value: index }, said.name)));
    byId("samples").hidden = this.sections.length < 2;
    select.addEventListener("change", () => this.open(Number(select.value)));
    const step = (by) => () => {
      const index = this.sample.index + by;
      if (index >= 0 && index < this.sections.length) this.open(index);
    };
    byId("before").addEventListener("click", step(-1));
    byId("after").addEventListener("click", step(1));
    byId("theme").addEventListener("click", () => {
      const chosen = document.documentElement.dataset;
      const next = { undefined: "light", light: "dark", dark: undefined }[chosen.theme];
      if (next) chosen.theme = next;
      else delete chosen.theme;
      byId("theme").textContent = `Theme: ${next ?? "system"}`;
      this.#restyle();
    });
    byId("help").addEventListener("click", () => byId("keys").showModal());
  }

  #restyle() {
    follow(this, new Set(["theme"]));
    this.#mark("theme");
  }

  #tabs() {
    const bar = byId("tabs");
    bar.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) this.set({ tab: tab.id.slice("tab-".length) });
    });
    bar.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const shown = [...bar.children].filter((tab) => !tab.hidden);
      const here = shown.findIndex((tab) => tab.id === `tab-${this.state.tab}`);
      const next = shown[(here + step + shown.length) % shown.length];
      this.set({ tab: next.id.slice("tab-".length) });
      next.focus();
    });
  }

  #showTab() {
    for (const tab of byId("tabs").children) {
      const name = tab.id.slice("tab-".length);
      const chosen = name === this.state.tab;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      byId(`panel-${name}`).hidden = !chosen;
    }
  }

  #keys() {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches("input, select, textarea") || byId("keys").open) return;
      const modes = [...byId("modes").querySelectorAll("input")];
      const does = {
        "/": () => byId("find").focus(),
        "?": () => byId("keys").showModal(),
        n: () => this.bar.next(1),
        N: () => this.bar.next(-1),
        "]": () => this.#turn(1),
        "[": () => this.#turn(-1),
        Escape: () => this.bar.clear(),
      }[event.key];
      const mode = modes[Number(event.key) - 1];
      if (does) does();
      else if (mode) mode.click();
      else return;
      event.preventDefault();
    });
  }

  /** Goes to where the next turn, or its answer, begins. */
  #turn(step) {
    const places = this.sample.said.turns.flatMap(([start, completion, end]) =>
      completion < end ? [start, completion] : [start],
    );
    const here = this.state.focus;
    const to = step > 0 ? places.find((at) => at > here) : places.findLast((at) => at < here);
    if (to === undefined) return;
    this.set({ focus: to });
    this.tokens.show(to);
  }
}

const app = new App(json("manifest"));
const started = app.start();
started.catch((error) => {
  byId("failed").textContent = `The page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
  byId("failed").hidden = false;
});
expose(app, started);
