// What stands beside the picture: one node, or the nodes of a box. It is HTML of the server, asked for when it is opened.
import { tellTimes } from "./app.js";

export class Panel {
  constructor(address, { opened, closed, groups }) {
    this.address = address;
    this.element = document.getElementById("panel");
    this.stage = document.getElementById("stage");
    this.opened = opened;
    this.closed = closed;
    this.groups = groups;
    this.element.addEventListener("click", (event) => this.#click(event));
    this.element.addEventListener("keydown", (event) => { if (event.key === "Escape") this.close(); });
  }

  async node(id, { focus = true } = {}) {
    this.shown = { kind: "node", id };
    history.replaceState(null, "", `#node=${encodeURIComponent(id)}`);
    await this.#fill(`${this.address}/node?node=${encodeURIComponent(id)}`, focus);
    this.opened({ node: id });
  }

  async group(key, { status = "", first = 0, focus = true } = {}) {
    this.shown = { kind: "group", id: key, status, first };
    const query = new URLSearchParams([["key", key], ["status", status], ["first", first], ...this.groups().map((one) => ["open", one])]);
    await this.#fill(`${this.address}/group?${query}`, focus);
    this.opened({ group: key });
  }

  /** Ask for what is shown anew; what was unfolded stays unfolded. */
  async again() {
    if (!this.shown || this.element.contains(document.activeElement) && document.activeElement.matches("input, textarea")) return;
    const { kind, id, status, first } = this.shown;
    if (kind === "group") await this.group(id, { status, first, focus: false });
    else await this.#fill(`${this.address}/node?node=${encodeURIComponent(id)}`, false);
  }

  async #fill(address, focus) {
    const wanted = this.shown;
    const was = this.element.hidden;
    let text;
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" } });
      text = answer.ok && !answer.redirected ? await answer.text() : null;
    } catch { text = null; }
    if (wanted !== this.shown) return;
    const fresh = document.createElement("template");
    fresh.innerHTML = text ?? '<div><div class="panel-head"><h2>Not found</h2><button type="button" class="plain slim" data-close-panel>Close</button></div><p class="note bad">Dalang does not answer, or has no such node.</p></div>';
    const same = this.element.firstElementChild && fresh.content.querySelector("div")?.outerHTML === this.last;
    if (!same) {
      this.last = fresh.content.querySelector("div")?.outerHTML;
      const open = new Set([...this.element.querySelectorAll("details[open] > summary")].map((one) => one.textContent));
      const problem = this.element.querySelector("[data-problem]")?.firstElementChild;
      const top = this.element.scrollTop;
      const log = this.element.querySelector(".log");
      const line = !focus && log && log.scrollTop + log.clientHeight < log.scrollHeight - 8 ? log.scrollTop : 1e9;
      const focused = this.element.contains(document.activeElement);
      this.element.replaceChildren(fresh.content);
      for (const one of this.element.querySelectorAll("details > summary")) if (open.has(one.textContent) && !focus) one.parentElement.open = true;
      if (problem && !focus) this.element.querySelector("[data-problem]")?.append(problem);
      if (!focus) this.element.scrollTop = top; else this.element.scrollTop = 0;
      for (const one of this.element.querySelectorAll(".log")) one.scrollTop = line;  // the newest line, or where one was
      if (focused && !focus) this.element.focus({ preventScroll: true });
      tellTimes(this.element);
    }
    this.element.hidden = false;
    this.stage.classList.add("beside");
    if (focus && was) this.element.focus({ preventScroll: true });
  }

  close() {
    this.shown = null;
    this.last = null;
    this.element.hidden = true;
    this.element.replaceChildren();
    this.stage.classList.remove("beside");
    history.replaceState(null, "", location.pathname + location.search);
    this.closed();
  }

  #click(event) {
    const target = event.target.closest("button, a");
    if (!target) return;
    if (target.dataset.closePanel !== undefined) this.close();
    if (target.dataset.groupStatus !== undefined) this.group(this.shown.id, { status: target.dataset.groupStatus, focus: false });
    if (target.dataset.groupFirst !== undefined) this.group(this.shown.id, { ...this.shown, first: Number(target.dataset.groupFirst), focus: false });
  }
}
