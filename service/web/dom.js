// Small words for making and naming elements. No requests and no state in here.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; text is always text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A button of the page's kind. */
export const button = (textContent, onclick, className = "button small") =>
  make("button", { type: "button", className, textContent, onclick });

/** Path, most general first, as a sentence for people and for screen readers. */
export const pathText = (path) => path.join(" › ");

/** Last part of an id that looks like a path. */
export const shortName = (id) => id.split("/").pop() || id;

export const counted = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** A share in 0..1 as people say it: never 100 % or 0 % where it is not. */
export function percent(share) {
  if (share > 0.99 && share < 1) return "> 99 %";
  if (share > 0 && share < 0.01) return "< 1 %";
  return `${Math.round(100 * share)} %`;
}

/** The first letter large, as at the beginning of a sentence. */
export const capital = (text) => text && text[0].toUpperCase() + text.slice(1);

export function announce(text) {
  $("announce").textContent = text;
}
