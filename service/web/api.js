// Talking to the service: requests, problems, photos that need a key.

import { askForKey, keyOf } from "./keys.js";

/** An answer that was not success; `detail` is meant for people. */
export class ProblemError extends Error {
  constructor(status, code, detail, requestId) {
    super(detail);
    Object.assign(this, { status, code, requestId });
  }
}

async function send(path, options, key) {
  const headers = new Headers(options.headers);
  if (key !== null) headers.set("X-API-Key", key);
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(0, "unreachable", "The service cannot be reached. Is it still running?");
  }
}

async function request(path, options = {}) {
  const key = keyOf("read");
  const response = await send(path, options, key);
  if (response.status === 401) {
    await askForKey("read", key);
    return request(path, options);
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

/** A change: with the write key, which is asked for when the service wants one. Null when that was called off. */
async function change(path, options) {
  const key = keyOf("write");
  const response = await send(path, options, key ?? keyOf("read"));
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (response.status !== 401 && problem.code !== "forbidden") throw problem;
  return (await askForKey("write", key)) ? change(path, options) : null;
}

async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  const detail = problem.detail ?? `The service answered ${response.status}.`;
  return new ProblemError(response.status, problem.code ?? "error", detail, problem.request_id);
}

const json = async (path, options) => (await request(path, options)).json();
const asJson = (body) => ({ body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
const post = (path, body, signal) => json(path, { method: "POST", ...asJson(body), signal });
const collectionPath = (name) => `/v1/collections/${encodeURIComponent(name)}`;
const treePath = (name, rest) => `${collectionPath(name)}/hierarchy/${rest}`;
const nodePath = (name, id) => treePath(name, `nodes/${encodeURIComponent(id)}`);
const given = (options) => Object.entries(options).filter(([, value]) => value !== null && value !== undefined);

export const info = () => json("/v1/info");

/** Path of an item, or of its `image` or `thumbnail`. */
export const itemPath = (collection, id, part = "") =>
  `${collectionPath(collection)}/items/${encodeURIComponent(id)}${part && `/${part}`}`;

export const item = (collection, id, signal) => json(itemPath(collection, id), { signal });

export const randomItems = (collection, limit) =>
  post(`${collectionPath(collection)}/items/scroll`, { limit, order: "random" });

/** A page of hits; `options` as the API has them, those that are null left out. */
export const search = (collection, options, signal) =>
  post(`${collectionPath(collection)}/search`, { ...Object.fromEntries(given(options)), include: ["path", "thumbnail"] }, signal);

/** Points of photos, each a result of its own. */
export function embed(files, signal) {
  const form = new FormData();
  for (const file of files) form.append("file", file, file.name || "photo");
  return json("/v1/embeddings", { method: "POST", body: form, signal });
}

export const nodes = (collection, options, signal) =>
  json(treePath(collection, `nodes?${new URLSearchParams(given(options))}`), { signal });
export const node = (collection, id, signal) => json(nodePath(collection, id), { signal });
export const nodeItems = (collection, id, options, signal) =>
  json(`${nodePath(collection, id)}/items?${new URLSearchParams(given(options))}`, { signal });
export const projection = (collection, options, signal) =>
  json(treePath(collection, `projection?${new URLSearchParams(given(options))}`), { signal });
export const ancestors = (collection, query, signal) => post(treePath(collection, "ancestors"), { query }, signal);
export const commonAncestor = (collection, queries, signal) =>
  post(treePath(collection, "common-ancestor"), { queries }, signal);
export const zoom = (collection, query, levels, limit, signal) =>
  post(treePath(collection, "zoom"), { query, levels, limit }, signal);

/** Name a node, or take its name away with null; null when it was called off. */
export async function rename(collection, id, name) {
  const response = await change(nodePath(collection, id), { method: "PATCH", ...asJson({ name }) });
  return response && response.json();
}

/** A photo of the service as a blob. */
export const blob = async (path, signal) => (await request(path, { signal })).blob();

const observer = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    fetchInto(target);
  }
}, { rootMargin: "300px" });

async function fetchInto(image) {
  try {
    const url = URL.createObjectURL(await blob(image.dataset.path));
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

/** Show the photo at `path` in `image`: an <img> cannot send a key, so with one it is fetched when it comes near. */
export function load(image, path) {
  image.loading = "lazy";
  image.decoding = "async";
  if (keyOf("read") === null) {
    image.src = path;
    return;
  }
  image.dataset.path = path;
  observer.observe(image);
}
