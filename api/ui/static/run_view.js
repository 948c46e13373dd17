// How the picture is looked at: moved, made larger and smaller, and walked through with the keys.
const SVG = "http://www.w3.org/2000/svg";
const FAR = 0.34;
const LEAST = 0.02, MOST = 2.5, READABLE = 0.5;

export class View {
  constructor(canvas, { opened } = {}) {
    this.canvas = canvas;
    this.opened = opened;
    this.pointers = new Map();
    this.place = { x: 0, y: 0, scale: 1 };
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#moved(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("click", (event) => this.#click(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focusin", () => canvas.scrollTo(0, 0));
    for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    new ResizeObserver(() => { if (this.fitted) this.fit(); }).observe(canvas);
  }

  /** Look at another picture, from the place where all of it, or its beginning, is seen. */
  take(picture) {
    this.picture = picture;
    this.svg = picture.svg;
    this.size = { width: Number(this.svg.getAttribute("width")), height: Number(this.svg.getAttribute("height")) };
    this.#height();
    this.#mini();
    this.begin();
  }

  /** Draw a small map of the whole, with a frame around what is seen; to be clicked, and dragged. */
  #mini() {
    this.canvas.querySelector(".mini")?.remove();
    const { width, height } = this.size;
    const scale = Math.min(170 / width, 130 / height);
    if (this.picture.boxes.length < 12) { this.frame = null; return; }
    const map = document.createElementNS(SVG, "svg");
    const set = (one, attributes) => { for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value); return one; };
    set(map, { class: "mini", viewBox: `0 0 ${width} ${height}`, width: Math.max(width * scale, 26), height: Math.max(height * scale, 26), preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const box of this.picture.boxes) {
      box.mini = set(document.createElementNS(SVG, "rect"), { x: box.x, y: box.y, width: box.width, height: box.height });
      box.mini.dataset.tone = box.element.dataset.tone;
      box.mini.dataset.status = box.status;
      map.append(box.mini);
    }
    this.frame = set(document.createElementNS(SVG, "rect"), { class: "frame", "vector-effect": "non-scaling-stroke" });
    map.append(this.frame);
    const go = (event) => {
      if (!event.buttons) return;
      event.stopPropagation();
      const bounds = map.getBoundingClientRect();
      const [x, y] = [((event.clientX - bounds.left) / bounds.width) * width, ((event.clientY - bounds.top) / bounds.height) * height];
      const { scale: now } = this.place;
      this.fitted = false;
      this.#set({ scale: now, x: this.canvas.clientWidth / 2 - x * now, y: this.canvas.clientHeight / 2 - y * now });
    };
    map.addEventListener("pointerdown", go);
    map.addEventListener("pointermove", go);
    map.addEventListener("click", (event) => event.stopPropagation());
    this.canvas.append(map);
    this.map = map;
  }

  #height() {
    const room = Math.max(Math.min(440, window.innerHeight * 0.55), window.innerHeight - this.canvas.getBoundingClientRect().top - window.scrollY - 90);
    const scale = Math.min(1, this.canvas.clientWidth / this.size.width);
    this.canvas.style.height = `${Math.max(Math.min(room, Math.max(this.size.height * Math.max(scale, READABLE), 260)), 260)}px`;
  }

  begin() {
    const all = this.#fitting();
    if (all >= READABLE) return this.fit();
    // All of it would be too small to read: as much as fits across, from where something happens.
    const across = this.picture.down ? this.canvas.clientWidth / this.size.width : this.canvas.clientHeight / this.size.height;
    const scale = Math.min(1, Math.max(across, READABLE));
    const box = this.picture.boxes.find((one) => ["FAILED", "AWAITING_HITL", "RUNNING", "RETRYING", "COMPENSATING"].includes(one.status)) ?? this.picture.boxes[0];
    this.fitted = false;
    if (!box) return this.fit();
    const wide = this.size.width * scale <= this.canvas.clientWidth, high = this.size.height * scale <= this.canvas.clientHeight;
    this.#set({
      scale,
      x: wide ? (this.canvas.clientWidth - this.size.width * scale) / 2 : Math.min(0, this.canvas.clientWidth / (this.picture.down ? 2 : 4) - (box.x + box.width / 2) * scale),
      y: high ? (this.canvas.clientHeight - this.size.height * scale) / 2 : Math.min(0, this.canvas.clientHeight / (this.picture.down ? 4 : 2) - (box.y + box.height / 2) * scale),
    });
  }

  #fitting() { return Math.min(1, (this.canvas.clientWidth - 8) / this.size.width, (this.canvas.clientHeight - 8) / this.size.height); }

  fit() {
    const scale = Math.max(this.#fitting(), LEAST);
    this.#set({ scale, x: (this.canvas.clientWidth - this.size.width * scale) / 2, y: (this.canvas.clientHeight - this.size.height * scale) / 2 });
    this.fitted = true;
  }

  zoom(how) {
    this.#glide();
    if (how === "fit") return this.fit();
    this.#zoomAt(how === "in" ? 1.3 : 1 / 1.3, this.canvas.clientWidth / 2, this.canvas.clientHeight / 2);
  }

  #zoomAt(by, x, y) {
    const { scale } = this.place;
    const next = Math.min(MOST, Math.max(LEAST, scale * by));
    this.fitted = false;
    this.#set({ scale: next, x: x - ((x - this.place.x) * next) / scale, y: y - ((y - this.place.y) * next) / scale });
  }

  #set(place) {
    this.place = place;
    this.svg.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
    this.svg.classList.toggle("far", place.scale < FAR);
    const scale = document.getElementById("scale");
    if (scale) scale.textContent = `${Math.round(place.scale * 100)} %`;
    this.#cull();
    if (!this.frame) return;
    const [x, y] = [Math.max(0, -place.x / place.scale), Math.max(0, -place.y / place.scale)];
    const right = Math.min(this.size.width, (this.canvas.clientWidth - place.x) / place.scale), low = Math.min(this.size.height, (this.canvas.clientHeight - place.y) / place.scale);
    for (const [name, value] of Object.entries({ x, y, width: Math.max(0, right - x), height: Math.max(0, low - y) })) this.frame.setAttribute(name, value);
    this.map.classList.toggle("all", x === 0 && y === 0 && right >= this.size.width && low >= this.size.height);
  }

  /** Let the browser lay out what is seen, and a little around it: of thousands of boxes the rest would take seconds. */
  #cull() {
    if (!this.picture.culled) return;
    const { x, y, scale } = this.place, around = 200 / scale;
    const left = -x / scale - around, top = -y / scale - around;
    const right = (this.canvas.clientWidth - x) / scale + around, low = (this.canvas.clientHeight - y) / scale + around;
    const { boxes, edges } = this.picture;
    for (const box of boxes) {
      const seen = box.x < right && box.x + box.width > left && box.y < low && box.y + box.height > top;
      if (seen !== box.seen) box.element.classList.toggle("in", (box.seen = seen));
    }
    const far = scale < FAR;
    for (const edge of edges) {
      const [from, to] = [boxes[edge.source], boxes[edge.target]];
      const seen = !far && Math.min(from.x, to.x) < right && Math.max(from.x + from.width, to.x + to.width) > left && Math.min(from.y, to.y) < low && Math.max(from.y + from.height, to.y + to.height) > top;
      if (seen !== edge.seen) edge.element.classList.toggle("in", (edge.seen = seen));
    }
  }

  #glide() {
    this.canvas.classList.add("glide");
    clearTimeout(this.gliding);
    this.gliding = setTimeout(() => this.canvas.classList.remove("glide"), 300);
  }

  /** Move so that a box is seen; with `closer`, so that it can be read. */
  reveal(element, closer = false) {
    const box = this.picture.boxes.find((one) => one.element === element);
    if (!box) return;
    let { x, y, scale } = this.place;
    if (closer && scale < READABLE) scale = 0.8;
    const room = { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
    const left = box.x * scale + x, top = box.y * scale + y;
    const inside = scale === this.place.scale && left >= 0 && top >= 0 && left + box.width * scale <= room.width && top + box.height * scale <= room.height;
    if (inside) return;
    this.#glide();
    this.fitted = false;
    x = room.width / 2 - (box.x + box.width / 2) * scale;
    y = room.height / 2 - (box.y + box.height / 2) * scale;
    this.#set({ x, y, scale });
  }

  #wheel(event) {
    const bounds = this.canvas.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.#zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0025)), event.clientX - bounds.left, event.clientY - bounds.top);
      return;
    }
    // Where there is nothing more to be seen in that direction the page scrolls.
    const { x, y, scale } = this.place;
    const step = event.deltaMode ? 20 : 1;
    const [dx, dy] = event.shiftKey && !event.deltaX ? [event.deltaY * step, 0] : [event.deltaX * step, event.deltaY * step];
    const more = (at, by, size, room) => (by > 0 ? at + size * scale > room + 1 : by < 0 ? at < -1 : false);
    const moves = more(x, dx, this.size.width, bounds.width) || more(y, dy, this.size.height, bounds.height);
    if (!moves) return;
    event.preventDefault();
    this.fitted = false;
    this.#set({ scale, x: more(x, dx, this.size.width, bounds.width) ? x - dx : x, y: more(y, dy, this.size.height, bounds.height) ? y - dy : y });
  }

  #down(event) {
    if (event.button) return;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 1) this.dragged = 0;
  }

  #moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const [dx, dy] = [now.x - before.x, now.y - before.y];
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const bounds = this.canvas.getBoundingClientRect();
      const distance = (one) => Math.hypot(one.x - other.x, one.y - other.y) || 1;
      this.#zoomAt(distance(now) / distance(before), (now.x + other.x) / 2 - bounds.left, (now.y + other.y) / 2 - bounds.top);
      this.dragged = 99;
    } else {
      this.dragged += Math.abs(dx) + Math.abs(dy);
      if (this.dragged > 4) {
        if (!this.canvas.hasPointerCapture(event.pointerId)) this.canvas.setPointerCapture(event.pointerId);
        this.canvas.classList.add("held");
        this.fitted = false;
        this.#set({ ...this.place, x: this.place.x + dx, y: this.place.y + dy });
      }
    }
    this.pointers.set(event.pointerId, now);
  }

  #up(event) {
    this.pointers.delete(event.pointerId);
    this.canvas.classList.remove("held");
  }

  #click(event) {
    if (this.dragged > 4) return;
    const node = event.target.closest(".node");
    if (node) { this.focus(node); this.opened?.(node); }
  }

  /** Give a box the focus; it is then the one that Tab leads to. */
  focus(element) {
    this.reveal(element);
    for (const one of this.svg.querySelectorAll('.node[tabindex="0"]')) one.setAttribute("tabindex", "-1");
    element.setAttribute("tabindex", "0");
    element.focus({ preventScroll: true });
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const zooms = { "+": "in", "=": "in", "-": "out", 0: "fit" };
    if (event.key in zooms) { event.preventDefault(); return this.zoom(zooms[event.key]); }
    const element = event.target.closest(".node");
    const boxes = this.picture.boxes;
    const box = boxes.find((one) => one.element === element);
    if (!box) {
      if (event.key.startsWith("Arrow") && boxes.length) { event.preventDefault(); this.focus(boxes[0].element); }
      return;
    }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); return this.opened?.(element); }
    if (event.key === "Home" || event.key === "End") { event.preventDefault(); return this.focus(boxes.at(event.key === "Home" ? 0 : -1).element); }
    const keys = this.picture.down ? { ArrowDown: "on", ArrowUp: "back", ArrowLeft: "before", ArrowRight: "after" } : { ArrowRight: "on", ArrowLeft: "back", ArrowUp: "before", ArrowDown: "after" };
    const way = keys[event.key];
    if (!way) return;
    event.preventDefault();
    const next = this.#neighbour(box, way);
    if (next) this.focus(next.element);
  }

  #neighbour(box, way) {
    const boxes = this.picture.boxes;
    const cross = this.picture.down ? (one) => one.x + one.width / 2 : (one) => one.y + one.height / 2;
    const nearest = (found) => found.sort((a, b) => Math.abs(cross(a) - cross(box)) - Math.abs(cross(b) - cross(box)))[0];
    if (way === "on") return nearest(box.from.map((edge) => boxes[edge.target]));
    if (way === "back") return nearest(box.into.map((edge) => boxes[edge.source]));
    const beside = boxes.filter((one) => one !== box && (this.picture.down ? one.y === box.y : one.x === box.x));
    return nearest(beside.filter((one) => (way === "after" ? cross(one) > cross(box) : cross(one) < cross(box))));
  }
}
