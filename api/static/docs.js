"use strict";
// Renders openapi.json. Everything is put in as text, never as HTML: what the document says is not trusted.

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

const resolve = (api, schema) => {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.replace("#/", "").split("/").reduce((at, step) => at[step], api);
};

const typeName = (api, schema) => {
  if (!schema) return "any";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    const target = resolve(api, schema);
    return target.enum ? target.enum.join(" | ") : name;
  }
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const options = schema.anyOf || schema.oneOf;
  if (options) return options.map((one) => typeName(api, one)).join(" | ");
  if (schema.type === "array") return `${typeName(api, schema.items)}[]`;
  return schema.format ? `${schema.type} (${schema.format})` : schema.type || "any";
};

const schemaTable = (api, schema) => {
  const target = resolve(api, schema);
  if (!target.properties) return make("p", {}, make("code", {}, typeName(api, schema)));
  const required = new Set(target.required || []);
  const rows = Object.entries(target.properties).map(([name, one]) =>
    make("tr", {},
      make("td", {}, make("code", {}, name), required.has(name) ? make("span", { class: "required" }, " *") : null),
      make("td", {}, typeName(api, one)),
      make("td", {}, one.description || resolve(api, one).description || "")));
  return make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "field"), make("th", {}, "type"), make("th", {}, ""))),
    make("tbody", {}, ...rows));
};

const parametersTable = (api, parameters, inputs) => {
  const rows = parameters.map((parameter) => {
    const field = make("input", { "aria-label": parameter.name, placeholder: parameter.in });
    inputs.push([parameter, field]);
    return make("tr", {},
      make("td", {}, make("code", {}, parameter.name), parameter.required ? make("span", { class: "required" }, " *") : null),
      make("td", {}, typeName(api, parameter.schema)),
      make("td", {}, parameter.description || (parameter.schema || {}).description || ""),
      make("td", {}, field));
  });
  return make("table", {}, make("tbody", {}, ...rows));
};

const example = (api, content) => {
  const target = resolve(api, content.schema);
  return target.examples && target.examples.length ? JSON.stringify(target.examples[0], null, 2) : "{}";
};

const send = async (method, path, inputs, body, media, output) => {
  const headers = {};
  const query = new URLSearchParams();
  let address = path;
  for (const [parameter, field] of inputs) {
    if (field.value === "") continue;
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(field.value));
    else if (parameter.in === "query") query.append(parameter.name, field.value);
    else headers[parameter.name] = field.value;
  }
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body && body.value.trim()) headers["Content-Type"] = media.value;
  const search = query.toString();
  output.textContent = "…";
  try {
    // Relative, so that it works behind a proxy's path prefix, too.
    const response = await fetch(address.slice(1) + (search ? `?${search}` : ""), {
      method: method.toUpperCase(), headers, body: body && body.value.trim() ? body.value : undefined });
    output.textContent = `${response.status} ${response.statusText}\n`;
    const reader = response.body ? response.body.getReader() : null;
    const decoder = new TextDecoder();
    let text = "";
    while (reader) {
      const { done, value } = await reader.read();
      if (done) break;
      text += decoder.decode(value, { stream: true });
      output.textContent = `${response.status} ${response.statusText}\n\n${text.slice(0, 100000)}`;
    }
    if ((response.headers.get("content-type") || "").includes("json")) {
      try {
        text = JSON.stringify(JSON.parse(text), null, 2);
      } catch { /* shown as it came */ }
      output.textContent = `${response.status} ${response.statusText}\n\n${text.slice(0, 100000)}`;
    }
  } catch (error) {
    output.textContent = String(error);
  }
};

const operationCard = (api, path, method, operation) => {
  const inputs = [];
  const card = make("div", {});
  card.append(...(operation.description || "").split("\n\n").map((text) => make("p", {}, text)));
  if (operation.parameters && operation.parameters.length) {
    card.append(make("h3", {}, "Parameters"), parametersTable(api, operation.parameters, inputs));
  }
  let body = null;
  let media = null;
  if (operation.requestBody) {
    const contents = Object.entries(operation.requestBody.content);
    card.append(make("h3", {}, "Body"), schemaTable(api, contents[0][1].schema));
    media = make("select", { "aria-label": "Content-Type" }, ...contents.map(([name]) => make("option", {}, name)));
    body = make("textarea", { "aria-label": "Body", spellcheck: "false" });
    body.value = operation.requestBody.required ? example(api, contents[0][1]) : "";
    card.append(media, body);
  }
  card.append(make("h3", {}, "Answers"));
  for (const [status, response] of Object.entries(operation.responses || {})) {
    const content = Object.entries(response.content || {})[0];
    card.append(make("p", {}, make("code", {}, status), ` ${response.description || ""}`, content ? ` — ${content[0]}` : ""));
    if (content && content[1].schema && /^2/.test(status)) card.append(schemaTable(api, content[1].schema));
  }
  const output = make("pre", { hidden: true, "aria-live": "polite" });
  const button = make("button", { type: "button" }, "Send");
  button.addEventListener("click", () => {
    output.hidden = false;
    send(method, path, inputs, body, media, output);
  });
  card.append(make("h3", {}, "Try it"), button, output);
  return make("details", { class: "operation", id: operation.operationId },
    make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()), make("span", { class: "path" }, path),
      make("span", { class: "summary" }, operation.summary || "")), card);
};

const openTarget = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
};

const render = (api) => {
  document.getElementById("version").textContent = api.info.version;
  document.getElementById("description").textContent = api.info.description.replaceAll("`", "");
  const main = document.getElementById("operations");
  const contents = document.getElementById("contents");
  main.replaceChildren();
  for (const tag of api.tags || []) {
    const cards = [];
    const links = [];
    for (const [path, item] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(item)) {
        if (!(operation.tags || []).includes(tag.name)) continue;
        cards.push(operationCard(api, path, method, operation));
        links.push(make("a", { href: `#${operation.operationId}` }, operation.summary || path));
      }
    }
    if (!cards.length) continue;
    main.append(make("h2", {}, tag.name), make("p", {}, tag.description || ""), ...cards);
    contents.append(make("b", {}, tag.name), ...links);
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();
};

document.getElementById("authorize").addEventListener("submit", (event) => event.preventDefault());
fetch("openapi.json").then((response) => response.json()).then(render).catch((error) => {
  document.getElementById("operations").textContent = `openapi.json cannot be read: ${error}`;
});
