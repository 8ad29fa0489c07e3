// Rows of text, and how numbers are written.

const number = new Intl.NumberFormat("en");
/** @param {number} value */
export const written = (value) => number.format(value);

/** @param {number} frames of 4 KiB */
export const mebibytes = (frames) => `${number.format(Math.round(frames / 256))} MiB`;

/** "1 process", "2 processes". @param {number} count @param {string} one @param {string} [many] */
export const counted = (count, one, many = `${one}s`) => `${number.format(count)} ${count === 1 ? one : many}`;

/**
 * Give a table its rows as text; the first cell of each is its heading.
 * @param {HTMLTableElement} table @param {string[][]} rows @param {string[]} [head]
 */
export function fill(table, rows, head) {
  const cell = (/** @type {string} */ text, /** @type {"row" | "col" | null} */ scope) =>
    Object.assign(document.createElement(scope ? "th" : "td"), { textContent: text }, scope ? { scope } : {});
  const row = (/** @type {HTMLElement[]} */ cells) => {
    const line = document.createElement("tr");
    line.append(...cells);
    return line;
  };
  if (head && table.tHead) table.tHead.replaceChildren(row(head.map((text) => cell(text, "col"))));
  table.tBodies[0].replaceChildren(...rows.map((cells) => row(cells.map((text, at) => cell(text, at ? null : "row")))));
}
