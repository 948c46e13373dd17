// A task: what was shown is what is decided. A decision carries the digest of what stood here; if that has changed
// meanwhile, it is refused, and what is different now is shown.
import { Refused, call, show, toastLater } from "./app.js";
import { drawn } from "./diff.js";
import { collect, clear, place } from "./form.js";

const panel = document.querySelector("[data-task]");
const form = panel?.querySelector("[data-decision]");
const problems = form?.querySelector("[data-problem]");

for (const area of panel?.querySelectorAll("[data-before]") ?? []) {
  const diff = area.parentElement.querySelector("[data-diff]");
  area.addEventListener("input", () => diff.replaceChildren(...[drawn(area.dataset.before, area.value)].filter(Boolean)));
}

function json(text, what) {
  try { return JSON.parse(text); } catch (error) { throw { title: `${what}: this is no JSON.`, detail: `${what}: ${error.message}` }; }
}

function changed() {
  const found = {};
  for (const area of panel.querySelectorAll("[data-before]")) {
    if (area.value !== area.dataset.before) found[area.dataset.name] = area.dataset.type === "json" ? json(area.value, area.dataset.name) : area.value;
  }
  return found;
}

function bodyOf(action) {
  const body = { action, digest: panel.dataset.digest };
  const notes = form.querySelector("[data-notes]").value.trim();
  if (notes) body.notes = notes;
  const fields = form.querySelector("[data-form]"), raw = form.querySelector("[data-raw]");
  if (["approve", "reject", "edit", "answer"].includes(action)) {
    if (fields) body.values = collect(fields);
    else if (raw?.value.trim()) body.values = json(raw.value, "Values");
  }
  if (action === "edit") body.outputs = changed();
  if (action === "retry" && Object.keys(changed()).length) body.inputs = changed();
  const outputs = form.querySelector("[data-outputs]")?.value.trim();
  if (action === "skip" && outputs) body.outputs = json(outputs, "Outputs");
  return body;
}

/** Show what of the task is another than when this page was drawn. */
async function showChange(problem) {
  show(problems, problem);
  const now = await call("GET", `/orchestrator/human-tasks/${panel.dataset.task}`);
  const then = JSON.parse(panel.dataset.shown);
  const note = problems.querySelector(".note");
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");
  for (const name of Object.keys(then)) {
    const diff = drawn(text(then[name]), text(now[name]));
    if (!diff) continue;
    const title = document.createElement("h3");
    title.textContent = `${name}, as you saw it and as it is now`;
    note.append(title, diff);
  }
  const again = document.createElement("button");
  again.type = "button";
  again.dataset.again = "";
  again.textContent = "Show it as it is now";
  note.append(again);
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter;
  const action = button?.value;
  if (!action) return;
  const fields = form.querySelector("[data-form]");
  show(problems, null);
  if (fields) clear(fields);
  button.setAttribute("aria-busy", "true");
  try {
    const body = bodyOf(action);
    if (action === "edit" && !Object.keys(body.outputs).length) {
      form.querySelector("details.change").open = true;
      form.querySelector("[data-before]").focus();
      show(problems, { title: "Nothing is changed: change what is proposed, or approve it as it is." });
      return;
    }
    const answer = await call("POST", `/orchestrator/human-tasks/${panel.dataset.task}/complete`, body);
    toastLater(answer.message);
    location.assign("/ui/inbox");
  } catch (error) {
    const problem = error instanceof Refused ? error.problem : error;
    if (problem.status === 409) { await showChange(problem).catch(() => {}); return; }
    const left = fields ? place(fields, problem.problems, error instanceof Refused ? "/values" : "") : problem.problems;
    if (!problem.problems?.length || left?.length) show(problems, { ...problem, problems: left });
  } finally {
    button.removeAttribute("aria-busy");
  }
});

// decided by somebody else meanwhile
document.addEventListener("dalang:refreshed", () => {
  if (!panel || !document.querySelector("[data-ended]") || panel.dataset.over !== undefined) return;
  panel.dataset.over = "";
  for (const one of form.elements) one.disabled = true;
  show(problems, { title: "Somebody else was first: the task is not open any more." });
  const again = document.createElement("button");
  again.type = "button";
  again.dataset.again = "";
  again.textContent = "Show what was decided";
  problems.append(again);
});
