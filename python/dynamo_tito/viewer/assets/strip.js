// The whole sequence on one strip: what is where, what is chosen, what is in view.

import { theme } from "./colour.js";
import { byId, eachFrame, sized } from "./dom.js";

const HEIGHT = 44;
const BAND = 26;

export class StripView {
  constructor(app) {
    this.app = app;
    this.canvas = byId("strip");
    this.draw = eachFrame(() => this.#draw());
    new ResizeObserver(() => this.refresh()).observe(this.canvas.parentElement);
    this.#listen();
  }

  /** Draws the colours anew: they are kept as a picture while only the frame of the view moves. */
  refresh() {
    this.picture = null;
    this.draw();
  }

  #draw() {
    const { sample, state, tokens } = this.app;
    if (!sample?.get("ids")) return;
    const width = this.canvas.parentElement.clientWidth;
    const context = sized(this.canvas, width, HEIGHT);
    const colours = theme();
    this.picture ??= this.#colours(width);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, 0, 6, width, BAND);
    context.fillStyle = colours.line;
    context.fillRect(0, 6 + BAND, width, 1);
    const place = (token) => (token / Math.max(sample.length, 1)) * width;
    context.fillStyle = colours.muted;
    for (const [start, completion] of sample.said.turns) {
      if (start > 0) context.fillRect(Math.round(place(start)), 0, 1, HEIGHT - 8);
      if (completion > start) context.fillRect(Math.round(place(completion)), 6 + BAND, 1, 4);
    }
    if (state.range) {
      const [from, to] = state.range.map(place);
      context.fillStyle = colours.accent;
      context.fillRect(from, BAND + 7, Math.max(to - from, 2), 3);
    }
    const [from, to] = tokens.view().map(place);
    context.strokeStyle = colours.over;
    context.lineWidth = 1;
    context.strokeRect(Math.round(from) + 0.5, 4.5, Math.max(Math.round(to - from), 3), BAND + 3);
    if (state.focus >= 0) {
      context.fillStyle = colours.accent;
      context.fillRect(Math.round(place(state.focus)) - 1, 0, 2, 5);
    }
  }

  /** One column of pixels for a bucket of tokens, mixed of their colours. */
  #colours(width) {
    const { sample, paint, match } = this.app;
    const columns = Math.max(1, Math.min(Math.floor(width), sample.length));
    const [red, green, blue, seen] = Array.from({ length: 4 }, () => new Float64Array(columns));
    const known = new Map();
    const sheet = theme().sheet;
    for (let at = 0; at < sample.length; at++) {
      const colour = (match[at] && paint.fill(at)) || sheet;
      let value = known.get(colour);
      if (value === undefined) {
        value = Number.parseInt(colour.slice(1), 16);
        known.set(colour, value);
      }
      const bucket = Math.floor((at * columns) / sample.length);
      red[bucket] += value >> 16;
      green[bucket] += (value >> 8) & 255;
      blue[bucket] += value & 255;
      seen[bucket]++;
    }
    const picture = document.createElement("canvas");
    picture.width = columns;
    picture.height = 1;
    const context = picture.getContext("2d");
    const image = context.createImageData(columns, 1);
    for (let at = 0; at < columns; at++) {
      const values = [red, green, blue].map((one) => one[at] / seen[at]);
      image.data.set([...values, 255], at * 4);
    }
    context.putImageData(image, 0, 0);
    return picture;
  }

  #listen() {
    const { app, canvas } = this;
    const tokenAt = (event) => {
      const box = canvas.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      return Math.max(0, Math.min(Math.floor(share * app.sample.length), app.sample.length - 1));
    };
    let anchor = -1;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      anchor = tokenAt(event);
      app.set({ range: null, focus: anchor });
      app.tokens.show(anchor);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (anchor < 0 || !event.buttons) return;
      const token = tokenAt(event);
      if (token !== anchor) app.set({ range: [Math.min(anchor, token), Math.max(anchor, token) + 1] });
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        anchor = -1;
      });
    }
  }
}
