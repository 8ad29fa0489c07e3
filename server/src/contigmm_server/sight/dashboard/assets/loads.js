// Load tests: one that runs, and what came of others.
import { fill, written } from "./table.js";

const KIB = 1024;
const size = (/** @type {number} */ bytes) => (bytes < KIB * KIB ? `${written(bytes / KIB)} KiB` : `${written(bytes / KIB / KIB)} MiB`);
const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(1)} %`;
const times = (/** @type {Record<string, number>} */ counts) =>
  Object.entries(counts ?? {}).map(([name, count]) => `${written(count)} ${name}`).join(", ");

/**
 * @typedef {{bytes: number, attempts: number, successes: number}} Size
 * @typedef {{run: string, state: string, load: any}} Run
 */

/** @param {Run} run @returns {string[]} */
function row({ state, load }) {
  const { p50, p99 } = load.latency_us ?? {};
  const refused = times(load.refusals) || (load.attempts > load.successes ? percent(1 - load.successes / load.attempts) : "none");
  return [state, load.attempts, refused, load.ops_per_s, p50, p99, load.jain_fairness, times(load.deciding)]
    .map((cell) => (typeof cell === "number" ? written(cell) : cell ?? ""));
}

/** @param {HTMLTableElement} table @param {Size[]} sizes */
function fillSizes(table, sizes) {
  fill(table, sizes.map((one) => [size(one.bytes), written(one.attempts), percent(1 - one.successes / Math.max(1, one.attempts)), ""]));
  sizes.forEach((one, at) => {
    const meter = Object.assign(document.createElement("meter"), { max: 1, value: 1 - one.successes / Math.max(1, one.attempts) });
    meter.setAttribute("aria-label", `share refused of ${size(one.bytes)}`);
    table.tBodies[0].rows[at].cells[3].append(meter);
  });
}

/** @param {Run[]} runs @param {{none: HTMLElement, table: HTMLTableElement, region: HTMLElement, sizes: HTMLTableElement}} parts */
export function showLoads(runs, { none, table, region, sizes }) {
  none.hidden = runs.length > 0;
  fill(table, runs.map(row));
  const bySize = runs[0]?.load.by_size ?? [];
  region.hidden = bySize.length === 0;
  fillSizes(sizes, bySize);
}
