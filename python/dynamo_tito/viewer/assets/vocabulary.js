// The token ids that occur, their texts, and where a text occurs in a sequence.

import { column, json } from "./data.js";
import { shorter, visible } from "./text.js";

/** Characters of a token's text on a line. */
const LONGEST = 48;

export class Vocabulary {
  static async read(header) {
    return new Vocabulary(await column("v", "vocabulary", header), json("texts"));
  }

  constructor(ids, texts) {
    this.ids = ids;
    this.texts = texts;
    this.widths = null;
    const spelled = (id, at) => shorter(visible(texts ? texts[at] : "", id), LONGEST);
    // One more than there are ids: a prompt token whose id is not known.
    this.shown = [...Array.from(ids, spelled), visible("", -1)];
    this.ends = Uint8Array.from(this.shown, (_, at) => (texts?.[at]?.endsWith("\n") ? 1 : 0));
  }

  /** The number of an id in the vocabulary: ids stand there in ascending order. */
  index(id) {
    const { ids } = this;
    if (id < 0) return ids.length;
    let [low, high] = [0, ids.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ids[middle] < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  indices(ids) {
    return Int32Array.from(ids, (id) => this.index(id));
  }

  /** A token's text with nothing hidden in it. */
  text(id) {
    return id < 0 ? "·" : visible(this.texts ? this.texts[this.index(id)] : "", id);
  }

  /**
   * Tokens in which something occurs: a text, which may go over several tokens, or `#` and an id. Without texts a
   * number is an id.
   * @returns marks: 1 for every such token; starts: the first token of each place.
   */
  find(sample, wanted) {
    const ids = sample.get("ids");
    const marks = new Uint8Array(ids.length);
    const starts = [];
    const named = /^#?(\d+)$/.exec(wanted.trim());
    if (named && (!this.texts || wanted.trim().startsWith("#"))) {
      const id = Number(named[1]);
      for (let at = 0; at < ids.length; at++) {
        if (ids[at] !== id) continue;
        marks[at] = 1;
        starts.push(at);
      }
    } else if (this.texts && wanted) this.#findText(sample, wanted.toLowerCase(), marks, starts);
    return { marks, starts };
  }

  #findText(sample, wanted, marks, starts) {
    const { text, offsets } = this.#joined(sample);
    let token = 0;
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      while (offsets[token + 1] <= at) token++;
      starts.push(token);
      for (let next = token; next < marks.length && offsets[next] < at + wanted.length; next++) marks[next] = 1;
    }
  }

  /** The text of a sequence in small letters, and where each token begins in it. */
  #joined(sample) {
    if (this.sample === sample) return this.whole;
    this.small ??= this.texts.map((text) => text.toLowerCase());
    const pieces = Array.from(sample.get("ids"), (id) => (id < 0 ? "" : this.small[this.index(id)]));
    const offsets = new Int32Array(pieces.length + 1);
    pieces.forEach((piece, at) => {
      offsets[at + 1] = offsets[at] + piece.length;
    });
    this.sample = sample;
    this.whole = { text: pieces.join(""), offsets };
    return this.whole;
  }
}
