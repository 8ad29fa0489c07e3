// The page: one machine at a time, followed over a stream of server-sent events.
import { FreeLists, fill } from "./free.js";
import { MemoryMap } from "./map.js";
import { legend } from "./palette.js";

const FRAMES = 512;
const EVENTS = 200;

/** @template {HTMLElement} T @param {string} id @returns {T} */
const byId = (id) => /** @type {T} */ (document.getElementById(id));
/** @param {string} text */
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const number = new Intl.NumberFormat("en");

/** @param {string} path */
async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const known = await get("api/machines");
const free = new FreeLists(byId("free"), byId("orders"));
/** @type {any} */ let machine = null;
/** @type {EventSource | null} */ let source = null;
let fetching = false;
/** Looks that arrived, for whoever measures. */
const looks = { count: 0, missed: 0 };
Object.assign(window, { contigmmLooks: looks });

const map = new MemoryMap(byId("map"), known, {
  say: (text) => { byId("map-cell").textContent = text; },
  zoom: (pageblock) => { void zoom(pageblock); },
  back,
});

/** @param {number} pageblock */
async function zoom(pageblock) {
  if (fetching) return;
  fetching = true;
  try {
    const seen = await get(`api/machines/${machine.id}/frames?first=${pageblock * FRAMES}&nr=${FRAMES}`);
    map.zoom(pageblock, bytes(seen.classes));
    map.tell.say(map.describe());
    byId("back").toggleAttribute("disabled", false);
  } finally {
    fetching = false;
  }
}

function back() {
  if (map.zoomed < 0) return;
  const block = map.zoomed;
  map.show(map.range);
  map.move(block - map.range.first);
  byId("back").toggleAttribute("disabled", true);
}

function drawLegend() {
  byId("legend").replaceChildren(...legend(map.mode, known.migratetypes).map(([colour, name]) => {
    const item = document.createElement("li");
    const swatch = document.createElement("i");
    swatch.style.backgroundColor = colour;
    item.append(swatch, name);
    return item;
  }));
}

/** @param {MessageEvent<string>} event */
function look(event) {
  const seen = JSON.parse(event.data);
  looks.count += 1;
  looks.missed += seen.missed;
  const which = seen.which === "all" ? null : new Uint32Array(bytes(seen.which).buffer);
  map.runs = [];
  for (let at = 0; at < seen.runs.length; at += 2) map.runs.push([seen.runs[at], seen.runs[at + 1]]);
  map.update(seen.pageblocks, which, bytes(seen.cells));
  if (map.zoomed >= 0 && (which === null || which.includes(map.zoomed))) void zoom(map.zoomed);
  free.update(seen.zones);
  byId("facts").textContent = `operation ${number.format(seen.seq)} · ${number.format(seen.processes)} processes · ` +
    `${number.format(seen.refusals)} refused · ${number.format(seen.nr_runs)} contiguous runs · ${seen.queue} waiting · ` +
    `${(seen.clock_ns / 1e9).toFixed(3)} s simulated`;
  addEvents(seen.events);
}

/** @param {any[]} events */
function addEvents(events) {
  const list = byId("events");
  const only = /** @type {HTMLInputElement} */ (byId("only-refusals")).checked;
  const lines = events.filter((one) => !only || one.errno).map((one) => {
    const line = document.createElement("li");
    const came = one.errno ? `${one.errno} ${one.reason}` : one.value;
    line.textContent = `${one.seq} ${one.call}(${one.args.join(", ")}) of ${one.process} = ${came}`;
    line.classList.toggle("refused", Boolean(one.errno));
    return line;
  });
  list.prepend(...lines.reverse());
  while (list.childElementCount > EVENTS) list.lastElementChild?.remove();
}

function follow() {
  source?.close();
  machine = known.machines.find((/** @type {any} */ one) => one.id === byId("machine").value);
  if (machine === undefined) {
    byId("facts").textContent = "no machine on this server";
    return;
  }
  const zones = /** @type {HTMLSelectElement} */ (byId("zone"));
  zones.replaceChildren(new Option("all", ""), ...machine.zones.map((/** @type {any} */ one) => new Option(one.zone)));
  map.reset(pageblocks());
  free.reset();
  byId("events").replaceChildren();
  source = new EventSource(`api/machines/${machine.id}/looks`);
  source.addEventListener("look", look);
  source.addEventListener("error", () => { byId("facts").textContent = "the server does not answer; trying again"; });
  void showProcesses();
}

function pageblocks() {
  const zone = machine.zones.find((/** @type {any} */ one) => one.zone === byId("zone").value);
  if (zone === undefined) return { first: 0, end: Math.ceil(machine.frames / FRAMES) };
  return { first: Math.floor(zone.first / FRAMES), end: Math.ceil((zone.first + zone.spanned) / FRAMES) };
}

async function showProcesses() {
  const { processes } = await get(`api/machines/${machine.id}/processes`);
  const table = /** @type {HTMLTableElement} */ (byId("processes"));
  fill(table, processes.map((/** @type {any} */ one) =>
    ["", one.pid, one.background ? `${one.name} (background)` : one.name, one.rss, one.vmas, one.locked].map(String)));
  processes.forEach((/** @type {any} */ one, /** @type {number} */ at) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: one.id });
    button.setAttribute("aria-label", `VMAs of process ${one.id}`);
    button.addEventListener("click", () => { void showMaps(one.id); });
    table.tBodies[0].rows[at].cells[0].append(button);
  });
}

/** @param {number} process */
async function showMaps(process) {
  const answer = await fetch(`api/machines/${machine.id}/processes/${process}/maps`);
  byId("maps").hidden = false;
  byId("maps").textContent = (await answer.text()) || "no VMAs";
}

/** @param {any[]} loads */
function showLoads(loads) {
  fill(byId("loads"), loads.map((load) => {
    const refused = Object.entries(load.refusals ?? {}).map(([errno, count]) => `${count} ${errno}`).join(", ");
    const why = Object.entries(load.deciding ?? {}).map(([reason, count]) => `${count} ${reason}`).join(", ");
    const { p50, p99 } = load.latency_us ?? {};
    return [load.attempts, refused || "none", load.ops_per_s, p50, p99, load.jain_fairness, why].map((cell) => String(cell ?? ""));
  }));
}

/** @param {Event} event */
async function takeLoad(event) {
  const file = /** @type {HTMLInputElement} */ (event.target).files?.[0];
  if (!file) return;
  const answer = await fetch("api/loads", { method: "POST", headers: { "Content-Type": "application/json" }, body: file });
  byId("load-said").textContent = answer.ok ? "" : await answer.text();
  if (answer.ok) showLoads((await answer.json()).loads);
}

byId("machine").append(...known.machines.map((/** @type {any} */ one) => new Option(one.id)));
byId("machine").addEventListener("change", follow);
byId("zone").addEventListener("change", () => map.show(pageblocks()));
byId("back").addEventListener("click", back);
byId("refresh").addEventListener("click", () => { void showProcesses(); });
byId("load").addEventListener("change", (event) => { void takeLoad(event); });
for (const choice of document.querySelectorAll("input[name=colour]")) {
  choice.addEventListener("change", (event) => {
    map.mode = /** @type {HTMLInputElement} */ (event.target).value;
    drawLegend();
    map.draw();
  });
}
drawLegend();
follow();
showLoads((await get("api/loads")).loads);
