// The inbox: many tasks decided at once, each with the digest of what it showed; each is taken or refused for itself.
import { call, confirmed, toast } from "./app.js";

const bar = document.querySelector("[data-decide]");
const refusals = document.querySelector("[data-refusals]");
const ticked = () => [...document.querySelectorAll("[data-tick]:checked")];
function count() {
  bar.hidden = ticked().length === 0;
  bar.querySelector("[data-chosen]").textContent = String(ticked().length);
}
document.addEventListener("change", (event) => { if (event.target.matches("[data-tick]")) count(); });
document.addEventListener("dalang:refreshed", count);

function told(lines) {
  refusals.replaceChildren();
  if (!lines.length) return;
  const note = document.createElement("div");
  note.className = "note bad";
  for (const [title, message, id] of lines) {
    const line = document.createElement("p");
    const link = document.createElement("a");
    link.href = `/ui/inbox/${id}`;
    link.textContent = title;
    line.append(link, `: ${message}`);
    note.append(line);
  }
  refusals.append(note);
  note.scrollIntoView({ block: "nearest" });
}

bar.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  const chosen = ticked();
  const titles = new Map(chosen.map((one) => [one.dataset.tick, one.dataset.title]));
  const refused = [];
  if (button?.dataset.action) {
    const { action } = button.dataset;
    const names = [...titles.values()].slice(0, 5).join("; ") + (titles.size > 5 ? " …" : "");
    const notes = await confirmed({ title: `${button.textContent.trim()} ${chosen.length}?`, text: names, reason: "Notes", act: button.textContent.trim(), danger: action === "reject" });
    if (notes === false) return;
    for (let at = 0; at < chosen.length; at += 100) {
      const decisions = chosen.slice(at, at + 100).map((one) => ({ taskId: one.dataset.tick, digest: one.dataset.digest, action, ...(notes && { notes }) }));
      try {
        const { results } = await call("POST", "/orchestrator/human-tasks/bulk", { decisions });
        for (const one of results) if (one.code >= 300) refused.push([titles.get(one.taskId), one.message, one.taskId]);
      } catch (error) { toast(error.message, "bad"); return; }
    }
  } else if (button?.dataset.hold) {
    await Promise.all(chosen.map((one) => call("POST", `/orchestrator/human-tasks/${one.dataset.tick}/${button.dataset.hold}`, {}).catch((error) => refused.push([one.dataset.title, error.message, one.dataset.tick]))));
  } else return;
  const done = chosen.length - refused.length;
  if (done) toast(`${button.textContent.trim()}: ${done} of ${chosen.length}.`);
  told(refused);
  for (const one of ticked()) one.checked = false;
  count();
  document.dispatchEvent(new CustomEvent("dalang:changed"));
});
