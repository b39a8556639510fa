// What went wrong, told above everything else, with a way on where there is one.

import { $, button, capital, make } from "./dom.js";

export const isRetriable = ({ status }) => !(status >= 400 && status < 500) || status === 429 || status === 410;

export function showProblem(error, retry = null) {
  const box = $("problem");
  const text = make("p", {}, make("strong", { textContent: headline(error) }), ` ${capital(error.message)}`);
  if (error.requestId && error.status >= 500) text.append(` (request ${error.requestId})`);
  box.replaceChildren(text);
  if (retry) box.append(button("Try again", retry));
  const close = button("×", hideProblem, "button small close");
  close.setAttribute("aria-label", "Dismiss");
  box.append(close);
  box.hidden = false;
}

export function hideProblem() {
  $("problem").hidden = true;
}

function headline({ status, code }) {
  if (code === "item_not_found") return "This photo is not in the collection.";
  if (code === "node_not_found") return "This group is not there any more.";
  if (code === "read_only") return "Nothing can be changed here.";
  if (code === "stale_cursor") return "The collection has changed meanwhile.";
  if (status === 413) return "That photo is too large.";
  if (status === 415 || code === "undecodable_image" || code === "image_too_small" || code === "empty_file") {
    return "That photo cannot be used.";
  }
  if (status === 422) return "That is not possible.";
  if (status === 429 || status === 503 || status === 504) return "The service is busy.";
  return "That did not work.";
}
