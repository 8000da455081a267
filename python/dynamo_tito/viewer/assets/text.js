// Numbers and token texts as a person reads them.

const NAMES = { "\n": "↵", "\t": "⇥", "\r": "␍" };

// Control characters, marks that change the direction of text, and other characters without a picture of their own.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\p{Cs}]/gu;

function named(character) {
  const code = character.codePointAt(0);
  return NAMES[character] ?? (code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`);
}

/** A token's text with nothing hidden in it; of one without text, its id. */
export function visible(text, id) {
  if (id < 0) return "·";
  return text ? text.replace(HIDDEN, named) : String(id);
}

export function shorter(text, most) {
  const characters = [...text];
  return characters.length <= most ? text : `${characters.slice(0, most - 1).join("")}…`;
}

const counts = new Intl.NumberFormat("en-US");

export const count = (value) => counts.format(value);

/** A number with so many significant digits; a dash where there is none. */
export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e6 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  return text.replaceAll("-", "−");
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const digits = share >= 0.1 || share === 0 ? 1 : share >= 0.001 ? 2 : 4;
  return `${(share * 100).toFixed(digits)} %`;
}
