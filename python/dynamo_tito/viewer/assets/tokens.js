// The tokens as text: a canvas that draws the lines in view, and what pointer and keyboard do in it.

import { theme } from "./colour.js";
import { byId, eachFrame, sized } from "./dom.js";
import { arrange, headings, INDENT, LINE, lineOf, tokenAt, widths } from "./layout.js";

const FONT = '13px ui-monospace, "SF Mono", SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';
const SMALL = '11px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const LABEL = '600 11.5px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
const TOP = 6;

export class TokensView {
  constructor(app) {
    this.app = app;
    this.scroller = byId("tokens");
    this.canvas = byId("sheet");
    this.spacer = byId("spacer");
    this.draw = eachFrame(() => this.#draw());
    this.drawn = { from: 0, to: 0, cells: [] };
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.arrange()).observe(this.scroller);
    this.#listen();
  }

  /** Lays the sample out again: another sample, or another width. */
  arrange() {
    const { sample, vocabulary } = this.app;
    if (!sample?.get("ids")) return;
    const width = this.scroller.clientWidth;
    if (!vocabulary.widths) {
      const context = this.canvas.getContext("2d");
      context.font = FONT;
      vocabulary.widths = widths(vocabulary.shown, context);
    }
    if (this.sample !== sample) {
      this.sample = sample;
      this.index = vocabulary.indices(sample.get("ids"));
      this.heads = headings(sample.said);
      this.width = 0;
    }
    if (this.width !== width) {
      const top = this.layout ? this.layout.first[this.#lineAt(0)] : 0;
      this.layout = arrange(this.index, vocabulary.widths, vocabulary.ends, this.heads, width);
      if (this.width) this.#scrollTo(Math.max(lineOf(this.layout, Math.min(top, sample.length - 1)), 0) * LINE);
      this.width = width;
    }
    this.spacer.style.height = `${this.layout.lines * LINE + 2 * TOP - this.scroller.clientHeight}px`;
    this.draw();
  }

  #scrollTo(top) {
    this.scroller.scrollTop = top;
  }

  #lineAt(y) {
    const line = Math.floor((this.scroller.scrollTop + y - TOP) / LINE);
    return Math.max(0, Math.min(line, this.layout.lines - 1));
  }

  /** Brings a token into view. */
  show(token) {
    if (!this.layout || token < 0) return;
    const y = lineOf(this.layout, token) * LINE + TOP;
    const { scrollTop, clientHeight } = this.scroller;
    if (y < scrollTop + LINE) this.#scrollTo(y - 2 * LINE);
    else if (y > scrollTop + clientHeight - 2 * LINE) this.#scrollTo(y - clientHeight + 3 * LINE);
    if (Math.abs(y - scrollTop) > 2 * clientHeight) this.#scrollTo(y - clientHeight / 2);
  }

  /** The first and the last token in view. */
  view() {
    if (!this.layout) return [0, 0];
    return [this.layout.first[this.#lineAt(0)], this.layout.first[this.#lineAt(this.scroller.clientHeight) + 1]];
  }

  #draw() {
    const { app, sample, layout } = this;
    if (!layout || sample !== app.sample) return;
    const { clientWidth: width, clientHeight: height, scrollTop } = this.scroller;
    const context = sized(this.canvas, width, height);
    const colours = theme();
    const { widths: wide, shown } = app.vocabulary;
    const { state, match, found } = app;
    const range = state.range;
    const [from, to] = [this.#lineAt(0), this.#lineAt(height)];
    const cells = [];
    context.textBaseline = "middle";
    for (let line = from; line <= to; line++) {
      const y = line * LINE + TOP - scrollTop;
      const middle = y + LINE / 2;
      const title = layout.titles.get(line);
      if (title !== undefined) {
        this.#heading(context, colours, title, y, width);
        continue;
      }
      const [first, end] = [layout.first[line], layout.first[line + 1]];
      context.font = SMALL;
      context.fillStyle = colours.muted;
      context.textAlign = "right";
      context.fillText(String(first), layout.gutter - 12, middle);
      context.textAlign = "left";
      context.font = FONT;
      for (let at = first; at < end; at++) {
        const [x, size] = [layout.x[at], wide[this.index[at]]];
        context.globalAlpha = match[at] ? 1 : 0.28;
        const fill = app.paint.fill(at);
        if (fill) {
          context.fillStyle = fill;
          context.fillRect(x, y + 2, size, LINE - 4);
        }
        if (range && at >= range[0] && at < range[1]) {
          context.globalAlpha = 1;
          context.fillStyle = colours.accent;
          context.fillRect(x, y + LINE - 3, size + 1, 2);
        }
        context.globalAlpha = match[at] ? 1 : 0.4;
        context.fillStyle = sample.get("mask")[at] ? colours.ink : colours.muted;
        context.fillText(shown[this.index[at]], x + INDENT, middle);
        cells.push([at, fill, x, y]);
      }
      context.globalAlpha = 1;
      if (found) this.#hits(context, colours, first, end, y);
    }
    context.globalAlpha = 1;
    this.#ring(context, colours, state.focus, scrollTop, 2);
    if (state.hover !== state.focus) this.#ring(context, colours, state.hover, scrollTop, 1);
    this.drawn = { from: layout.first[from], to: layout.first[to + 1], cells };
    app.viewed();
  }

  #heading(context, colours, title, y, width) {
    const { gutter } = this.layout;
    context.fillStyle = colours.line;
    context.fillRect(gutter, y + LINE - 4, Math.max(width - gutter - 8, 0), 1);
    context.font = LABEL;
    context.fillStyle = colours.muted;
    context.fillText(title, gutter + 4, y + LINE / 2 - 1, width - gutter - 12);
  }

  #hits(context, colours, first, end, y) {
    context.strokeStyle = colours.accent;
    context.lineWidth = 1;
    for (let at = first; at < end; at++) {
      if (!this.app.found.marks[at]) continue;
      context.strokeRect(this.layout.x[at] + 0.5, y + 2.5, this.app.vocabulary.widths[this.index[at]] - 1, LINE - 5);
    }
  }

  #ring(context, colours, token, scrollTop, width) {
    if (token < 0 || token >= this.sample.length) return;
    const y = lineOf(this.layout, token) * LINE + TOP - scrollTop;
    context.strokeStyle = colours.over;
    context.lineWidth = width;
    context.strokeRect(this.layout.x[token], y + 2, this.app.vocabulary.widths[this.index[token]], LINE - 4);
  }

  /** The token under a pointer; -1 where there is none. */
  at(event) {
    if (!this.layout) return -1;
    const box = this.canvas.getBoundingClientRect();
    const [across, down] = [event.clientX - box.left, event.clientY - box.top];
    const line = Math.floor((this.scroller.scrollTop + down - TOP) / LINE);
    if (line < 0 || line >= this.layout.lines || across < this.layout.gutter - 4) return -1;
    return tokenAt(this.layout, this.app.vocabulary.widths, this.index, line, across);
  }

  /** The rectangle of a token on the screen. */
  box(token) {
    const box = this.canvas.getBoundingClientRect();
    const top = lineOf(this.layout, token) * LINE + TOP - this.scroller.scrollTop + box.top;
    return { left: this.layout.x[token] + box.left, top, bottom: top + LINE };
  }

  #listen() {
    const { app, canvas, scroller } = this;
    let anchor = -1;
    canvas.addEventListener("pointermove", (event) => {
      const token = this.at(event);
      if (anchor >= 0 && event.buttons === 1 && event.pointerType === "mouse") {
        if (token >= 0 && token !== anchor) app.set({ range: span(anchor, token), focus: token, hover: -1 });
      } else if (event.pointerType === "mouse") app.set({ hover: token });
    });
    canvas.addEventListener("pointerleave", () => app.set({ hover: -1 }));
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType !== "mouse") return;
      const token = this.at(event);
      if (token < 0) return;
      if (event.shiftKey && app.state.focus >= 0) app.set({ range: span(app.state.focus, token) });
      else {
        anchor = token;
        app.set({ focus: token, range: null });
      }
    });
    window.addEventListener("pointerup", () => {
      anchor = -1;
    });
    canvas.addEventListener("click", (event) => {
      if (event.pointerType === "mouse") return;
      const token = this.at(event);
      if (token >= 0) app.set({ focus: token, range: null });
    });
    scroller.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.layout) return;
    const to = this.#moved(event.key);
    if (to === null) return;
    event.preventDefault();
    const { app } = this;
    const { focus, range } = app.state;
    const next = Math.max(0, Math.min(to, this.sample.length - 1));
    if (!event.shiftKey || focus < 0) app.set({ focus: next, range: null, hover: -1 });
    else {
      const anchor = !range ? focus : focus === range[0] ? range[1] - 1 : range[0];
      app.set({ focus: next, range: span(anchor, next), hover: -1 });
    }
    this.show(next);
  }

  /** Where a key leads from the token in focus. */
  #moved(key) {
    const { layout } = this;
    const focus = Math.max(this.app.state.focus, 0);
    const page = Math.max(Math.floor(this.scroller.clientHeight / LINE) - 1, 1);
    const down = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page }[key];
    if (this.app.state.focus < 0 && (down || key === "ArrowRight" || key === "ArrowLeft")) return this.view()[0];
    if (key === "ArrowRight") return focus + 1;
    if (key === "ArrowLeft") return focus - 1;
    if (key === "Home") return 0;
    if (key === "End") return this.sample.length - 1;
    if (!down) return null;
    const here = lineOf(layout, focus);
    const step = Math.sign(down);
    let line = Math.max(0, Math.min(here + down, layout.lines - 1));
    while (line > 0 && line < layout.lines - 1 && layout.titles.has(line)) line += step;
    const token = tokenAt(layout, this.app.vocabulary.widths, this.index, line, layout.x[focus]);
    return token < 0 ? focus : token;
  }
}

const span = (one, other) => [Math.min(one, other), Math.max(one, other) + 1];
