// Talking to the service: keys, problems, photos that need a key.

const KEY = "lhier-key";
let asking = null;

/** An answer that was not success; `detail` is meant for people. */
export class ProblemError extends Error {
  constructor(status, code, detail, requestId) {
    super(detail);
    Object.assign(this, { status, code, requestId });
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers.set("X-API-Key", key);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ProblemError(0, "unreachable", "The service cannot be reached. Is it still running?");
  }
  if (response.status === 401) {
    await askForKey(key);
    return request(path, options);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ProblemError(
    response.status, problem.code ?? "error", problem.detail ?? `The service answered ${response.status}.`, problem.request_id,
  );
}

// Many requests may find the key missing at once: they share one dialog.
function askForKey(refused) {
  if (refused !== sessionStorage.getItem(KEY)) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const field = document.getElementById("key");
    if (refused !== null) document.getElementById("key-hint").textContent = "That key was not the right one. Try again.";
    field.value = "";
    dialog.oncancel = (event) => event.preventDefault();
    dialog.onclose = () => {
      sessionStorage.setItem(KEY, field.value);
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

const json = async (path, options) => (await request(path, options)).json();
const post = (path, body, signal) =>
  json(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal });
const collectionPath = (name) => `/v1/collections/${encodeURIComponent(name)}`;

export const info = () => json("/v1/info");

/** Path of an item, or of its `image` or `thumbnail`. */
export const itemPath = (collection, id, part = "") =>
  `${collectionPath(collection)}/items/${encodeURIComponent(id)}${part && `/${part}`}`;

export const item = (collection, id, signal) => json(itemPath(collection, id), { signal });

export const randomItems = (collection, limit) =>
  post(`${collectionPath(collection)}/items/scroll`, { limit, order: "random" });

export const searchItem = (collection, id, limit, signal) =>
  post(`${collectionPath(collection)}/search`, { query: { item_id: id }, limit, include: ["path"] }, signal);

export function searchPhoto(collection, photo, limit, signal) {
  const form = new FormData();
  form.append("file", photo, photo.name || "photo");
  form.append("limit", limit);
  form.append("include", "path");
  return json(`${collectionPath(collection)}/search`, { method: "POST", body: form, signal });
}

const observer = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    fetchInto(target);
  }
}, { rootMargin: "300px" });

async function fetchInto(image) {
  try {
    const url = URL.createObjectURL(await (await request(image.dataset.path)).blob());
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
  if (!hasKey()) {
    image.src = path;
    return;
  }
  image.dataset.path = path;
  observer.observe(image);
}
