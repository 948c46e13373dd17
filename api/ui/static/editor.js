// The editor of plans: what is typed is validated by the server, and each problem stands at its line.
import { Refused, call, show, toastLater } from "./app.js";

const source = document.querySelector("[data-source]");
const gutter = document.querySelector("[data-gutter]");
const list = document.querySelector("[data-list]");
const verdict = document.querySelector("[data-verdict]");
const picture = document.querySelector("[data-picture]");
let marked = new Map(), timer, asked = 0;

function number() {
  const count = source.value.split("\n").length;
  gutter.replaceChildren(...Array.from({ length: count }, (_, at) => {
    const line = document.createElement("li");
    line.textContent = String(at + 1);
    const mark = marked.get(at + 1);
    if (mark) line.className = mark;
    return line;
  }));
  gutter.scrollTop = source.scrollTop;
}

function goTo(line) {
  const lines = source.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  source.focus();
  source.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
  source.scrollTop = Math.max(0, (line - 8) * (source.scrollHeight / lines.length));
}

function tell({ valid, problems, svg }) {
  marked = new Map();
  for (const one of problems) if (one.line && marked.get(one.line) !== "error") marked.set(one.line, one.severity);
  number();
  list.replaceChildren(...problems.map((one) => {
    const item = document.createElement("li");
    item.className = one.severity;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = one.line ? `Line ${one.line}` : one.pointer || "The plan";
    button.onclick = () => goTo(one.line ?? 1);
    const code = document.createElement("code");
    code.textContent = one.code;
    item.append(button, ` ${one.message} `, code);
    return item;
  }));
  if (!problems.length) list.innerHTML = "<li class=quiet>None.</li>";
  const errors = problems.filter((one) => one.severity === "error").length;
  verdict.textContent = valid ? (problems.length ? `Valid, ${problems.length} warned of` : "Valid") : `${errors} ${errors === 1 ? "error" : "errors"}`;
  verdict.className = `badge ${valid ? (problems.length ? "warn" : "good") : "bad"}`;
  source.setAttribute("aria-invalid", String(!valid));
  picture.hidden = !svg;
  if (svg) picture.innerHTML = svg; // drawn by the server, which escapes every name
}

async function check() {
  const mine = ++asked;
  try {
    const found = await call("POST", "/ui/plans/check", source.value, { "Content-Type": "text/plain" });
    if (mine === asked) tell(found);
  } catch (error) { verdict.textContent = error.message; verdict.className = "badge bad"; }
}

source.addEventListener("input", () => { number(); clearTimeout(timer); timer = setTimeout(check, 350); });
source.addEventListener("scroll", () => { gutter.scrollTop = source.scrollTop; });
document.querySelector("[data-store]")?.addEventListener("click", async () => {
  const place = document.querySelector("[data-problem]");
  show(place, null);
  try {
    const media = source.value.trimStart().startsWith("{") ? "application/json" : "application/yaml";
    const stored = await call("POST", "/orchestrator/plans", source.value, { "Content-Type": media });
    toastLater(`${stored.name} ${stored.version} is stored.`);
    location.assign(`/ui/plans/${stored.planId}?version=${encodeURIComponent(stored.version)}`);
  } catch (error) {
    await check();
    show(place, error instanceof Refused ? { ...error.problem, problems: [] } : { title: error.message });
  }
});
number();
check();
