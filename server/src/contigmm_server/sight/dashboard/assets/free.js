// Free memory by order over the last minute, stacked; and the present numbers as a table.
import { fill, mebibytes } from "./table.js";

const SECONDS = 60;
const EVERY_S = 0.25;
/** For whoever wants little motion. */
const CALM_S = 2;
// Viridis, from small blocks (dark) to large ones (light).
const SHADES = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** @typedef {{zone: string, free: number[], unusable: number[]}} Zone */
const sum = (/** @type {number[]} */ numbers) => numbers.reduce((a, b) => a + b, 0);

export class FreeLists {
  /** @param {HTMLCanvasElement} canvas @param {HTMLTableElement} table @param {{most: HTMLElement, now: HTMLElement}} says */
  constructor(canvas, table, says) {
    this.canvas = canvas;
    this.table = table;
    this.says = says;
    /** @type {{at: number, frames: number[]}[]} */
    this.past = [];
    this.told = 0;
  }

  reset() {
    this.past = [];
    this.told = 0;
  }

  /** @param {Zone[]} zones */
  update(zones) {
    const now = performance.now() / 1000;
    const orders = zones[0]?.free.length ?? 0;
    const frames = Array.from({ length: orders }, (_, order) => sum(zones.map((zone) => zone.free[order] * 2 ** order)));
    this.past.push({ at: now, frames });
    while (this.past[0].at < now - SECONDS) this.past.shift();
    if (now - this.told < (calm.matches ? CALM_S : EVERY_S)) return;
    this.told = now;
    this.draw(now);
    this.tell(zones, orders);
  }

  /** @param {number} now */
  draw(now) {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    if (pen === null) return;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const most = Math.max(1, ...this.past.map(({ frames }) => sum(frames)));
    const x = (/** @type {number} */ at) => width * (1 - (now - at) / SECONDS);
    const base = this.past.map(() => 0);
    SHADES.forEach((shade, order) => {
      pen.beginPath();
      this.past.forEach(({ at }, i) => pen.lineTo(x(at), height * (1 - base[i] / most)));
      this.past.forEach(({ frames }, i) => { base[i] += frames[order] ?? 0; });
      for (let i = this.past.length - 1; i >= 0; i -= 1) pen.lineTo(x(this.past[i].at), height * (1 - base[i] / most));
      pen.fillStyle = shade;
      pen.fill();
    });
    this.says.most.textContent = mebibytes(most);
    this.says.now.textContent = mebibytes(sum(this.past[this.past.length - 1].frames));
  }

  /** @param {Zone[]} zones @param {number} orders */
  tell(zones, orders) {
    const head = ["zone", ...Array.from({ length: orders }, (_, order) => String(order))];
    const rows = zones.flatMap(({ zone, free, unusable }) => [
      [`${zone} free`, ...free.map(String)],
      [`${zone} unusable`, ...unusable.map((share) => share.toFixed(2))],
    ]);
    fill(this.table, rows, head);
    this.table.querySelectorAll("thead th").forEach((cell, column) => {
      // The heading of an order is the legend of its colour.
      if (column > 0) /** @type {HTMLElement} */ (cell).style.borderTop = `.35rem solid ${SHADES[column - 1]}`;
    });
  }
}
