// The page of a run: what came in by events is shown where it belongs, on whichever of its tabs.
import { tellTimes } from "./app.js";
import { hear, refresh } from "./live.js";
import { told } from "./run_picture.js";
import "./run_acts.js";

const { run: id, tab } = document.body.dataset;
const address = `/ui/runs/${id}`;
const types = JSON.parse(document.getElementById("event-types").textContent);

/** Do something at most every `ms`, and once more after the last time it was wanted. */
export function atMost(ms, act) {
  let timer = null, again = false;
  return function want() {
    if (timer) { again = true; return; }
    act();
    timer = setTimeout(() => { timer = null; if (again) { again = false; want(); } }, ms);
  };
}

/** Ask for the head of the page anew and put in what is different. */
async function refreshHead() {
  const answer = await fetch(`${address}/head?tab=${tab}`).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = await answer.text();
  tellTimes(fresh.content);
  const head = document.getElementById("run-head"), next = fresh.content.getElementById("run-head");
  const problem = head.querySelector("[data-problem]");
  next.querySelector("[data-problem]").replaceWith(problem.cloneNode(true));
  const [before, after] = [[...head.children], [...next.children]];
  if (before.length !== after.length) head.replaceChildren(...after);
  else before.forEach((one, at) => { if (one.outerHTML !== after[at].outerHTML && !one.querySelector("details[open]")) one.replaceWith(after[at]); });
  head.dataset.status = next.dataset.status;
  document.dispatchEvent(new CustomEvent("run:head", { detail: next.dataset.status }));
}
const headSoon = atMost(700, refreshHead);
const pageSoon = atMost(1500, () => { if (!document.hidden && ["nodes", "events", "data", "revisions"].includes(tab)) refresh(); });

function happened(data) {
  const event = JSON.parse(data);
  headSoon();
  pageSoon();
  document.dispatchEvent(new CustomEvent("run:event", { detail: event }));
}

if (document.body.dataset.over !== "true") {
  const position = document.body.dataset.position;
  const end = hear(`/orchestrator/runs/${id}/events/stream${position ? `?lastEventId=${position}` : ""}`, Object.fromEntries(types.map((type) => [type, happened])), {
    lost: () => document.body.classList.add("away"),
    back: () => { document.body.classList.remove("away"); document.dispatchEvent(new CustomEvent("run:back")); headSoon(); },
  });
  document.addEventListener("run:head", (event) => { if (["COMPLETED", "FAILED", "CANCELLED"].includes(event.detail)) setTimeout(end, 1000); });
}
document.addEventListener("dalang:changed", headSoon);

setInterval(() => {
  for (const one of document.querySelectorAll("[data-since]")) one.textContent = told(Date.now() - Date.parse(one.dataset.since));
}, 1000);
for (const one of document.querySelectorAll("time.exact")) one.textContent = new Date(one.dateTime).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hour12: false });
document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.drop[open], details.keys[open]")) if (!open.contains(event.target)) open.open = false;
});
