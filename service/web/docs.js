// The API, readable, from the service's own OpenAPI document.

import { make } from "./dom.js";

const main = document.getElementById("docs");
document.getElementById("try").textContent = `curl -F file=@photo.jpg -F limit=5 ${location.origin}/v1/search`;

const api = await (await fetch("/openapi.json")).json();
const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema ?? {});

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).filter((name) => name !== "null").join(" or ");
  if (schema.const ?? schema.enum) return [schema.const ?? schema.enum].flat().join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.format === "binary" ? "file" : schema.type ?? "any";
}

function notes(schema, required) {
  const limits = [schema.description];
  if (schema.default !== undefined && schema.default !== null) limits.push(`Default ${JSON.stringify(schema.default)}.`);
  if (schema.minimum !== undefined || schema.maximum !== undefined) limits.push(range(schema));
  if (required) limits.push("Required.");
  return limits.filter(Boolean).join(" ");
}

function range({ minimum, maximum }) {
  if (maximum === undefined) return `At least ${minimum}.`;
  return minimum === undefined ? `At most ${maximum}.` : `From ${minimum} to ${maximum}.`;
}

/** Text in which ``code`` is marked as in the docstrings it comes from. */
const prose = (text) =>
  make("p", {}, ...text.split("``").map((part, i) => (i % 2 ? make("code", { textContent: part }) : part)));

function table(caption, rows) {
  const body = make("table", {}, make("caption", { textContent: caption }));
  for (const [name, schema, required] of rows) {
    body.append(make("tr", {}, make("th", { scope: "row" }, make("code", { textContent: name })),
      make("td", { textContent: typeOf(schema) }), make("td", { textContent: notes(schema, required) })));
  }
  return body;
}

function fields(caption, schema) {
  const { properties = {}, required = [] } = resolve(schema);
  const rows = Object.entries(properties).flatMap(([name, field]) => [
    [name, field, required.includes(name)],
    ...Object.entries(resolve(field).properties ?? {}).map(([inner, value]) => [`${name}.${inner}`, value, false]),
  ]);
  return rows.length ? [table(caption, rows)] : [];
}

const byTag = new Map();
for (const [path, operations] of Object.entries(api.paths)) {
  for (const [verb, operation] of Object.entries(operations)) {
    const tag = operation.tags?.[0] ?? "other";
    byTag.set(tag, [...(byTag.get(tag) ?? []), { path, verb, operation }]);
  }
}

for (const tag of ["search", "items", ...byTag.keys()]) {
  const entries = byTag.get(tag);
  if (!entries) continue;
  byTag.delete(tag);
  main.append(make("h2", { textContent: tag[0].toUpperCase() + tag.slice(1) }));
  for (const { path, verb, operation } of entries) {
    const title = make("h3", {}, make("span", { className: "verb", textContent: verb.toUpperCase() }), make("code", { textContent: path }));
    const section = make("section", { className: "operation" }, title, prose(operation.description ?? operation.summary));
    const parameters = operation.parameters ?? [];
    if (parameters.length) {
      section.append(table("Parameters", parameters.map((one) => [one.name, { description: one.description, ...one.schema }, one.required])));
    }
    for (const [type, { schema }] of Object.entries(operation.requestBody?.content ?? {})) section.append(...fields(type, schema));
    section.append(...fields("Answer", operation.responses?.[200]?.content?.["application/json"]?.schema));
    main.append(section);
  }
}
