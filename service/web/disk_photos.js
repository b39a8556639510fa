// Round pictures for the map: fetched a few at a time, the most wanted first, and cut once.

import * as api from "./api.js";

const SIDE = 128;
const AT_ONCE = 6;
const KEPT = 600;

export class Photos {
  #pictures = new Map(); // path -> canvas, or null while it is fetched or where it cannot be had
  #queue = [];
  #busy = 0;
  #arrived;

  /** `arrived()` is called after each picture that came. */
  constructor(arrived) {
    this.#arrived = arrived;
  }

  get(path) {
    return this.#pictures.get(path) ?? undefined;
  }

  /** Fetch these instead of what was wanted before and has not begun. */
  want(paths) {
    this.#queue = paths.filter((path) => !this.#pictures.has(path));
    while (this.#busy < AT_ONCE && this.#queue.length) this.#fetch(this.#queue.shift());
  }

  async #fetch(path) {
    this.#busy += 1;
    this.#pictures.set(path, null);
    try {
      const image = await createImageBitmap(await api.blob(`${path}?size=160`));
      this.#pictures.set(path, round(image));
      image.close();
      // The oldest go first: what is on show was asked for last.
      if (this.#pictures.size > KEPT) this.#pictures.delete(this.#pictures.keys().next().value);
      this.#arrived();
    } catch {
      // No photo: its dot stays.
    }
    this.#busy -= 1;
    if (this.#queue.length) this.want(this.#queue);
  }
}

function round(image) {
  const canvas = document.createElement("canvas");
  canvas.width = SIDE;
  canvas.height = SIDE;
  const context = canvas.getContext("2d");
  context.beginPath();
  context.arc(SIDE / 2, SIDE / 2, SIDE / 2, 0, 2 * Math.PI);
  context.clip();
  const side = Math.min(image.width, image.height);
  context.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, SIDE, SIDE);
  return canvas;
}
