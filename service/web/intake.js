// Photos given to the page: by picker, camera, drop or paste. Hands files on, and looks at nothing else.

import { $ } from "./dom.js";

/** Call `take(files, add)` whenever photos are given; `add`: beside the photos that are searched from already. */
export function listen(take) {
  let adding = false;
  const open = (input, add) => {
    adding = add;
    $(input).click();
  };
  document.addEventListener("click", ({ target }) => {
    const asked = target.closest?.("[data-pick], [data-camera], [data-add]");
    if (asked) open("camera" in asked.dataset ? "camera" : "file", "add" in asked.dataset);
  });
  for (const input of [$("file"), $("camera")]) {
    input.addEventListener("change", () => {
      const files = [...input.files];
      input.value = ""; // the same photo may be chosen again
      if (files.length) take(files, adding);
    });
  }
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    take(files, false);
  });
  listenToDrops(take);
}

function listenToDrops(take) {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0; // dragenter and dragleave come for every element on the way
  addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth += 1;
    document.body.classList.add("dragging");
  });
  addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) depth = Math.max(0, depth - 1);
    if (!depth) document.body.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    depth = 0;
    document.body.classList.remove("dragging");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (files.length) take(files, false);
  });
}
