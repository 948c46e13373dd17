// The picture of a run: which node is in which box, how all stand, and how that looks. Statuses are letters, one a node.
const SVG = "http://www.w3.org/2000/svg";
const UNDO = new Set(["COMPENSATING", "COMPENSATED", "COMPENSATION_FAILED"]);
const WORKS = new Set(["RUNNING", "RETRYING", "AWAITING_HITL", "COMPENSATING"]);
const ENDED = new Set(["SUCCESS", "ERROR", "FAILED", "SKIPPED", "CANCELLED", "COMPENSATED", "COMPENSATION_FAILED"]);
const URGENCY = ["FAILED", "COMPENSATION_FAILED", "AWAITING_HITL", "COMPENSATING", "RETRYING", "RUNNING", "QUEUED", "PENDING", "ERROR", "COMPENSATED", "SUCCESS", "CANCELLED", "SKIPPED"];
const BAR = ["SUCCESS", "ERROR", "SKIPPED", "CANCELLED", "COMPENSATED", "FAILED", "COMPENSATION_FAILED", "AWAITING_HITL", "COMPENSATING", "RETRYING", "RUNNING", "QUEUED", "PENDING"];

/** Tell a length of time as the pages do. */
export function told(ms) {
  const s = ms / 1000;
  if (s < 1) return `${Math.max(0, Math.round(ms))} ms`;
  if (s < 60) return s < 10 ? `${s.toFixed(1)} s` : `${Math.round(s)} s`;
  const whole = Math.round(s);
  const units = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = units.findIndex(([count]) => count);
  return units.slice(first, first + 2).filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

/** The same with its largest unit only, for where there is little room. */
const briefly = (ms) => (ms < 60_000 ? told(ms) : told(ms).split(" ").slice(0, 2).join(" "));

export class Picture {
  constructor(canvas, data) {
    this.canvas = canvas;
    this.take(data);
  }

  /** Show another picture: `data` is what the server answers, its `svg` already in the canvas if it is left out. */
  take(data) {
    if (data.svg) this.canvas.innerHTML = data.svg;
    this.svg = this.canvas.querySelector("svg");
    Object.assign(this, { ids: data.ids, boxOf: data.boxes, groups: data.groups, down: data.down });
    this.looks = data.looks.map(([status, word, icon, tone]) => ({ status, word, icon, tone }));
    this.byStatus = new Map(this.looks.map((look) => [look.status, look]));
    this.place = new Map(this.ids.map((id, at) => [id, at]));
    this.times = data.state.times ?? {};
    this.attempts = {};
    this.boxes = [...this.svg.querySelectorAll(".node")].map((element) => {
      const [, x, y] = element.getAttribute("transform").match(/translate\(([-\d.]+),([-\d.]+)\)/);
      const card = element.querySelector(".card");
      return {
        element, x: Number(x), y: Number(y), width: Number(card.getAttribute("width")), height: Number(card.getAttribute("height")),
        name: element.querySelector(".name").textContent, nodes: [], counts: {}, into: [], from: [], status: element.dataset.status,
      };
    });
    this.boxOf.forEach((box, at) => this.boxes[box].nodes.push(at));
    this.edges = [...this.svg.querySelectorAll(".edge")].map((element) => {
      const tip = element.querySelector(".tip");
      const edge = { element, tip, on: tip.getAttribute("d"), back: tip.dataset.back, source: Number(element.dataset.from), target: Number(element.dataset.to), error: element.classList.contains("error") };
      this.boxes[edge.source].from.push(edge);
      this.boxes[edge.target].into.push(edge);
      return edge;
    });
    this.culled = this.svg.classList.contains("cull");
    this.letters = null;
    this.dirty = new Set();
    this.show(data.state.statuses);
  }

  /** Show these statuses of all nodes. */
  show(letters) {
    if (letters.length !== this.ids.length) return;
    if (this.letters === null) {
      this.letters = [...letters];
      for (const box of this.boxes) {
        for (const node of box.nodes) this.#count(box, node, 1);
        // The server has drawn how it stands; what it leaves to the script is how long that took, and the edges.
        if (box.nodes.length === 1) this.#drawExtra(box);
      }
      this.#drawEdges(this.edges);
      return;
    } else for (let at = 0; at < letters.length; at++) if (letters[at] !== this.letters[at]) this.set(at, letters[at]);
    this.draw();
  }

  statusOf(at) { return this.looks[this.letters[at].charCodeAt(0) - 65].status; }
  letterOf(status) { return String.fromCharCode(65 + this.looks.findIndex((look) => look.status === status)); }

  /** Set the status of one node; `draw` shows it. */
  set(at, letter) {
    const box = this.boxes[this.boxOf[at]];
    this.#count(box, at, -1);
    this.letters[at] = letter;
    this.#count(box, at, 1);
    this.dirty.add(this.boxOf[at]);
  }

  #count(box, at, by) {
    const status = this.statusOf(at);
    box.counts[status] = (box.counts[status] ?? 0) + by;
  }

  draw() {
    const edges = new Set();
    for (const at of this.dirty) {
      const box = this.boxes[at];
      this.#drawBox(box);
      for (const edge of [...box.into, ...box.from]) edges.add(edge);
    }
    this.#drawEdges(edges);
    this.dirty.clear();
  }

  #drawEdges(edges) {
    for (const edge of edges) {
      const state = this.#stateOf(edge);
      if (edge.element.dataset.state === state) continue;
      edge.element.dataset.state = state;
      edge.tip.setAttribute("d", state.startsWith("undo") ? edge.back : edge.on);
    }
  }

  #drawBox(box) {
    const many = box.nodes.length > 1;
    box.status = this.#summedUp(box.counts);
    const look = this.byStatus.get(box.status);
    const word = many ? this.#toldOf(box) : look.word;
    const element = box.element;
    element.dataset.status = box.status;
    element.dataset.tone = look.tone;
    if (box.mini) Object.assign(box.mini.dataset, { tone: look.tone, status: box.status });
    element.querySelector(".mark").setAttribute("d", look.icon);
    element.querySelector(".word").textContent = word;
    element.setAttribute("aria-label", `${box.name}, ${element.querySelector(".sub").textContent}, ${word}`);
    if (many) this.#drawBar(box); else this.#drawExtra(box);
  }

  #drawExtra(box) {
    const extra = box.element.querySelector(".extra");
    const at = box.nodes[0];
    const [began, ended, attempt] = this.past ? [] : this.times[at] ?? [];
    const tries = this.attempts[at] ?? attempt ?? 0;
    const long = began === undefined || UNDO.has(box.status) ? "" : ended ? (ended > began || box.status !== "CANCELLED" ? briefly(ended - began) : "") : WORKS.has(box.status) ? briefly(Date.now() - began) : "";
    const text = [tries > 1 ? `×${tries}` : "", long].filter(Boolean).join(" · ");
    if (extra.textContent !== text) extra.textContent = text;
  }

  /** Tell how long what works has been at it. */
  tick() { for (const box of this.boxes) if (box.nodes.length === 1 && WORKS.has(box.status)) this.#drawExtra(box); }

  #summedUp(counts) {
    const ended = Object.keys(counts).some((status) => ENDED.has(status) && counts[status] > 0);
    const between = counts.PENDING > 0 && ended;
    return URGENCY.find((status) => counts[status] > 0 || (between && status === "RUNNING")) ?? "PENDING";
  }

  #toldOf(box) {
    let done = 0;
    for (const status of ENDED) done += box.counts[status] ?? 0;
    const failed = (box.counts.FAILED ?? 0) + (box.counts.COMPENSATION_FAILED ?? 0);
    return `${done} of ${box.nodes.length} done${failed ? `, ${failed} failed` : ""}`;
  }

  #drawBar(box) {
    const bar = box.element.querySelector(".bar");
    const room = Number(bar.dataset.width);
    let x = Number(bar.dataset.x);
    const parts = [];
    for (const status of BAR) {
      const count = box.counts[status] ?? 0;
      if (!count) continue;
      const part = document.createElementNS(SVG, "rect");
      const width = (room * count) / box.nodes.length;
      part.dataset.tone = this.byStatus.get(status).tone;
      for (const [name, value] of Object.entries({ x, y: 56, width, height: 3 })) part.setAttribute(name, value);
      parts.push(part);
      x += width;
    }
    bar.replaceChildren(...parts);
  }

  /** What became of an edge, as far as the ends of it tell. */
  #stateOf({ source, target, error }) {
    const [from, to] = [this.boxes[source].status, this.boxes[target].status];
    if (UNDO.has(from) || UNDO.has(to)) return from === "COMPENSATING" || to === "COMPENSATING" ? "undoing" : "undo";
    if (from === "SKIPPED" || from === "CANCELLED" || to === "SKIPPED") return "dead";
    if (error ? from === "SUCCESS" : from === "ERROR" || from === "FAILED") return "dead";
    if (!ENDED.has(from)) return "idle";
    if (WORKS.has(to) || to === "QUEUED") return "flow";
    return to === "PENDING" || to === "CANCELLED" ? "idle" : "taken";
  }

  /** Highlight what the length of the run hangs on; an empty list takes that away. */
  highlight(path) {
    const on = new Set(path.map((at) => this.boxOf[at]));
    this.boxes.forEach((box, at) => box.element.classList.toggle("critical", on.has(at)));
    const steps = new Set(path.slice(1).map((at, before) => `${this.boxOf[path[before]]}-${this.boxOf[at]}`));
    for (const edge of this.edges) edge.element.classList.toggle("critical", steps.has(`${edge.source}-${edge.target}`));
  }

  /** Mark the box of a node, or of a group, as the one that is looked at; returns it. */
  choose(box) {
    for (const element of this.svg.querySelectorAll(".chosen, .beside")) element.classList.remove("chosen", "beside");
    if (!box) return;
    box.element.classList.add("chosen");
    for (const edge of [...box.into, ...box.from]) edge.element.classList.add("beside");
  }

  boxOfNode(id) { return this.place.has(id) ? this.boxes[this.boxOf[this.place.get(id)]] : undefined; }
  boxOfGroup(key) { return this.boxes.find((box) => box.element.dataset.group === key); }
}
