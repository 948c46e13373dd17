// What every page has: acts sent to the REST API, problems told where they happened, times that stay right.
const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

/** An answer of the API that is no success: its problem+json, or what stands for one. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

/** Call the REST API; return its JSON. Throws Refused. */
export async function call(method, address, body, headers = {}) {
  let response;
  try {
    response = await fetch(address, {
      method,
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        ...(csrf && { "X-Dalang-CSRF": csrf }),
        ...(body !== undefined && { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    });
  } catch {
    throw new Refused({ status: 0, title: "No answer", detail: "Dalang does not answer; nothing was changed. Try again." });
  }
  if (response.status === 401) {
    location.assign(`/ui/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
    return new Promise(() => {});
  }
  const json = (response.headers.get("Content-Type") ?? "").includes("json");
  const content = response.status === 204 ? null : json ? await response.json() : await response.text();
  if (response.ok) return content;
  throw new Refused(json ? content : { status: response.status, title: response.statusText, detail: "" });
}

/** Say something in passing. */
export function toast(text, tone = "") {
  const one = document.createElement("div");
  one.className = `toast ${tone}`;
  one.textContent = text;
  document.getElementById("toasts").append(one);
  setTimeout(() => one.remove(), tone === "bad" ? 9000 : 5000);
}

/** What was just done is told on the page that comes next. */
export function toastLater(text) {
  try { sessionStorage.setItem("dalang-toast", text); } catch { /* then it is not told */ }
}

/** Ask before something happens; return false, or true, or the reason that was given. */
export function confirmed({ title, text = "", act = "Do it", reason = "", danger = false }) {
  const dialog = document.getElementById("ask");
  const field = dialog.querySelector("#ask-reason");
  const area = field.querySelector("textarea");
  dialog.querySelector("#ask-title").textContent = title;
  dialog.querySelector("#ask-text").textContent = text;
  field.hidden = !reason;
  field.querySelector("span").textContent = reason;
  area.value = "";
  const yes = dialog.querySelector("[value=yes]");
  yes.textContent = act;
  yes.className = danger ? "danger" : "main";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? (reason ? area.value : true) : false), { once: true });
  });
}

/** Show a problem in `place`: what is wrong, each error with the field it belongs to. */
export function show(place, problem) {
  place.replaceChildren();
  if (!problem) return;
  const note = document.createElement("div");
  note.className = "note bad";
  note.setAttribute("role", "alert");
  const lines = [problem.detail || problem.title];
  for (const one of problem.problems ?? []) if (!lines[0].includes(one.message)) lines.push(`${one.pointer || one.parameter || ""} ${one.message}`.trim());
  for (const line of lines.slice(0, 20)) {
    const text = document.createElement("p");
    text.textContent = line;
    note.append(text);
  }
  place.append(note);
  note.scrollIntoView({ block: "nearest" });
}

/** Buttons that say what they do: data-call="POST /address", data-body, data-confirm, data-reason, data-done, data-next. */
async function act(button) {
  const { call: what, confirm: title, confirmText: text, reason, done, next } = button.dataset;
  const [method, address] = what.split(" ");
  const body = button.dataset.body ? JSON.parse(button.dataset.body) : reason ? {} : undefined;
  if (title) {
    const answer = await confirmed({ title, text, reason, act: button.textContent.trim(), danger: button.classList.contains("danger") });
    if (answer === false) return;
    if (reason && answer) body.reason = answer;
  }
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await call(method, address, body);
    const told = answer?.message ?? done ?? "Done.";
    if (next) {
      toastLater(told);
      location.assign(next);
    } else {
      toast(told);
      document.dispatchEvent(new CustomEvent("dalang:changed"));
    }
  } catch (error) {
    const place = button.closest("[data-problems]")?.querySelector("[data-problem]");
    if (place && error instanceof Refused) show(place, error.problem);
    else toast(error.message, "bad");
  } finally {
    button.removeAttribute("aria-busy");
  }
}

/** A plain form whose fields are a body: data-send="POST /address"; names are dotted, data-type says number, boolean, json or list. */
function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    let value = field.type === "checkbox" ? field.checked : field.value;
    if (value === "" && field.dataset.keep === undefined) continue;
    if (field.dataset.type === "number") value = Number(value);
    if (field.dataset.type === "json") value = JSON.parse(value);
    if (field.dataset.type === "lines") value = value.split("\n").map((one) => one.trim()).filter(Boolean);
    if (field.dataset.type === "list") value = value.split(",").map((one) => one.trim()).filter(Boolean);
    const steps = field.name.split(".");
    let at = body;
    for (const step of steps.slice(0, -1)) at = at[step] ??= {};
    at[steps.at(-1)] = value;
  }
  return body;
}

async function send(form) {
  const place = form.querySelector("[data-problem]");
  const button = form.querySelector("button:not([type=button])");
  button?.setAttribute("aria-busy", "true");
  try {
    const [method, address] = form.dataset.send.split(" ");
    const body = bodyOf(form);
    const filled = address.replace(/\{(\w+)\}/g, (_, name) => { const value = body[name]; delete body[name]; return encodeURIComponent(value ?? ""); });
    const answer = await call(method, filled, body);
    form.closest("dialog")?.close();
    if (form.dataset.shows) {
      const dialog = document.getElementById(form.dataset.shows);
      dialog.querySelector("[data-answer]").textContent = answer[form.dataset.answer];
      dialog.showModal();
    }
    if (form.dataset.next) { toastLater(form.dataset.done ?? "Done."); location.assign(form.dataset.next); return; }
    if (place) show(place, null);
    toast(form.dataset.done ?? answer?.message ?? "Done.");
    form.reset();
    form.closest("dialog")?.close();
    document.dispatchEvent(new CustomEvent("dalang:changed"));
  } catch (error) {
    const problem = error instanceof Refused ? error.problem : { title: "This is no JSON.", detail: error.message };
    if (place) show(place, problem);
    else toast(problem.detail || problem.title, "bad");
  } finally {
    button?.removeAttribute("aria-busy");
  }
}

/** Open a dialog; data-fill holds what its fields are filled with. */
function open(button) {
  const dialog = document.getElementById(button.dataset.opens);
  for (const [name, value] of Object.entries(JSON.parse(button.dataset.fill ?? "{}"))) dialog.querySelector(`[name="${CSS.escape(name)}"]`).value = value ?? "";
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button, a");
  if (!target) return;
  if (target.dataset.call) { event.preventDefault(); act(target); }
  if (target.dataset.again !== undefined) { event.preventDefault(); location.reload(); }
  if (target.dataset.opens) open(target);
  if (target.dataset.closes !== undefined) target.closest("dialog").close();
  if (target.dataset.copies) navigator.clipboard?.writeText(target.dataset.copies).then(() => toast("Copied."));
  if (target.dataset.menu !== undefined) {
    const open = document.getElementById("navigation").classList.toggle("open");
    target.setAttribute("aria-expanded", String(open));
  }
});
document.addEventListener("submit", (event) => {
  if (event.target.dataset.send) { event.preventDefault(); send(event.target); }
});
document.addEventListener("change", (event) => {
  if (event.target.closest("form[data-at-once]")) event.target.form.requestSubmit();
});

// light, dark, system
const themes = ["system", "light", "dark"];
const shownTheme = () => document.documentElement.dataset.theme ?? "system";
function nameTheme() {
  for (const button of document.querySelectorAll("[data-theme-switch]")) {
    const name = shownTheme()[0].toUpperCase() + shownTheme().slice(1);
    button.querySelector(".theme-name").textContent = name;
    button.setAttribute("aria-label", `Colours: ${name}`);
  }
}
document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
  const next = themes[(themes.indexOf(shownTheme()) + 1) % themes.length];
  try { localStorage.setItem("dalang-theme", next); } catch { /* then it holds for this page */ }
  window.dalangTheme(next);
  nameTheme();
});
nameTheme();

// times
const steps = [[31536000, "y"], [2592000, "mo"], [86400, "d"], [3600, "h"], [60, "min"]];
export function relative(at, now = Date.now()) {
  const seconds = (at - now) / 1000;
  const size = Math.abs(seconds);
  if (size < 45) return seconds <= 0 ? "just now" : "in a moment";
  const [step, unit] = steps.find(([one, name]) => size >= one || name === "min");
  const told = `${Math.max(1, Math.round(size / step))} ${unit}`;
  return seconds > 0 ? `in ${told}` : `${told} ago`;
}
/** Tell the times below `root` anew, each with the visitor's own time zone as its title. */
export function tellTimes(root = document) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    const at = new Date(one.dateTime);
    const told = relative(at.getTime());
    if (one.textContent !== told) one.textContent = told;
    one.title = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  }
}
tellTimes();
setInterval(tellTimes, 20_000);

try {
  const told = sessionStorage.getItem("dalang-toast");
  if (told) { sessionStorage.removeItem("dalang-toast"); toast(told); }
} catch { /* no storage */ }
