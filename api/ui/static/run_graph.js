// The graph of a run: the picture, how it is looked at, the panel beside it, and its time.
import { atMost } from "./run.js";
import { Panel } from "./run_panel.js";
import { Picture } from "./run_picture.js";
import { Time } from "./run_time.js";
import { View } from "./run_view.js";

const address = `/ui/runs/${document.body.dataset.run}`;
const canvas = document.getElementById("canvas");
let data = JSON.parse(document.getElementById("picture").textContent);
const later = Boolean(data.later);
if (later) {  // that of a large plan takes seconds to draw
  const answer = await fetch(`${address}/picture${location.search}`);
  if (!answer.ok) canvas.textContent = "The picture could not be drawn; reload the page to try again.";
  data = await answer.json();
  const slider = document.getElementById("seq");
  slider.max = data.state.seq;  // first: a value beyond it would be cut
  slider.value = data.state.seq;
}
const picture = new Picture(canvas, data);
let opened = new URLSearchParams(location.search).getAll("open");
let current = data.state;
let revision = null;

const panel = new Panel(address, {
  groups: () => opened,
  opened: ({ node, group }) => { const box = node ? picture.boxOfNode(node) : picture.boxOfGroup(group); picture.choose(box); if (box) setTimeout(() => view.reveal(box.element, true), 60); },
  closed: () => { picture.choose(null); picture.svg.querySelector('.node[tabindex="0"]')?.focus({ preventScroll: true }); },
});
const view = new View(canvas, {
  opened: (element) => (element.dataset.group === undefined ? panel.node(element.dataset.nodeId) : panel.group(element.dataset.group)),
});
view.take(picture);

const time = new Time(address, {
  async past(state) {
    if (state.revision !== (revision ?? data.revision)) await show({ revision: state.revision });
    picture.past = true;
    picture.show(state.statuses);
    for (const one of picture.svg.querySelectorAll(".moment")) one.classList.remove("moment");
    if (state.node) picture.boxOfNode(state.node)?.element.classList.add("moment");
  },
  async now() {
    picture.past = false;
    for (const one of picture.svg.querySelectorAll(".moment")) one.classList.remove("moment");
    if (revision !== null) await show({});
    else { picture.show(current.statuses); askState(); }
  },
});

/** Show another picture: with other groups opened, or of an earlier revision. */
async function show(how) {
  const query = new URLSearchParams(opened.map((one) => ["open", one]));
  if (how.revision) query.set("revision", how.revision);
  const answer = await fetch(`${address}/picture?${query}`);
  if (!answer.ok) return;
  const fresh = await answer.json();
  revision = how.revision && how.revision !== fresh.revision ? how.revision : null;
  if (revision === null) current = fresh.state;
  picture.take(fresh);
  view.take(picture);
  highlight();
}

async function openGroup(key) {
  opened = [...opened, key];
  panel.close();
  await show({});
  document.getElementById("closing").hidden = !opened.length;
  const address_ = new URL(location.href);
  address_.search = new URLSearchParams(opened.map((one) => ["open", one]));
  history.replaceState(null, "", address_);
}
document.getElementById("closing").hidden = !opened.length;

// -- what happens ---------------------------------------------------------------------------------------------------
const drawSoon = atMost(60, () => requestAnimationFrame(() => { if (time.live) { picture.show(current.statuses); } }));
const panelSoon = atMost(600, () => panel.again());
const rarely = picture.ids.length > 3000 ? 5 : 1;  // what takes the server longer is asked for less often
const stateSoon = atMost(3000, () => askState());
const highlightSoon = atMost(5000 * rarely, () => highlight());

// What a node at work says of itself - how far it is, what it logs - comes without an event, and its last lines behind it.
let atWork = false;
setInterval(() => {
  if (document.hidden || panel.shown?.kind !== "node") return;
  const before = atWork;
  atWork = current.statuses[picture.place.get(panel.shown.id)] === picture.letterOf("RUNNING");
  if (atWork || before) panelSoon();
}, 2000);

/** A reset of the workflow begins a new epoch: its numbers go on from an earlier one. */
const epochOf = (state) => Number(state.position.split(".")[0] || 0);

async function askState(live = false) {
  const answer = await fetch(`${address}/state${live ? "?live=true" : ""}`).catch(() => null);
  if (!answer?.ok) return;
  const state = await answer.json();
  if (state.statuses.length !== picture.ids.length && revision === null && time.live) return show({});
  const [at, seen] = [epochOf(state), epochOf(current)];
  if (at < seen || (at === seen && state.seq < current.seq)) return;  // an event was faster
  picture.attempts = state.retrying ?? {};
  const letters = [...state.statuses];
  for (const at of Object.keys(picture.attempts)) letters[at] = picture.letterOf("RETRYING");
  current = { ...state, statuses: letters.join("") };
  picture.times = state.times;
  time.head(state.seq);
  if (time.live) { for (const at of Object.keys(picture.times)) picture.dirty.add(picture.boxOf[at]); picture.show(current.statuses); }
}

document.addEventListener("run:event", ({ detail: event }) => {
  if (panel.shown && (panel.shown.kind === "group" || panel.shown.id === event.nodeId || !event.nodeId)) panelSoon();
  if (event.nodeId) highlightSoon();
  const epoch = epochOf(current);
  if (event.epoch < epoch || (event.epoch === epoch && event.seq <= current.seq)) return;  // a stream that began anew
  if (event.epoch > epoch) stateSoon();
  Object.assign(current, { seq: event.seq, position: event.id });
  time.head(event.seq);
  if (event.type === "PLAN_REVISED") { setTimeout(() => (time.live ? show({}) : null), 200); return; }
  const at = picture.place.get(event.nodeId);
  const status = event.data?.status;
  if (event.nodeId && at !== undefined && status && revision === null) {
    const letter = picture.letterOf(status);
    if (letter !== "@") current.statuses = current.statuses.slice(0, at) + letter + current.statuses.slice(at + 1);
    const moment = Date.parse(event.at);
    const before = picture.times[at] ?? [moment, null, event.data.attempt ?? 0];
    if (status === "RUNNING" && (event.type === "NODE_STARTED" || before[1])) picture.times[at] = [moment, null, event.data.attempt ?? 1];
    else if (["SUCCESS", "ERROR", "FAILED", "CANCELLED"].includes(status) && picture.times[at]) picture.times[at] = [before[0], moment, event.data.attempt ?? before[2]];
    drawSoon();
  }
});
document.addEventListener("run:back", () => askState());
if (later) askState();  // what has happened since it was drawn was told before anybody listened
document.addEventListener("run:head", (event) => { if (["COMPLETED", "FAILED", "CANCELLED"].includes(event.detail)) { stateSoon(); highlightSoon(); panelSoon(); } });
document.addEventListener("dalang:changed", () => { stateSoon(); panelSoon(); });

setInterval(() => { if (time.live && !document.hidden) picture.tick(); }, 1000);
setInterval(() => {
  if (document.hidden || !time.live || revision !== null) return;
  if (picture.boxes.some((box) => ["RUNNING", "RETRYING"].includes(box.status))) askState(true);
}, 3000 * rarely);

// -- the critical path -----------------------------------------------------------------------------------------------
const critical = document.getElementById("critical");
async function highlight() {
  const length = document.getElementById("critical-length");
  if (!critical.checked || revision !== null) { length.textContent = ""; return picture.highlight([]); }
  const answer = await fetch(`${address}/critical-path`).catch(() => null);
  if (!answer?.ok || !critical.checked || revision !== null) return;
  const { path, ms } = await answer.json();
  picture.highlight(path.filter((at) => at < picture.ids.length));
  const { told } = await import("./run_picture.js");
  length.textContent = ms ? told(ms) : "";
}
critical.addEventListener("change", highlight);
highlight();

// -- finding, links, keys --------------------------------------------------------------------------------------------
function goTo(id) {
  if (!picture.place.has(id)) return false;
  panel.node(id);
  return true;
}
const find = document.getElementById("find");
const options = document.getElementById("find-ids");
find.addEventListener("input", () => {
  const text = find.value.toLowerCase();
  const found = text ? picture.ids.filter((one) => one.toLowerCase().includes(text)).slice(0, 12) : [];
  options.replaceChildren(...found.map((one) => Object.assign(document.createElement("option"), { value: one })));
});
document.querySelector("[data-find]").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = find.value.trim().toLowerCase();
  const found = picture.ids.find((one) => one.toLowerCase() === text) ?? picture.ids.find((one) => one.toLowerCase().includes(text));
  find.setCustomValidity(found ? "" : "No node is called like this.");
  find.reportValidity();
  if (found) goTo(found);
});
find.addEventListener("input", () => find.setCustomValidity(""));
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-node-link]");
  if (link && goTo(link.dataset.nodeLink)) event.preventDefault();
  const group = event.target.closest("[data-open-group]");
  if (group) openGroup(group.dataset.openGroup);
  if (event.target.closest("[data-close-groups]")) { opened = []; document.getElementById("closing").hidden = true; history.replaceState(null, "", location.pathname); show({}); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.matches("input, textarea, select")) { event.preventDefault(); find.focus(); }
  if (event.key === "Escape" && panel.shown && !document.querySelector("dialog[open]")) panel.close();
});
function fromHash() {
  const found = new URLSearchParams(location.hash.slice(1)).get("node");
  if (found && found !== panel.shown?.id) panel.node(found, { focus: false });
}
window.addEventListener("hashchange", fromHash);
fromHash();
