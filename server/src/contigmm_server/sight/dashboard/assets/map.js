// The map of physical memory: a cell a pageblock, or, zoomed in, a cell a frame.
import { classColours, typeColour } from "./palette.js";

const FRAMES = 512;
const CONTIG = 0x80;

/**
 * @typedef {{first: number, end: number}} Range of pageblocks
 * @typedef {{classes: string[], migratetypes: string[]}} Names
 */

export class MemoryMap {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Names} names
   * @param {{say: (text: string) => void, zoom: (pageblock: number) => void, back: () => void}} tell
   */
  constructor(canvas, names, tell) {
    this.canvas = canvas;
    this.names = names;
    this.tell = tell;
    this.colours = classColours(names.classes);
    this.mode = "class";
    this.cells = new Uint8Array(0);
    /** @type {Range} */
    this.range = { first: 0, end: 0 };
    /** @type {[number, number][]} first frame and frames of each run */
    this.runs = [];
    this.at = 0;
    this.zoomed = -1;
    this.frames = new Uint8Array(0);
    this.due = false;
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("click", (event) => {
      this.point(event);
      this.enter();
    });
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement ?? canvas);
  }

  /** Forget everything: another machine. @param {Range} range */
  reset(range) {
    this.cells = new Uint8Array(0);
    this.show(range);
  }

  /** @param {Range} range */
  show(range) {
    this.range = range;
    this.zoomed = -1;
    this.at = 0;
    this.draw();
  }

  /**
   * Take the pageblocks that have changed.
   * @param {number} count of all pageblocks
   * @param {Uint32Array | null} which nothing: all
   * @param {Uint8Array} cells
   */
  update(count, which, cells) {
    if (this.cells.length !== count * 3) this.cells = new Uint8Array(count * 3);
    if (which === null) this.cells.set(cells);
    else which.forEach((block, at) => this.cells.set(cells.subarray(at * 3, at * 3 + 3), block * 3));
    this.draw();
  }

  /** Show the frames of one pageblock. @param {number} pageblock @param {Uint8Array} classes */
  zoom(pageblock, classes) {
    if (this.zoomed !== pageblock) this.at = 0;
    this.zoomed = pageblock;
    this.frames = classes;
    this.draw();
  }

  get count() {
    return this.zoomed < 0 ? this.range.end - this.range.first : this.frames.length;
  }

  layout() {
    const width = this.canvas.clientWidth || 400;
    const size = this.zoomed >= 0 ? Math.max(10, Math.floor(width / 64))
      : Math.max(3, Math.min(16, Math.floor(Math.sqrt((width * 420) / Math.max(1, this.count)))));
    const columns = Math.max(1, this.zoomed >= 0 ? Math.min(32, Math.floor(width / size)) : Math.floor(width / size));
    return { width, size, columns, rows: Math.ceil(this.count / columns) };
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.paint();
    });
  }

  paint() {
    const { width, size, columns, rows } = this.layout();
    const scale = window.devicePixelRatio || 1;
    const height = Math.max(1, rows) * size + 2;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.canvas.getContext("2d");
    if (pen === null) return;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = getComputedStyle(document.body).backgroundColor;
    pen.fillRect(0, 0, width, height);
    const gap = size > 6 ? 1 : 0;
    for (let at = 0; at < this.count; at += 1) {
      const [colour, share] = this.zoomed < 0 ? this.blockColour(this.range.first + at) : this.frameColour(at);
      if (colour === "") continue;
      const [x, y] = [(at % columns) * size, Math.floor(at / columns) * size];
      pen.globalAlpha = 1;
      pen.fillStyle = "#f2f2f2";
      pen.fillRect(x, y, size - gap, size - gap);
      pen.globalAlpha = share;
      pen.fillStyle = colour;
      pen.fillRect(x, y, size - gap, size - gap);
    }
    pen.globalAlpha = 1;
    this.outlineRuns(pen, size, columns);
    if (document.activeElement === this.canvas) {
      const [x, y] = [(this.at % columns) * size, Math.floor(this.at / columns) * size];
      for (const [colour, out] of /** @type {[string, number][]} */ ([["#fff", 3], ["#000", 1.5]])) {
        pen.strokeStyle = colour;
        pen.lineWidth = 2;
        pen.strokeRect(x - out, y - out, size - gap + 2 * out, size - gap + 2 * out);
      }
    }
  }

  /** Outline each run: its pageblocks, or its frames. @param {CanvasRenderingContext2D} pen @param {number} size @param {number} columns */
  outlineRuns(pen, size, columns) {
    pen.strokeStyle = "#000";
    pen.lineWidth = size > 6 ? 1.5 : 1;
    const unit = this.zoomed < 0 ? FRAMES : 1;
    const first = this.zoomed < 0 ? this.range.first : this.zoomed * FRAMES;
    for (const [pfn, nr] of this.runs) {
      let at = Math.max(0, Math.floor(pfn / unit) - first);
      const end = Math.min(this.count, Math.floor((pfn + nr - 1) / unit) + 1 - first);
      while (at < end) {
        const row = Math.floor(at / columns);
        const stop = Math.min(end, (row + 1) * columns);
        pen.strokeRect((at % columns) * size + 0.5, row * size + 0.5, (stop - at) * size - 1, size - 1);
        at = stop;
      }
    }
  }

  /** @param {number} block @returns {[string, number]} */
  blockColour(block) {
    const [kind, type, share] = this.cells.subarray(block * 3, block * 3 + 3);
    if (kind === undefined || this.names.classes[kind] === "nopage") return ["", 0];
    if (this.mode === "migratetype") return [typeColour(type & ~CONTIG), 0.3 + (0.7 * share) / 255];
    return [this.colours[kind], share === 0 ? 1 : 0.3 + (0.7 * share) / 255];
  }

  /** @param {number} at @returns {[string, number]} */
  frameColour(at) {
    const kind = this.frames[at];
    if (this.names.classes[kind] === "nopage") return ["", 0];
    if (this.mode === "class") return [this.colours[kind], 1];
    const type = this.cells[this.zoomed * 3 + 1] & ~CONTIG;
    return [typeColour(type), this.names.classes[kind] === "free" ? 0.3 : 1];
  }

  describe() {
    if (this.zoomed >= 0) {
      const pfn = this.zoomed * FRAMES + this.at;
      const run = this.runs.find(([first, nr]) => pfn >= first && pfn < first + nr);
      return `Frame ${pfn}: ${this.names.classes[this.frames[this.at]]}` +
        (run ? `, of a contiguous run of ${run[1]} frames from ${run[0]}` : "");
    }
    const block = this.range.first + this.at;
    const [kind, type, share] = this.cells.subarray(block * 3, block * 3 + 3);
    if (kind === undefined) return "";
    const used = Math.round((share / 255) * 100);
    const what = used ? `mostly ${this.names.classes[kind]}, ${used} % used` : this.names.classes[kind];
    return `Pageblock ${block} (frames ${block * FRAMES} to ${(block + 1) * FRAMES - 1}): ${what}, ` +
      `${this.names.migratetypes[type & ~CONTIG] ?? "no type"}${type & CONTIG ? ", in a contiguous run" : ""}`;
  }

  /** @param {number} at */
  move(at) {
    this.at = Math.max(0, Math.min(this.count - 1, at));
    this.tell.say(this.describe());
    this.draw();
  }

  enter() {
    if (this.zoomed < 0) this.tell.zoom(this.range.first + this.at);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { columns } = this.layout();
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowLeft: () => this.move(this.at - 1),
      ArrowRight: () => this.move(this.at + 1),
      ArrowUp: () => this.move(this.at - columns),
      ArrowDown: () => this.move(this.at + columns),
      Home: () => this.move(0),
      End: () => this.move(this.count - 1),
      Enter: () => this.enter(),
      Escape: () => this.tell.back(),
    };
    const act = keys[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  }

  /** @param {PointerEvent | MouseEvent} event */
  point(event) {
    const { size, columns } = this.layout();
    const [x, y] = [Math.floor(event.offsetX / size), Math.floor(event.offsetY / size)];
    const at = y * columns + x;
    if (x < columns && at < this.count) this.move(at);
  }
}
