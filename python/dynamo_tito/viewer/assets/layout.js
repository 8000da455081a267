// Which token stands where: lines of tokens, with a heading where a turn or its answer begins.

export const LINE = 23;
/** Pixels of a digit of the positions in front of the lines. */
const DIGIT = 6.7;
const GAP = 1;
export const INDENT = 2;

const PLAIN = /^[\x20-\x7e]*$/;

/** The width of every text of the vocabulary; most are measured by their number of characters. */
export function widths(texts, context) {
  const advance = context.measureText("0").width;
  return Float32Array.from(
    texts,
    (text) => (PLAIN.test(text) ? text.length * advance : context.measureText(text).width) + 2 * INDENT,
  );
}

/** Positions at which a heading stands, with its text. */
export function headings(said) {
  const found = new Map();
  const several = said.turns.length > 1;
  said.turns.forEach(([start, completion, end, finish], turn) => {
    const name = several ? `Turn ${turn}` : "";
    const asked = several ? `${name} · prompt` : "Prompt";
    if (completion > start) found.set(start, `${asked} · ${tokens(completion - start)}`);
    const answered = several ? `${name} · sampled` : "Sampled";
    if (end > completion) found.set(completion, `${answered} · ${tokens(end - completion)} · ${finish}`);
  });
  if (said.shared > 0 && said.shared < said.length) {
    const before = found.get(said.shared);
    const text = `Tokens before position ${said.shared} are in an earlier sample, too`;
    found.set(said.shared, before ? `${before} · ${text}` : text);
  }
  return found;
}

const tokens = (amount) => (amount === 1 ? "1 token" : `${amount.toLocaleString("en-US")} tokens`);

/** The width of the positions in front of the lines. */
export const margin = (length) => Math.ceil(String(length).length * DIGIT) + 26;

/**
 * Breaks tokens into lines.
 * @returns x: where each token begins; first: the first token of each line, and the length at the end; titles: the
 * headings by line. A line with a heading has no tokens.
 */
export function arrange(index, wide, ends, heads, width) {
  const gutter = margin(index.length);
  const length = index.length;
  const x = new Float32Array(length);
  const first = [];
  const titles = new Map();
  const edge = Math.max(width - 8, gutter + 60);
  let [across, fresh] = [gutter, true];
  for (let at = 0; at < length; at++) {
    const title = heads.get(at);
    if (title !== undefined) {
      titles.set(first.length, title);
      first.push(at);
      fresh = true;
    }
    const size = wide[index[at]];
    if (fresh || across + size > edge) {
      first.push(at);
      across = gutter;
    }
    x[at] = across;
    across += size + GAP;
    fresh = ends[index[at]] === 1;
  }
  const lines = first.length;
  first.push(length);
  return { x, first: Int32Array.from(first), titles, lines, gutter };
}

/** The line of a token. */
export function lineOf({ first, lines }, token) {
  let [low, high] = [0, lines - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (first[middle] <= token) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The token of a line at a place; the nearest one where the place is beside all of them. -1 on a heading. */
export function tokenAt(layout, wide, index, line, across) {
  const [from, to] = [layout.first[line], layout.first[line + 1]];
  if (!(to > from)) return -1;
  let [low, high] = [from, to - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (layout.x[middle] <= across) low = middle;
    else high = middle - 1;
  }
  return low;
}
