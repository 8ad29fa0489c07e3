// Colours that stay apart for all kinds of sight: Okabe and Ito (2008), two shades of some.

/** @type {Record<string, [string, string]>} group of classes: colour, what it is called */
const GROUPS = {
  free: ["#f2f2f2", "free"],
  nopage: ["#00000000", "no memory"],
  kernel: ["#7a7a7a", "kernel, reserved"],
  slab: ["#cc79a7", "slab"],
  pgtable: ["#d55e00", "page tables"],
  anon: ["#0072b2", "anonymous"],
  file: ["#009e73", "page cache"],
  shmem: ["#56b4e9", "shared memory"],
  mlocked: ["#e69f00", "locked"],
  hugetlb: ["#f0e442", "hugetlb"],
};

/** @type {Record<string, string>} class of a frame: its group */
const GROUP_OF = {
  free: "free", pcp: "free", nopage: "nopage", reserved: "kernel", offline: "kernel", hwpoison: "kernel",
  kernel: "kernel", zero_page: "kernel", movable_offlru: "kernel", hugetlb: "hugetlb", slab: "slab",
  pgtable: "pgtable", anon: "anon", anon_thp: "anon", shmem: "shmem", shmem_thp: "shmem", file: "file",
  file_large: "file", mlocked: "mlocked",
};

const MIGRATETYPES = ["#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#f0e442"];

/**
 * Legend of one way of colouring.
 * @param {string} mode "class" or "migratetype"
 * @param {string[]} migratetypes
 * @returns {[string, string][]} colour and name
 */
export function legend(mode, migratetypes) {
  if (mode === "class") return Object.values(GROUPS).filter(([, name]) => name !== "no memory");
  return migratetypes.map((name, at) => [MIGRATETYPES[at] ?? "#7a7a7a", name]);
}

/**
 * Colours by class number.
 * @param {string[]} classes
 */
export const classColours = (classes) => classes.map((name) => GROUPS[GROUP_OF[name] ?? "kernel"][0]);

/** @param {number} type */
export const typeColour = (type) => MIGRATETYPES[type] ?? "#7a7a7a";
