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

/** A share in 0..1 as people say it: never 100 % or 0 % where it is not. Its spaces do not break. */
export function percent(share) {
  if (share > 0.99 && share < 1) return ">\u00a099\u00a0%";
  if (share > 0 && share < 0.01) return "<\u00a01\u00a0%";
  return `${Math.round(100 * share)}\u00a0%`;
}

/**
 * A node's title as a heading. What a person called it stays; of what the service made up ("like Fruit/a.jpg",
 * "mostly Apple", "everything"), an id is cut to its last part.
 */
export function titleOf({ title, name = null }) {
  if (name !== null) return title;
  if (title.startsWith("like ")) return `Like ${shortName(title.slice(5))}`;
  return title === "everything" || title.startsWith("mostly ") ? capital(title) : title;
}

/** The first letter large, as at the beginning of a sentence. */
export const capital = (text) => text && text[0].toUpperCase() + text.slice(1);

export function announce(text) {
  $("announce").textContent = text;
}
