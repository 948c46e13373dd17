// Forms from JSON Schemas: their value as JSON, and problems of the REST API at the fields that they are about.

const scalar = (kind, text) => {
  if (kind === "number" || kind === "integer") return Number(text);
  if (kind === "choice") return JSON.parse(text);
  return text;
};

function valueOf(field) {
  const { kind } = field.dataset;
  if (kind === "boolean") return field.checked || field.dataset.untouched === undefined ? field.checked : undefined;
  if (kind === "choices") return [...field.querySelectorAll("input:checked")].map((one) => JSON.parse(one.value));
  if (kind === "list") {
    const found = [...field.querySelectorAll("[data-row] :is(input, select, textarea)")].filter((one) => one.value !== "").map((one) => scalar(field.dataset.element, one.value));
    return found.length || field.dataset.required !== undefined ? found : undefined;
  }
  if (field.value === "") return undefined;
  if (kind === "json") return JSON.parse(field.value);
  if (kind === "moment") return new Date(field.value).toISOString();
  return scalar(kind, field.value);
}

/** The value of the form in `root`. Throws {problems} where a field holds no JSON. */
export function collect(root) {
  const value = {};
  for (const field of root.querySelectorAll("[data-pointer]")) {
    const { pointer, kind } = field.dataset;
    if (field.parentElement.closest("[data-kind=list], template")) continue;
    let found;
    try {
      found = kind === "object" ? (field.dataset.required !== undefined ? {} : undefined) : valueOf(field);
    } catch (error) {
      throw { detail: "A field holds no JSON.", problems: [{ pointer, message: `This is no JSON: ${error.message}` }] };
    }
    if (found === undefined) continue;
    const steps = pointer.slice(1).split("/").map((one) => one.replaceAll("~1", "/").replaceAll("~0", "~"));
    let at = value;
    for (const step of steps.slice(0, -1)) at = at[step] ??= {};
    if (!(kind === "object" && steps.at(-1) in at)) at[steps.at(-1)] = found;
  }
  return value;
}

export function clear(root) {
  for (const one of root.querySelectorAll(".wrong[data-of]")) one.remove();
  for (const one of root.querySelectorAll("[aria-invalid], fieldset[aria-describedby]")) {
    one.removeAttribute("aria-invalid");
    const hint = document.getElementById(`${one.id}-hint`);
    if (hint) one.setAttribute("aria-describedby", hint.id); else one.removeAttribute("aria-describedby");
  }
}

/** Show problems at their fields, below `prefix`; return those that have none. */
export function place(root, problems, prefix = "") {
  clear(root);
  const left = [];
  let first;
  for (const one of problems ?? []) {
    let pointer = one.pointer ?? "";
    if (pointer !== prefix && !pointer.startsWith(`${prefix}/`)) { left.push(one); continue; }
    pointer = pointer.slice(prefix.length);
    const named = /^`([^`]+)` is missing/.exec(one.message ?? "");
    let field = named && root.querySelector(`[data-pointer="${CSS.escape(`${pointer}/${named[1]}`)}"]`);
    let text = field ? "This is needed." : one.message;
    for (let at = pointer; !field && at; at = at.slice(0, at.lastIndexOf("/"))) field = root.querySelector(`[data-pointer="${CSS.escape(at)}"]`);
    if (!field) { left.push(one); continue; }
    const told = document.createElement("p");
    told.className = "wrong";
    told.dataset.of = "";
    told.id = `${field.id || `f${Math.random().toString(36).slice(2)}`}-wrong`;
    told.textContent = text;
    if (field.matches("fieldset")) field.append(told); else field.closest(".field").append(told);
    if (!field.matches("fieldset")) field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", told.id);
    first ??= field;
  }
  (first?.matches("fieldset") ? first.querySelector("input, select, textarea, button") : first)?.focus();
  return left;
}

document.addEventListener("click", (event) => {
  const add = event.target.closest("[data-add]");
  if (add) {
    const list = add.closest("fieldset");
    const row = list.querySelector("template").content.firstElementChild.cloneNode(true);
    const control = row.querySelector("input, select, textarea");
    control.setAttribute("aria-label", `${list.querySelector("legend").textContent.replace("*", "").trim()}, another one`);
    list.querySelector("[data-rows]").append(row);
    control.focus();
  }
  event.target.closest("[data-drop]")?.closest("[data-row]").remove();
});
document.addEventListener("change", (event) => { delete event.target.dataset?.untouched; });
