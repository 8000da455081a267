// The columns of the page: blocks of base64 in the document become typed arrays.

const KINDS = { u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };

export const json = (name) => JSON.parse(document.getElementById(name).textContent);

/** Resolves when the whole document is there: what the first picture does not need stands behind the program. */
export const parsed = new Promise((resolve) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", resolve, { once: true });
  else resolve();
});

/** Lets the browser draw and answer before the work goes on. */
export function pause() {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

function decoded(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Reads one column. Its blocks are taken out of the document, so that the bytes are there once. */
export async function column(prefix, name, header) {
  const kind = KINDS[header.dtype];
  const values = new kind(header.shape.reduce((all, size) => all * size, 1));
  const bytes = new Uint8Array(values.buffer);
  let at = 0;
  for (let block = 0; block < header.blocks; block++) {
    const element = document.getElementById(`${prefix}-${name}-${block}`);
    let piece = decoded(element.textContent);
    element.remove();
    if (header.deflate) piece = await inflated(piece);
    else if (block % 4 === 3) await pause();
    bytes.set(piece, at);
    at += piece.length;
  }
  if (at !== bytes.length) throw new Error(`column ${name} has ${at} of ${bytes.length} bytes`);
  return values;
}
