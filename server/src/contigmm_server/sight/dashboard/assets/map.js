// The map of physical memory: a cell a pageblock, or, zoomed in, a cell a frame.
import { FREE, classPixels, typePixels } from "./palette.js";

const FRAMES = 512;
const CONTIG = 0x80;
/** Between two paintings for whoever wants little motion, in ms. */
const CALM_MS = 1000;

/**
 * @typedef {{first: number, end: number}} Range of pageblocks
 * @typedef {{classes: string[], migratetypes: string[]}} Names
 * @typedef {{say: (text: string) => void, zoom: (pageblock: number) => void, painted: () => void, back: () => void}} Tell
 */

const dark = matchMedia("(prefers-color-scheme: dark)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
/** Colour of what is free on the present paper. */
export const freeColour = () => (dark.matches ? FREE.dark : FREE.light);

export class MemoryMap {
  /** @param {HTMLCanvasElement} canvas @param {Names} names @param {Tell} tell */
  constructor(canvas, names, tell) {
    this.canvas = canvas;
    this.names = names;
    this.tell = tell;
    this.mode = "class";
    this.cells = new Uint8Array(0);
    /** @type {Range} */
    this.range = { first: 0, end: 0 };
    /** First frame and number of frames of each run. */
    this.runs = new Uint32Array(0);
    this.at = 0;
    this.zoomed = -1;
    this.frames = new Uint8Array(0);
    this.due = false;
    this.paintedAt = -CALM_MS;
    this.small = document.createElement("canvas");
    this.colours();
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("click", (event) => {
      this.point(event);
      this.enter();
    });
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    dark.addEventListener("change", () => this.colours());
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement ?? canvas);
  }

  /** Take the colours of the present paper. */
  colours() {
    this.classPixels = classPixels(this.names.classes, freeColour());
    this.typePixels = typePixels(freeColour());
    this.draw();
  }

  /** Forget everything: another machine. @param {Range} range */
  reset(range) {
    this.cells = new Uint8Array(0);
    this.runs = new Uint32Array(0);
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
   * @param {Uint8Array} cells class, migratetype and share in use of each
   */
  update(count, which, cells) {
    if (this.cells.length !== count * 3) this.cells = new Uint8Array(count * 3);
    if (which === null) this.cells.set(cells);
    else which.forEach((block, at) => this.cells.set(cells.subarray(at * 3, at * 3 + 3), block * 3));
    if (calm.matches) this.drawSeldom();
    else this.draw();
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
    const size = this.zoomed >= 0 ? Math.max(10, Math.min(24, Math.floor(width / 32)))
      : Math.max(3, Math.min(16, Math.floor(Math.sqrt((width * 420) / Math.max(1, this.count)))));
    const columns = Math.max(1, this.zoomed >= 0 ? Math.min(32, Math.floor(width / size)) : Math.floor(width / size));
    return { width, size, columns, rows: Math.max(1, Math.ceil(this.count / columns)) };
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.paintedAt = performance.now();
      this.paint();
      this.tell.painted();
    });
  }

  drawSeldom() {
    if (performance.now() - this.paintedAt >= CALM_MS) this.draw();
  }

  paint() {
    const { width, size, columns, rows } = this.layout();
    const scale = window.devicePixelRatio || 1;
    const height = rows * size + 2;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.canvas.getContext("2d");
    if (pen === null || this.count === 0) return;
    const style = getComputedStyle(this.canvas);
    const paper = style.backgroundColor;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.fillStyle = paper;
    pen.fillRect(0, 0, width, height);
    this.hatch(pen, columns * size, rows * size, style.color);
    this.paintCells(pen, size, columns, rows);
    pen.fillStyle = paper;
    const over = columns * rows - this.count;
    pen.fillRect((columns - over) * size, (rows - 1) * size, over * size, size);
    if (size > 6) grid(pen, size, columns, rows);
    this.outlineRuns(pen, size, columns);
    if (document.activeElement === this.canvas) this.outline(pen, size, columns);
  }

  /** Lines from corner to corner, seen where there is no memory. @param {CanvasRenderingContext2D} pen @param {number} width @param {number} height @param {string} colour */
  hatch(pen, width, height, colour) {
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, width, height);
    pen.clip();
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let x = -height; x < width; x += 6) {
      pen.moveTo(x, height);
      pen.lineTo(x + height, 0);
    }
    pen.stroke();
    pen.restore();
  }

  /** A pixel a cell, then drawn as large as cells are. @param {CanvasRenderingContext2D} pen @param {number} size @param {number} columns @param {number} rows */
  paintCells(pen, size, columns, rows) {
    const [whole, small] = [new ImageData(columns, rows), this.small];
    const pixels = new Uint32Array(whole.data.buffer);
    if (this.zoomed < 0) this.blockPixels(pixels);
    else this.framePixels(pixels);
    if (small.width !== columns || small.height !== rows) Object.assign(small, { width: columns, height: rows });
    small.getContext("2d")?.putImageData(whole, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, columns * size, rows * size);
  }

  /** @param {Uint32Array} pixels */
  blockPixels(pixels) {
    const { cells, names } = this;
    const nopage = names.classes.indexOf("nopage");
    const byType = this.mode === "migratetype";
    const end = Math.min(this.count, cells.length / 3 - this.range.first);
    for (let at = 0, cell = this.range.first * 3; at < end; at += 1, cell += 3) {
      if (cells[cell] === nopage) continue;
      pixels[at] = byType ? this.typePixels[(cells[cell + 1] & ~CONTIG) * 256 + cells[cell + 2]]
        : this.classPixels[cells[cell] * 256 + cells[cell + 2]];
    }
  }

  /** @param {Uint32Array} pixels */
  framePixels(pixels) {
    const { classes } = this.names;
    const type = this.cells[this.zoomed * 3 + 1] & ~CONTIG;
    this.frames.forEach((kind, at) => {
      if (classes[kind] === "nopage") return;
      const used = classes[kind] !== "free" && classes[kind] !== "pcp";
      pixels[at] = this.mode === "migratetype" ? this.typePixels[type * 256 + (used ? 255 : 0)] : this.classPixels[kind * 256 + 255];
    });
  }

  /** Outline each run: its pageblocks, or its frames. @param {CanvasRenderingContext2D} pen @param {number} size @param {number} columns */
  outlineRuns(pen, size, columns) {
    const unit = this.zoomed < 0 ? FRAMES : 1;
    const first = this.zoomed < 0 ? this.range.first : this.zoomed * FRAMES;
    pen.beginPath();
    for (let run = 0; run < this.runs.length; run += 2) {
      const [pfn, nr] = [this.runs[run], this.runs[run + 1]];
      let at = Math.max(0, Math.floor(pfn / unit) - first);
      const end = Math.min(this.count, Math.floor((pfn + nr - 1) / unit) + 1 - first);
      while (at < end) {
        const row = Math.floor(at / columns);
        const stop = Math.min(end, (row + 1) * columns);
        pen.rect((at % columns) * size + 0.5, row * size + 0.5, (stop - at) * size - 1, size - 1);
        at = stop;
      }
    }
    for (const [colour, wide] of /** @type {[string, number][]} */ ([["#fff", size > 6 ? 3 : 1], ["#000", size > 6 ? 1.5 : 1]])) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide;
      pen.stroke();
    }
  }

  /** Outline the cell that the keys have come to. @param {CanvasRenderingContext2D} pen @param {number} size @param {number} columns */
  outline(pen, size, columns) {
    const [x, y] = [(this.at % columns) * size, Math.floor(this.at / columns) * size];
    for (const [colour, out] of /** @type {[string, number][]} */ ([["#fff", 3], ["#000", 1.5]])) {
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.strokeRect(x - out, y - out, size + 2 * out, size + 2 * out);
    }
  }

  describe() {
    if (this.zoomed >= 0) {
      const pfn = this.zoomed * FRAMES + this.at;
      const run = this.runOf(pfn);
      return `Frame ${pfn}: ${this.names.classes[this.frames[this.at]]}` +
        (run ? `, of a contiguous run of ${run[1]} frames from ${run[0]}` : "");
    }
    const block = this.range.first + this.at;
    const [kind, type, share] = this.cells.subarray(block * 3, block * 3 + 3);
    if (kind === undefined) return "";
    const frames = `Pageblock ${block} (frames ${block * FRAMES} to ${(block + 1) * FRAMES - 1})`;
    if (this.names.classes[kind] === "nopage") return `${frames}: no memory`;
    const used = Math.max(1, Math.round((share / 255) * 100));
    const what = share ? `mostly ${this.names.classes[kind]}, ${used} % used` : "free";
    return `${frames}: ${what}, ${this.names.migratetypes[type & ~CONTIG] ?? "no type"}` +
      (type & CONTIG ? ", in a contiguous run" : "");
  }

  /** @param {number} pfn @returns {[number, number] | null} */
  runOf(pfn) {
    for (let run = 0; run < this.runs.length; run += 2) {
      if (pfn >= this.runs[run] && pfn < this.runs[run] + this.runs[run + 1]) return [this.runs[run], this.runs[run + 1]];
    }
    return null;
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

/** Let the paper through between cells. @param {CanvasRenderingContext2D} pen @param {number} size @param {number} columns @param {number} rows */
function grid(pen, size, columns, rows) {
  for (let column = 1; column <= columns; column += 1) pen.fillRect(column * size - 1, 0, 1, rows * size);
  for (let row = 1; row <= rows; row += 1) pen.fillRect(0, row * size - 1, columns * size, 1);
}
