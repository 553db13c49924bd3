/**
 * Writes out loops of a WGSL source, which WGSL has no attribute for:
 *
 *   for (var i = 0u; i < COUNT; i++) { // unroll
 *
 * Drivers leave loops over subgroup matrices as they are, and arrays of matrices, indexed by a variable, in memory: on an
 * H100, a product took nine times as long. COUNT is a number or a const that is one. In each copy of the body i is a
 * number; the body has no other name i and neither breaks nor continues the loop.
 */
const head = /^[ \t]*for \(var (\w+) = 0u?; \1 < (\w+); \1\+\+\) \{ \/\/ unroll$/m;

/** The source with all marked loops written out, the outer ones first. Throws for a count that is not a number. */
export function unroll(source: string): string {
  let text = source;
  for (let found = head.exec(text); found; found = head.exec(text)) {
    const [line, name, bound] = found;
    const start = found.index + line.length;
    const end = closingBrace(text, start);
    const body = text.slice(start, end);
    const copies = Array.from({ length: countOf(text, bound) }, (_, i) => {
      return `{${body.replace(new RegExp(`\\b${name}\\b`, "g"), `${i}u`)}}`;
    });
    text = text.slice(0, found.index) + copies.join("\n") + text.slice(end + 1);
  }
  return text;
}

function countOf(source: string, bound: string): number {
  const value = /^\d+u?$/.test(bound)
    ? bound
    : new RegExp(`^const ${bound}: u32 = (\\d+)u?;`, "m").exec(source)?.[1];
  if (value === undefined)
    throw new Error(`Cannot unroll a loop to ${bound}: expected a const that is a number`);
  return Number.parseInt(value, 10);
}

/** Where the block ends whose body begins at `start`. */
function closingBrace(source: string, start: number): number {
  let depth = 1;
  for (let at = start; at < source.length; at++) {
    if (source[at] === "{") depth++;
    else if (source[at] === "}" && --depth === 0) return at;
  }
  throw new Error("Cannot unroll a loop: expected a closing brace, got the end of the source");
}
