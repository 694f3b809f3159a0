// Renders the OpenAPI description that this service serves. Everything is put
// into the page as text, never as markup.
"use strict";

(async function () {
  const main = document.getElementById("main");
  const nav = document.getElementById("nav");
  const find = document.getElementById("find");
  let spec;
  try {
    const answer = await fetch("/api/v1/openapi.json");
    if (!answer.ok) throw new Error("status " + answer.status);
    spec = await answer.json();
  } catch (error) {
    document.getElementById("state").textContent = "The description cannot be loaded: " + error.message;
    return;
  }

  function make(tag, options, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options || {})) {
      if (name === "class") element.className = value;
      else if (name === "text") element.textContent = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function resolve(schema) {
    for (let hops = 0; schema && schema.$ref && hops < 10; hops++) {
      schema = spec.components.schemas[schema.$ref.split("/").pop()];
    }
    return schema || {};
  }

  function typeOf(schema) {
    if (!schema) return "any";
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.oneOf) return schema.oneOf.map(typeOf).join(" or ");
    if (schema.type === "array" || (Array.isArray(schema.type) && schema.type.includes("array"))) return "list of " + typeOf(schema.items);
    const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type;
    return (type || "any") + (schema.format ? " (" + schema.format + ")" : "");
  }

  function limits(schema) {
    const parts = [];
    if (schema.enum) parts.push("one of " + schema.enum.join(", "));
    if (schema.minimum !== undefined) parts.push("from " + schema.minimum);
    if (schema.maximum !== undefined) parts.push("to " + schema.maximum);
    if (schema.minLength !== undefined) parts.push("at least " + schema.minLength + " characters");
    if (schema.maxLength !== undefined) parts.push("at most " + schema.maxLength + " characters");
    if (schema.default !== undefined) parts.push("default " + JSON.stringify(schema.default));
    return parts.join("; ");
  }

  function fields(schema, seen) {
    const resolved = resolve(schema);
    if ((resolved.type === "array" || (Array.isArray(resolved.type) && resolved.type.includes("array"))) && resolved.items) return fields(resolved.items, seen);
    const properties = resolved.properties;
    if (!properties || seen.includes(resolved)) return null;
    const list = make("ul", { class: "fields" });
    for (const [name, property] of Object.entries(properties)) {
      const required = (resolved.required || []).includes(name);
      const note = [property.description, limits(property)].filter(Boolean).join(" ");
      const item = make("li", {}, make("code", { text: name }), " ",
        make("span", { class: "hint", text: typeOf(property) + (required ? ", always" : "") + (note ? ": " + note : "") }));
      const inner = fields(property, seen.concat([resolved]));
      if (inner) item.append(inner);
      list.append(item);
    }
    return list;
  }

  function content(title, holder) {
    const out = [];
    for (const [kind, media] of Object.entries(holder.content || {})) {
      out.push(make("h4", { text: title + " (" + kind + ")" }));
      out.push(make("p", { class: "hint", text: typeOf(media.schema) }));
      const inner = fields(media.schema, []);
      if (inner) out.push(inner);
    }
    return out;
  }

  function parameters(list) {
    if (!list || list.length === 0) return [];
    const body = make("tbody");
    for (const p of list) {
      const schema = p.schema || {};
      body.append(make("tr", {},
        make("td", {}, make("code", { text: p.name })),
        make("td", { text: p.in + (p.required ? ", required" : "") }),
        make("td", { text: typeOf(schema) }),
        make("td", { text: [p.description || schema.description, limits(schema)].filter(Boolean).join(" ") })));
    }
    const head = make("thead", {}, make("tr", {}, ...["Parameter", "In", "Type", "Meaning"].map((t) => make("th", { text: t }))));
    return [make("h4", { text: "Parameters" }), make("table", {}, head, body)];
  }

  function example(method, path, operation) {
    const lines = ["curl -X " + method + " " + location.origin + path];
    if (operation.security) lines.push("  -H \"Authorization: Bearer $TOKEN\"");
    if (operation.requestBody) lines.push("  -H 'Content-Type: application/json' -d '{…}'");
    return make("pre", { text: lines.join(" \\\n") });
  }

  function entry(method, path, operation) {
    const inside = make("div", { class: "inside" });
    const box = make("details", { id: operation.operationId || method + path },
      make("summary", {}, make("span", { class: "method " + method, text: method }), make("span", { class: "path", text: path }),
        make("span", { class: "says", text: operation.summary || "" })), inside);
    box.addEventListener("toggle", () => {
      if (!box.open || inside.childElementCount) return;
      if (operation.description) inside.append(make("p", { text: operation.description }));
      inside.append(make("p", { class: "hint", text: "Permission: " + (operation["x-permission"] || "none") }));
      inside.append(...parameters(operation.parameters), ...content("Body", operation.requestBody || {}));
      for (const [status, answer] of Object.entries(operation.responses || {})) {
        inside.append(...content("Answer " + status, answer));
        const headers = Object.keys(answer.headers || {});
        if (headers.length) inside.append(make("p", { class: "hint", text: "Headers: " + headers.join(", ") }));
      }
      inside.append(example(method, path, operation));
    });
    box.dataset.text = [method, path, operation.summary, operation["x-permission"]].join(" ").toLowerCase();
    return box;
  }

  const groups = new Map((spec.tags || []).map((tag) => [tag.name, { tag, entries: [] }]));
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of ["get", "post", "put", "patch", "delete"]) {
      const operation = item[method];
      if (!operation) continue;
      const name = (operation.tags || ["other"])[0];
      if (!groups.has(name)) groups.set(name, { tag: { name }, entries: [] });
      groups.get(name).entries.push(entry(method.toUpperCase(), path, operation));
    }
  }

  main.replaceChildren(...(spec.info.description || "").split("\n\n").map((text) => make("p", { text })));
  for (const { tag, entries } of groups.values()) {
    if (entries.length === 0) continue;
    const id = "tag-" + tag.name.replace(/\W+/g, "-");
    nav.append(make("a", { href: "#" + id, text: tag.name }));
    main.append(make("section", {}, make("h2", { id, text: tag.name }), make("p", { class: "hint", text: tag.description || "" }), ...entries));
  }

  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase().split(/\s+/);
    for (const section of main.querySelectorAll("section")) {
      let any = false;
      for (const box of section.querySelectorAll("details")) {
        box.hidden = !wanted.every((word) => box.dataset.text.includes(word));
        any = any || !box.hidden;
      }
      section.hidden = !any;
    }
  });

  if (location.hash) {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) {
      if (target.tagName === "DETAILS") target.open = true;
      target.scrollIntoView();
    }
  }
})();
