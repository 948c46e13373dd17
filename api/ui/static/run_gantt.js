// The timeline of a run. Rows are drawn only where they are seen: 12,000 of them scroll like twelve.
import { atMost } from "./run.js";
import { told } from "./run_picture.js";

const SVG = "http://www.w3.org/2000/svg";
const ROW = 26, AXIS = 28, AROUND = 8;
const WORDS = { waiting: "Waiting for a slot", queued: "Queued", running: "Running", retrying: "Retrying", person: "Waits for a person", outside: "Waits for a time or an event", undoing: "Undoing" };
const root = document.getElementById("gantt");
const rows = document.getElementById("gantt-rows");
const over = document.body.dataset.over === "true";
let data, shown = [], perMs = null, at = -1, offset = 0, fitted = true;

const names = () => (rows.clientWidth < 560 ? 120 : 230);
const now = () => data.end ?? Date.now() - data.start + offset;
const length = () => Math.max(now(), 1);
const room = () => Math.max(rows.clientWidth - names() - 24, 100);

// Of a large run the server tells a window of its rows, in the order that is looked at, and how many there are in all.
const windowed = () => data?.total !== undefined;
const seen = () => [Math.max(0, Math.floor((rows.scrollTop - AXIS) / ROW) - AROUND), Math.min(shown.length, Math.ceil((rows.scrollTop + rows.clientHeight) / ROW) + AROUND)];
let asked = 0, awaited = null;

async function read(first) {
  const query = new URLSearchParams({ first, order: document.getElementById("gantt-order").value, q: document.getElementById("gantt-find").value.trim() });
  const answer = await fetch(`${root.dataset.bars}?${query}`).catch(() => null);
  return answer?.ok ? answer.json() : null;
}

async function ask() {
  const number = (asked += 1);
  const fresh = await read(windowed() ? Math.floor(seen()[0] / data.part) * data.part : 0);
  if (number !== asked) return;
  if (!fresh) { if (!data) rows.innerHTML = '<p class="note bad">The bars could not be read. Load the page again.</p>'; return; }
  data = fresh;
  offset = data.start + data.now - Date.now();
  choose();
}

/** Ask for rows that are seen and not there yet; what was asked for before everything was asked anew is of no use. */
async function more(first) {
  const [number, part] = [asked, Math.floor(first / data.part) * data.part];
  if (awaited !== null) return;
  awaited = part;
  const fresh = await read(part);
  awaited = null;
  if (!fresh) return;
  if (number === asked) fresh.rows.forEach((row, at) => { shown[part + at] = row; });
  if (number === asked && !fresh.rows.length) return;
  draw();
}

function choose() {
  if (windowed()) {
    shown = new Array(data.total);
    data.rows.forEach((row, at) => { shown[data.first + at] = row; });
    frame();
    return tell();
  }
  const text = document.getElementById("gantt-find").value.trim().toLowerCase();
  shown = data.rows.filter(([id, name]) => !text || id.toLowerCase().includes(text) || name.toLowerCase().includes(text));
  const order = document.getElementById("gantt-order").value;
  const lasts = ([, , , , bars]) => (bars.length ? (bars.at(-1)[2] ?? now()) - bars[0][1] : 0);
  if (order === "length") shown.sort((a, b) => lasts(b) - lasts(a));
  if (order === "name") shown.sort((a, b) => a[1].localeCompare(b[1], undefined, { numeric: true }));
  frame();
  tell();
}

function tell() {
  draw();
  const foot = [`${shown.length.toLocaleString()} nodes`];
  if (data.untouched) foot.push(`${data.untouched.toLocaleString()} that nothing has happened to`);
  document.getElementById("gantt-foot").textContent = foot.join(", ");
}

function made(name, attributes, text) {
  const one = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  if (text !== undefined) one.textContent = text;
  return one;
}

let space, axis, bars, labels;
function frame() {
  if (fitted || perMs === null) perMs = room() / (length() * 1.02);
  if (!shown.length) { rows.innerHTML = '<div class="empty"><p class="title">Nothing has happened yet</p></div>'; space = null; return; }
  if (!space) {
    rows.replaceChildren();
    space = Object.assign(document.createElement("div"), { className: "space" });
    axis = made("svg", { class: "axis", height: AXIS });
    labels = Object.assign(document.createElement("div"), { className: "names" });
    bars = made("svg", { class: "bars" });
    space.append(axis, labels, bars);
    rows.append(space);
    const used = new Set(data.rows.flatMap((row) => row[4].map(([doing]) => data.doings[doing])));
    document.getElementById("gantt-legend").replaceChildren(...data.doings.filter((one) => used.has(one)).map((one) => {
      const span = document.createElement("span");
      span.append(Object.assign(document.createElement("i"), { className: `swatch ${one}` }), WORDS[one]);
      return span;
    }));
  }
  rows.style.height = `${Math.min(AXIS + shown.length * ROW + 24, Math.max(260, innerHeight - rows.getBoundingClientRect().top - scrollY - 70))}px`;
  space.style.setProperty("--names", `${names()}px`);
  space.style.width = `${names() + Math.max(length() * perMs + 24, room())}px`;
  space.style.height = `${AXIS + shown.length * ROW + 4}px`;
  labels.style.height = `${shown.length * ROW}px`;
}

/** Steps of the axis: a round time that is at least 90 pixels. */
function step() {
  const least = 90 / perMs;
  const round = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5];
  return round.find((one) => one >= least) ?? Math.ceil(least / 864e5) * 864e5;
}

function draw() {
  if (!space) return;
  const width = space.clientWidth - names(), left = rows.scrollLeft, right = left + rows.clientWidth;
  const [first, last] = seen();
  const top = first * ROW;
  axis.setAttribute("width", space.clientWidth);
  const ticks = [], lines = [];
  const by = step();
  for (let t = Math.max(0, Math.floor((left - names()) / perMs / by) * by); t * perMs <= Math.min(width, right); t += by) {
    const x = t * perMs;
    ticks.push(made("line", { x1: names() + x, x2: names() + x, y1: AXIS - 6, y2: AXIS }), made("text", { x: names() + x + 4, y: 17 }, t ? `+${told(t)}` : new Date(data.start).toLocaleTimeString()));
    lines.push(made("line", { class: "grid", x1: x, x2: x, y1: 0, y2: (last - first) * ROW }));
  }
  axis.replaceChildren(...ticks);
  bars.style.left = `${names()}px`;
  bars.style.top = `${AXIS + top}px`;
  bars.setAttribute("width", width);
  bars.setAttribute("height", (last - first) * ROW);
  const drawn = [...lines];
  const buttons = [];
  let missing = null;
  for (let row = first; row < last; row++) {
    if (!shown[row]) { missing ??= row; continue; }
    const [id, name, kind, letter, spans, failed] = shown[row];
    const look = data.looks[letter.charCodeAt(0) - 65];
    const y = (row - first) * ROW;
    for (const [doing, start, end] of spans) drawn.push(bar(data.doings[doing], start, end, y, look, name, spans.at(-1)));
    for (const t of failed) drawn.push(failure(t * perMs, y));
    const button = Object.assign(document.createElement("button"), { type: "button", title: `${name} (${kind}), ${look[1]}`, tabIndex: -1 });
    button.dataset.node = id;
    if (row === at) button.className = "at";
    button.style.top = `${row * ROW}px`;
    const dot = document.createElement("i");
    dot.dataset.tone = look[3];
    button.append(dot, name);
    buttons.push(button);
  }
  if (data.end === null) drawn.push(made("line", { class: "present", x1: now() * perMs, x2: now() * perMs, y1: 0, y2: (last - first) * ROW }));
  bars.replaceChildren(...drawn);
  labels.replaceChildren(...buttons);
  if (missing !== null) more(missing);
}

function bar(doing, start, end, y, look, name, lastSpan) {
  const stop = end ?? now();
  const finished = doing === "running" && lastSpan[1] === start && end !== null && ["good", "bad"].includes(look[3]) ? look[3] : "";
  const thin = doing === "waiting" || doing === "queued" || doing === "outside";
  const one = made("rect", { class: `doing ${doing} ${finished}`, x: start * perMs, y: y + (thin ? 10 : 5), width: Math.max((stop - start) * perMs, 1.5), height: thin ? 6 : 16, rx: 3 });
  one.append(made("title", {}, `${name}: ${WORDS[doing].toLowerCase()} for ${told(stop - start)}, from +${told(start)}`));
  return one;
}

function failure(x, y) {
  const one = made("path", { class: "failed", d: `M${x - 4},${y + 9}l8,8m0,-8l-8,8` });
  one.append(made("title", {}, "An attempt failed"));
  return one;
}

function zoom(by, x = rows.clientWidth / 2) {
  const t = (rows.scrollLeft + x - names()) / perMs;
  const least = room() / (length() * 1.02);
  fitted = !by || perMs * by <= least;
  perMs = by ? Math.min(Math.max(perMs * by, least), Math.max(5, least)) : least;
  frame();
  rows.scrollLeft = t * perMs + names() - x;
  draw();
}

for (const button of root.querySelectorAll("[data-span]")) button.addEventListener("click", () => data && zoom({ in: 1.6, out: 1 / 1.6, fit: 0 }[button.dataset.span]));
rows.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
rows.addEventListener("wheel", (event) => {
  if (!data || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * 0.003), event.clientX - rows.getBoundingClientRect().left);
}, { passive: false });
rows.addEventListener("click", (event) => { const button = event.target.closest("[data-node]"); if (button) open_(button.dataset.node); });
rows.addEventListener("keydown", (event) => {
  if (!shown.length) return;
  if (event.key === "Enter" && shown[at]) return open_(shown[at][0]);
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12 }[event.key];
  if (!by) return;
  event.preventDefault();
  at = Math.min(shown.length - 1, Math.max(0, at + by));
  const y = AXIS + at * ROW;
  if (y - AXIS < rows.scrollTop || y + ROW > rows.scrollTop + rows.clientHeight) rows.scrollTop = y - rows.clientHeight / 2;
  if (shown[at]) rows.setAttribute("aria-description", shown[at][1]);
  draw();
});
function open_(id) { location.assign(`/ui/runs/${document.body.dataset.run}#node=${encodeURIComponent(id)}`); }
const askTyped = atMost(300, () => { rows.scrollTop = 0; ask(); });
for (const [id, event] of [["gantt-find", "input"], ["gantt-order", "change"]]) document.getElementById(id).addEventListener(event, () => data && (windowed() ? askTyped() : choose()));
new ResizeObserver(() => { if (data) { frame(); draw(); } }).observe(rows);

const askSoon = atMost(2500, ask), askLater = atMost(12_000, ask);
document.addEventListener("run:event", () => ((data?.rows.length ?? 0) > 2000 || windowed() ? askLater() : askSoon()));
document.addEventListener("run:head", (event) => { if (["COMPLETED", "FAILED", "CANCELLED"].includes(event.detail)) askSoon(); });
if (!over) setInterval(() => { if (data && data.end === null && !document.hidden) { frame(); draw(); } }, 1000);
ask();
