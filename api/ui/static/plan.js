// Starting a run: the REST API judges the inputs; what it has against them stands at their fields.
import { Refused, call, show, toastLater } from "./app.js";
import { clear, collect, place } from "./form.js";

const form = document.querySelector("[data-start]");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = form.querySelector("[data-form]"), raw = form.querySelector("[data-raw]"), problems = form.querySelector("[data-problem]");
  const button = form.querySelector("button.main");
  show(problems, null);
  if (fields) clear(fields);
  button.setAttribute("aria-busy", "true");
  try {
    const body = { planId: form.dataset.plan, planVersion: form.dataset.version, inputs: fields ? collect(fields) : raw ? JSON.parse(raw.value || "{}") : {} };
    const priority = form.querySelector("#priority").value;
    if (priority) body.priority = priority;
    // The same key for the same inputs: pressed twice, it starts once.
    const text = JSON.stringify(body);
    const digest = [...new Uint8Array(await crypto.subtle?.digest("SHA-256", new TextEncoder().encode(text)) ?? [])].map((one) => one.toString(16).padStart(2, "0")).join("").slice(0, 16);
    const answer = await call("POST", "/orchestrator/execute", text, digest ? { "Idempotency-Key": `${form.dataset.key}-${digest}` } : {});
    toastLater(answer.message);
    location.assign(`/ui/runs/${answer.runId}`);
  } catch (error) {
    const problem = error instanceof Refused ? error.problem : { title: "This is no JSON.", detail: error.detail ?? error.message, problems: error.problems };
    const left = fields ? place(fields, problem.problems, error instanceof Refused ? "/inputs" : "") : problem.problems;
    if (!problem.problems?.length || left?.length) show(problems, { ...problem, problems: left });
  } finally {
    button.removeAttribute("aria-busy");
  }
});
