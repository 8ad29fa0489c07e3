// Colours that stay apart for all kinds of sight, on either paper: each two differ by 0.13 in OKLab at
// least, also as deuteranopes and protanopes see them (Machado and others, 2009); tests hold that.

/** @type {Record<string, [string, string]>} group of classes: colour, what it is called */
const GROUPS = {
  anon: ["#1536cf", "anonymous"],
  file: ["#2b8f84", "page cache"],
  shmem: ["#96b8fa", "shared memory"],
  mlocked: ["#f78721", "locked"],
  hugetlb: ["#ffcf39", "hugetlb"],
  slab: ["#a76ce3", "slab"],
  pgtable: ["#a93109", "page tables"],
  kernel: ["#6c497f", "kernel, reserved"],
};

/** @type {Record<string, string>} class of a frame that is in use: its group */
const GROUP_OF = {
  reserved: "kernel", offline: "kernel", hwpoison: "kernel", kernel: "kernel", zero_page: "kernel",
  movable_offlru: "kernel", hugetlb: "hugetlb", slab: "slab", pgtable: "pgtable", anon: "anon", anon_thp: "anon",
  shmem: "shmem", shmem_thp: "shmem", file: "file", file_large: "file", mlocked: "mlocked",
};

const MIGRATETYPES = ["#a34008", "#236c80", "#f56d17", "#3482ff", "#a5a3b3", "#ffc510"];
/** What is left of a colour where hardly anything is in use. */
const PALEST = 0.4;

/** Colour of what is free, by whether the paper is dark. */
export const FREE = { light: "#e3e7ec", dark: "#2a313a" };

/** All colours that must stay apart, for whoever checks that. */
export const apart = () => ({
  classes: Object.fromEntries(Object.entries(GROUPS).map(([name, [colour]]) => [name, colour])),
  migratetypes: MIGRATETYPES,
  free: FREE,
});

const isFree = (/** @type {string} */ name) => name === "free" || name === "pcp";
const rgb = (/** @type {string} */ hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/**
 * @param {string} colour @param {string} free @param {number} share 0: hardly anything in use; 1: all
 * @returns {[number, number, number]}
 */
function mix(colour, free, share) {
  const part = PALEST + (1 - PALEST) * share;
  const [from, to] = [rgb(free), rgb(colour)];
  return /** @type {[number, number, number]} */ (from.map((low, at) => Math.round(low + (to[at] - low) * part)));
}

// A pixel of ImageData as one word; all computers that run browsers are little-endian.
const word = (/** @type {number[]} */ [red, green, blue]) => (0xff << 24 | blue << 16 | green << 8 | red) >>> 0;

/**
 * Pixels of each class at each share in use, 256 a class; 0 where there is no memory.
 * @param {string[]} classes @param {string} free
 */
export function classPixels(classes, free) {
  const pixels = new Uint32Array(classes.length * 256);
  classes.forEach((name, kind) => {
    if (name === "nopage") return;
    const colour = isFree(name) ? free : GROUPS[GROUP_OF[name] ?? "kernel"][0];
    for (let share = 0; share < 256; share += 1) pixels[kind * 256 + share] = word(isFree(name) ? rgb(free) : mix(colour, free, share / 255));
  });
  return pixels;
}

/** The same by migratetype, where nothing in use is palest. @param {string} free */
export function typePixels(free) {
  const pixels = new Uint32Array(128 * 256);
  for (let type = 0; type < 128; type += 1) {
    const colour = MIGRATETYPES[type] ?? GROUPS.kernel[0];
    for (let share = 0; share < 256; share += 1) pixels[type * 256 + share] = word(mix(colour, free, share / 255));
  }
  return pixels;
}

/**
 * Legend of one way of colouring, as CSS backgrounds: from hardly in use to all in use.
 * @param {string} mode "class" or "migratetype" @param {string[]} migratetypes @param {string} free
 * @returns {[string, string][]} background and name
 */
export function legend(mode, migratetypes, free) {
  const ramp = (/** @type {string} */ colour) => `linear-gradient(90deg, rgb(${mix(colour, free, 0)}), ${colour})`;
  if (mode === "class") return [[free, "free"], ...Object.values(GROUPS).map(([colour, name]) => /** @type {[string, string]} */ ([ramp(colour), name]))];
  return migratetypes.map((name, at) => [ramp(MIGRATETYPES[at] ?? GROUPS.kernel[0]), name]);
}
