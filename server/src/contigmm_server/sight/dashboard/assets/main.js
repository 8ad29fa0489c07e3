// The page: one machine at a time, followed over a stream of server-sent events.
import { Events } from "./events.js";
import { FreeLists } from "./free.js";
import { showLoads } from "./loads.js";
import { MemoryMap, freeColour } from "./map.js";
import { legend } from "./palette.js";
import { counted, fill, written } from "./table.js";

const FRAMES = 512;

/** @template {HTMLElement} T @param {string} id @returns {T} */
const byId = (id) => /** @type {T} */ (document.getElementById(id));
/** @param {string} text */
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
/** @param {string} text */
const words = (text) => new Uint32Array(bytes(text).buffer);

/** @param {string} path */
async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

let known = await get("api/machines");
const free = new FreeLists(byId("free"), byId("orders"), { most: byId("free-most"), now: byId("free-now") });
const events = new Events({
  list: byId("events"), none: byId("events-none"), said: byId("trace-said"), onlyRefusals: byId("only-refusals"),
});
/** @type {any} */ let machine = null;
/** @type {EventSource | null} */ let source = null;
let fetching = false;
let paused = false;
let loads = -1;
/** Looks that arrived, and maps that were painted: for whoever measures. */
const looks = { count: 0, missed: 0, painted: 0 };
Object.assign(window, { contigmmLooks: looks });

const map = new MemoryMap(byId("map"), known, {
  say: (text) => { byId("map-cell").textContent = text; },
  zoom: (pageblock) => { void zoom(pageblock); },
  painted: () => { looks.painted += 1; },
  back,
});

/** @param {string} text */
const say = (text) => { byId("facts").textContent = text; };

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
  const item = (/** @type {string} */ name, /** @type {Partial<CSSStyleDeclaration>} */ style, kind = "") => {
    const line = document.createElement("li");
    const swatch = Object.assign(document.createElement("i"), { className: kind });
    Object.assign(swatch.style, style);
    line.append(swatch, name);
    return line;
  };
  byId("legend").replaceChildren(
    ...legend(map.mode, known.migratetypes, freeColour()).map(([background, name]) => item(name, { background })),
    item("no memory", {}, "hole"), item("contiguous run", {}, "run"));
}

/** What the server says at once: a line of JSON, then lines of numbers as base64. @param {MessageEvent<string>} event */
function look(event) {
  const [state, which, cells, runs] = event.data.split("\n");
  const seen = JSON.parse(state);
  looks.count += 1;
  looks.missed += seen.missed;
  if (seen.all || which) {
    const blocks = seen.all ? null : words(which);
    map.update(seen.pageblocks, blocks, bytes(cells));
    if (map.zoomed >= 0 && (blocks === null || blocks.includes(map.zoomed))) void zoom(map.zoomed);
  }
  if (seen.new_runs) {
    map.runs = words(runs);
    map.draw();
  }
  free.update(seen.zones);
  say([`operation ${written(seen.seq)}`, counted(seen.processes, "process", "processes"), `${written(seen.refusals)} refused`,
    counted(seen.nr_runs, "contiguous run"), `${seen.queue} waiting`, `${(seen.clock_ns / 1e9).toFixed(3)} s simulated`].join(" · "));
  events.add(seen.events, seen.trace);
  if (seen.machines.join() !== known.machines.map((/** @type {any} */ one) => one.id).join()) void learnMachines();
  if (seen.loads !== loads) void learnLoads(seen.loads);
}

/** The stream is over; the server says why, and whether to come again. @param {MessageEvent<string>} event */
async function ended(event) {
  const { reason, again } = JSON.parse(event.data);
  say(reason);
  if (again) return; // an EventSource does so by itself
  source?.close();
  await learnMachines();
}

async function learnMachines() {
  known = await get("api/machines");
  const chosen = byId("machine").value;
  byId("machine").replaceChildren(...known.machines.map((/** @type {any} */ one) => new Option(one.id)));
  if (known.machines.some((/** @type {any} */ one) => one.id === chosen)) byId("machine").value = chosen;
}

function follow() {
  source?.close();
  machine = known.machines.find((/** @type {any} */ one) => one.id === byId("machine").value);
  if (machine === undefined) {
    say("There is no machine on this server: contigmm serve --machine, or a client's CreateMachine, makes one; then load this page again.");
    return;
  }
  say("connecting");
  const zones = /** @type {HTMLSelectElement} */ (byId("zone"));
  zones.replaceChildren(new Option("all", ""), ...machine.zones.map((/** @type {any} */ one) => new Option(one.zone)));
  map.reset(pageblocks());
  free.reset();
  events.reset();
  listen();
  void showProcesses();
}

/** Open the stream of the machine, with its tracepoints if they are asked for. */
function listen() {
  source?.close();
  if (paused) return;
  const traced = /** @type {HTMLInputElement} */ (byId("tracepoints")).checked;
  source = new EventSource(`api/machines/${machine.id}/looks${traced ? "?trace=1" : ""}`);
  source.addEventListener("look", look);
  source.addEventListener("end", (event) => { void ended(event); });
  source.addEventListener("error", () => say("The server does not answer; trying again."));
}

function pause() {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  if (machine !== undefined) listen();
}

function pageblocks() {
  const zone = machine.zones.find((/** @type {any} */ one) => one.zone === byId("zone").value);
  if (zone === undefined) return { first: 0, end: Math.ceil(machine.frames / FRAMES) };
  return { first: Math.floor(zone.first / FRAMES), end: Math.ceil((zone.first + zone.spanned) / FRAMES) };
}

async function showProcesses() {
  const { processes } = await get(`api/machines/${machine.id}/processes`);
  byId("processes-none").hidden = processes.length > 0;
  const table = /** @type {HTMLTableElement} */ (byId("processes"));
  fill(table, processes.map((/** @type {any} */ one) =>
    ["", String(one.pid), one.background ? `${one.name} (background)` : one.name, one.rss, one.vmas, one.locked]
      .map((cell) => (typeof cell === "number" ? written(cell) : cell))));
  processes.forEach((/** @type {any} */ one, /** @type {number} */ at) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: one.id });
    button.setAttribute("aria-label", `VMAs of process ${one.id}`);
    button.addEventListener("click", () => { void showMaps(one); });
    table.tBodies[0].rows[at].cells[0].append(button);
  });
}

/** @param {{id: number, name: string}} process */
async function showMaps(process) {
  const answer = await fetch(`api/machines/${machine.id}/processes/${process.id}/maps`);
  byId("maps-title").textContent = `VMAs of process ${process.id}, ${process.name || "without a name"}`;
  byId("maps").textContent = (await answer.text()) || "It has mapped nothing.";
  for (const id of ["maps-title", "maps"]) byId(id).hidden = false;
}

/** @param {number} version */
async function learnLoads(version) {
  loads = version;
  showRuns((await get("api/loads")).loads);
}

/** @param {any[]} runs */
function showRuns(runs) {
  showLoads(runs, { none: byId("loads-none"), table: byId("loads"), region: byId("sizes-region"), sizes: byId("sizes") });
}

/** @param {Event} event */
async function takeLoad(event) {
  const file = /** @type {HTMLInputElement} */ (event.target).files?.[0];
  if (!file) return;
  const answer = await fetch("api/loads", { method: "POST", headers: { "Content-Type": "application/json" }, body: file });
  byId("load-said").textContent = answer.ok ? "" : await answer.text();
  if (answer.ok) showRuns((await answer.json()).loads);
}

byId("machine").append(...known.machines.map((/** @type {any} */ one) => new Option(one.id)));
// The address may name a machine: /#ID.
if (known.machines.some((/** @type {any} */ one) => `#${one.id}` === location.hash)) byId("machine").value = location.hash.slice(1);
byId("machine").addEventListener("change", follow);
byId("zone").addEventListener("change", () => map.show(pageblocks()));
byId("back").addEventListener("click", back);
byId("pause").addEventListener("click", pause);
byId("tracepoints").addEventListener("change", listen);
byId("refresh").addEventListener("click", () => { void showProcesses(); });
byId("load").addEventListener("change", (event) => { void takeLoad(event); });
for (const choice of document.querySelectorAll("input[name=colour]")) {
  choice.addEventListener("change", (event) => {
    map.mode = /** @type {HTMLInputElement} */ (event.target).value;
    drawLegend();
    map.draw();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawLegend);
drawLegend();
follow();
await learnLoads(-1);
