// A page that stays right: the server says that something changed, the page is asked for again, and what differs is put in.
import { tellTimes, toast } from "./app.js";

/** Hear a stream of the server; it is opened again whenever it breaks, later each time. Returns how to end it. */
export function hear(address, events, { lost, back } = {}) {
  let source, wait = 1000, timer, ended = false, away = false;
  const open = () => {
    source = new EventSource(address);
    source.onopen = () => { wait = 1000; if (away) { away = false; back?.(); } };
    for (const [name, heard] of Object.entries(events)) source.addEventListener(name, (event) => heard(event.data, event));
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED || ended) { if (!away) { away = true; lost?.(); } return; }
      if (!away) { away = true; lost?.(); }
      timer = setTimeout(open, wait);
      wait = Math.min(wait * 2, 30_000);
    };
  };
  open();
  return () => { ended = true; clearTimeout(timer); source.close(); };
}

/** Put `fresh` in the place of `old`, keeping rows that are the same, and what somebody does in them. */
function put(old, fresh) {
  const rows = old.querySelectorAll(":scope [data-key]");
  if (!rows.length || !fresh.querySelector("[data-key]")) {
    if (old.outerHTML !== fresh.outerHTML) old.replaceWith(fresh);
    return;
  }
  const known = new Map([...rows].map((row) => [row.dataset.key, row]));
  for (const row of fresh.querySelectorAll("[data-key]")) {
    const before = known.get(row.dataset.key);
    if (!before) { row.classList.add("new"); continue; }
    const tick = before.querySelector("[data-tick]");
    const same = row.querySelector("[data-tick]");
    if (tick && same) same.checked = tick.checked;
    if (before.contains(document.activeElement)) {
      const focus = document.activeElement.getAttribute("href") ?? document.activeElement.dataset.tick;
      requestAnimationFrame(() => (row.querySelector(`[href="${CSS.escape(focus ?? "")}"]`) ?? row.querySelector("[data-tick]"))?.focus());
    }
  }
  old.replaceWith(fresh);
}

let asking = false, again = false;
/** Ask for this page anew and put in what changed; elements with data-live are the parts that may. */
export async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const response = await fetch(location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (response.ok && !response.redirected) {
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      tellTimes(fresh);
      for (const old of document.querySelectorAll("[data-live]")) {
        const one = fresh.querySelector(`[data-live="${CSS.escape(old.dataset.live)}"]`);
        if (one) put(old, document.importNode(one, true));
      }
      if (document.title !== fresh.title) document.title = fresh.title;
      document.dispatchEvent(new CustomEvent("dalang:refreshed"));
    }
  } catch { /* the server is away; the stream says when it is back */ }
  asking = false;
  if (again) { again = false; setTimeout(refresh, 500); }
}
document.addEventListener("dalang:changed", refresh);

// A tab that nobody looks at hears nothing: a browser has six connections to a server for all its tabs together.
const { topic } = document.body.dataset;
let seen, stop;
function listen() {
  stop ??= hear(`/ui/live/${topic}`, { changed: (version) => { if (seen !== undefined && seen !== version) refresh(); seen = version; } }, {
    lost: () => { document.getElementById("away").hidden = false; },
    back: () => { document.getElementById("away").hidden = true; refresh(); },
  });
}
if (topic) {
  if (!document.hidden) listen();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { stop?.(); stop = undefined; return; }
    listen();
    refresh();
  });
}
const every = Number(document.body.dataset.every ?? 0);
if (every) setInterval(() => { if (!document.hidden && !document.querySelector("dialog[open]")) refresh(); }, every * 1000);
export { toast };
