// The event stream: operations with their answers and, on request, what the allocator's tracepoints tell.
import { counted } from "./table.js";

const KEPT = 200;

/**
 * @typedef {{seq: number, call: string, process: number, args: string[], value: string, errno: string, reason: string}} Operation
 * @typedef {{lines: string[], more: number, dropped: number, error: string}} Trace
 */

export class Events {
  /** @param {{list: HTMLElement, none: HTMLElement, said: HTMLElement, onlyRefusals: HTMLInputElement}} parts */
  constructor({ list, none, said, onlyRefusals }) {
    this.list = list;
    this.none = none;
    this.said = said;
    this.onlyRefusals = onlyRefusals;
    onlyRefusals.addEventListener("change", () => this.choose());
  }

  reset() {
    this.list.replaceChildren();
    this.none.hidden = false;
    this.said.textContent = "";
  }

  /** Show refusals only, or everything. */
  choose() {
    for (const line of /** @type {NodeListOf<HTMLElement>} */ (this.list.querySelectorAll("li"))) {
      line.hidden = this.onlyRefusals.checked && !line.classList.contains("refused");
    }
  }

  /** @param {Operation[]} operations @param {Trace | null} trace */
  add(operations, trace) {
    const lines = operations.map((one) => {
      const came = one.errno ? `${one.errno} ${one.reason}` : one.value;
      return newLine(`${one.seq} ${one.call}(${one.args.join(", ")}) of ${one.process} = ${came}`, one.errno ? "refused" : "");
    });
    if (trace === null) {
      this.said.textContent = "";
    } else {
      lines.push(...trace.lines.map((text) => newLine(text, "trace")));
      this.said.textContent = trace.error || (trace.more || trace.dropped
        ? `At the last look ${counted(trace.more + trace.dropped, "older event")} had no room here.` : "Listening to the allocator.");
    }
    if (lines.length === 0) return;
    this.none.hidden = true;
    this.list.prepend(...lines.reverse());
    while (this.list.childElementCount > KEPT) this.list.lastElementChild?.remove();
    this.choose();
  }
}

/** @param {string} text @param {string} kind */
function newLine(text, kind) {
  return Object.assign(document.createElement("li"), { textContent: text.trim(), className: kind });
}
