// Lists: choosing rows and doing one thing with each, and views that somebody keeps in this browser.
import { call, confirmed, toast } from "./app.js";

const bar = document.querySelector("[data-bulk]");
const chosen = () => [...document.querySelectorAll("[data-tick]:checked")].map((one) => one.dataset.tick);
function count() {
  if (!bar) return;
  bar.hidden = chosen().length === 0;
  bar.querySelector("[data-chosen]").textContent = String(chosen().length);
}
document.addEventListener("change", (event) => { if (event.target.matches("[data-tick]")) count(); });
document.addEventListener("dalang:refreshed", count);
bar?.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-each]");
  if (!button) return;
  const ids = chosen();
  if (button.dataset.confirm && !(await confirmed({ title: button.dataset.confirm, text: `${ids.length} chosen. ${button.dataset.confirmText ?? ""}`, act: button.textContent.trim(), danger: true }))) return;
  const [method, address] = button.dataset.each.split(" ");
  const refused = [];
  for (let at = 0; at < ids.length; at += 5) {
    await Promise.all(ids.slice(at, at + 5).map((id) => call(method, address.replace("{}", id), {}).catch((error) => refused.push(error.message))));
  }
  const done = ids.length - refused.length;
  if (done) toast(`${button.textContent.trim()}: ${done} of ${ids.length}.`);
  if (refused.length) toast(`${refused.length} refused: ${refused[0]}`, "bad");
  for (const tick of document.querySelectorAll("[data-tick]:checked")) tick.checked = false;
  count();
  document.dispatchEvent(new CustomEvent("dalang:changed"));
});

// views
const place = document.querySelector("[data-views]");
const key = place && `dalang-views-${place.dataset.views}`;
const kept = () => { try { return JSON.parse(localStorage.getItem(key) ?? "[]"); } catch { return []; } };
const keep = (views) => { try { localStorage.setItem(key, JSON.stringify(views)); } catch { toast("This browser keeps nothing.", "bad"); } };
function showViews() {
  if (!place) return;
  for (const old of place.parentElement.querySelectorAll("[data-view]")) old.remove();
  for (const view of kept()) {
    const link = document.createElement("a");
    link.href = location.pathname + view.query;
    link.textContent = view.name;
    link.dataset.view = "";
    if (location.search === view.query) {
      link.setAttribute("aria-current", "page");
      const drop = document.createElement("button");
      drop.type = "button";
      drop.className = "plain slim";
      drop.dataset.view = "";
      drop.textContent = "Forget this view";
      drop.onclick = () => { keep(kept().filter((one) => one.query !== view.query)); showViews(); };
      place.before(link, drop);
    } else place.before(link);
  }
}
showViews();
const keeper = document.querySelector("[data-keep-view]");
if (keeper && !kept().some((one) => one.query === location.search)) {
  keeper.hidden = false;
  keeper.onclick = () => {
    const words = [...new URLSearchParams(location.search)].filter(([, value]) => value).map(([name, value]) => document.querySelector(`option[value="${CSS.escape(value)}"]:checked`)?.textContent ?? value);
    keep([...kept(), { name: words.join(", ").slice(0, 40) || "View", query: location.search }].slice(-20));
    keeper.hidden = true;
    showViews();
  };
}
