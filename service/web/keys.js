// The keys a person gave: kept in this tab only, asked for once however many requests find one missing.

const NAMES = { read: "lhier-key", write: "lhier-write-key" };
const TEXTS = {
  read: ["This service asks for a key", "It is kept in this tab only, until you close it."],
  write: ["Changing something asks for the write key", "It is kept in this tab only, and sent with changes alone."],
};
let asking = null;

export const keyOf = (kind) => sessionStorage.getItem(NAMES[kind]);

/**
 * Have a key other than `refused` (null: none was sent). False when the person would rather not: only a change can
 * be called off, for without a read key there is nothing to show.
 */
export async function askForKey(kind, refused) {
  while (asking) await asking;
  if (refused !== keyOf(kind)) return true;
  asking = opened(kind, refused);
  try {
    return await asking;
  } finally {
    asking = null;
  }
}

function opened(kind, refused) {
  const dialog = document.getElementById("key-dialog");
  const field = document.getElementById("key");
  const [title, hint] = TEXTS[kind];
  document.getElementById("key-title").textContent = title;
  document.getElementById("key-hint").textContent =
    refused === null ? hint : "That key was not the right one. Try again.";
  const cancel = document.getElementById("key-cancel");
  cancel.hidden = kind === "read";
  cancel.onclick = () => dialog.close("cancelled");
  field.value = "";
  dialog.returnValue = "";
  dialog.oncancel = (event) => {
    event.preventDefault();
    if (kind === "write") dialog.close("cancelled");
  };
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const given = dialog.returnValue !== "cancelled";
      if (given) sessionStorage.setItem(NAMES[kind], field.value);
      field.value = "";
      resolve(given);
    };
    dialog.showModal();
  });
}
