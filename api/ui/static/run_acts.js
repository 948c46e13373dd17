// Acts that lead to another page, or that are tried first: redrive and replan.
import { call, confirmed, Refused, show, toast, toastLater } from "./app.js";

async function redrive(button) {
  const { redrive: address, from, title, text } = button.dataset;
  const reason = await confirmed({ title, text, act: "Redrive", reason: "Why? (may be empty)" });
  if (reason === false) return;
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await call("POST", address, { ...(from && { from: [from] }), ...(reason && { reason }) });
    toastLater(answer.message);
    location.assign(`/ui/runs/${answer.runId}`);
  } catch (error) {
    const place = button.closest("[data-problems]")?.querySelector("[data-problem]");
    if (place && error instanceof Refused) show(place, error.problem);
    else toast(error.message, "bad");
    button.removeAttribute("aria-busy");
  }
}

async function replan(form, how) {
  const place = form.querySelector("[data-problem]");
  show(place, null);
  let patch;
  try { patch = JSON.parse(form.querySelector("#patch").value); } catch (error) { return show(place, { title: `This is no JSON: ${error.message}` }); }
  const reason = form.querySelector("#replan-reason").value;
  try {
    const answer = await call("POST", form.dataset.replan, { patch, dryRun: how === "try", ...(reason && { reason }) });
    const changes = Object.entries(answer.changes ?? {}).map(([what, count]) => `${what}: ${count}`).join(", ");
    if (how !== "try") { form.closest("dialog").close(); toast(answer.message); document.dispatchEvent(new CustomEvent("dalang:changed")); return; }
    const note = document.createElement("p");
    note.className = "note good";
    note.textContent = `${answer.message}. ${changes}`;
    place.replaceChildren(note);
  } catch (error) {
    show(place, error instanceof Refused ? error.problem : { title: error.message });
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-redrive]");
  if (button) redrive(button);
});
document.addEventListener("submit", (event) => {
  if (!event.target.dataset.replan) return;
  event.preventDefault();
  replan(event.target, event.submitter?.value);
});
