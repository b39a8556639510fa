// Pointer, wheel and keys on the map, as moves of its view.

import { apply, inverse } from "./disk_geometry.js";

const STEP = 0.22; // of the disk, per press of an arrow key
const ZOOM = 1.35;
const CLICK_PX = 5;
const ARROWS = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };

/**
 * Let a person move `view` on `stage`. `on`: `moved()` after each change, `grabbed()` when a gesture begins,
 * `clicked(x, y)`, `centred(point)` with a point of the tree, `reset()`.
 */
export function listen(stage, view, on) {
  const pointers = new Map();
  let travelled = 0;
  const place = ({ clientX, clientY }) => {
    const { left, top } = stage.getBoundingClientRect();
    return [clientX - left, clientY - top];
  };
  const onLabel = ({ target }) => target.closest("button") !== null;

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || onLabel(event)) return;
    stage.setPointerCapture(event.pointerId);
    if (!pointers.size) travelled = 0;
    pointers.set(event.pointerId, place(event));
    on.grabbed();
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    if (others.length) pinch(view, before, now, others[0]);
    else view.drag(view.under(...before), view.under(...now));
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
    on.moved();
  });
  stage.addEventListener("pointerup", (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (travelled < CLICK_PX) on.clicked(...place(event));
  });
  stage.addEventListener("pointercancel", ({ pointerId }) => pointers.delete(pointerId));

  stage.addEventListener("dblclick", (event) => {
    if (onLabel(event)) return;
    event.preventDefault();
    on.centred(apply(inverse(view.isometry), view.under(...place(event))));
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    on.grabbed();
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 24 * event.deltaY : event.deltaY;
    view.zoom(Math.exp(-0.0022 * Math.max(-300, Math.min(300, pixels))), ...place(event));
    on.moved();
  }, { passive: false });

  stage.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in ARROWS) view.drag([0, 0], ARROWS[event.key].map((share) => share / view.magnification));
    else if (event.key === "+" || event.key === "=") view.zoom(ZOOM);
    else if (event.key === "-") view.zoom(1 / ZOOM);
    else if (event.key === "Home" || event.key === "0") on.reset();
    else return;
    event.preventDefault();
    on.moved();
  });
}

/** One finger moves, the other stays: the picture grows by their distance and follows their middle. */
function pinch(view, before, now, other) {
  const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
  const middle = (one) => [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
  view.drag(view.under(...middle(before)), view.under(...middle(now)));
  if (apart(before) > 0) view.zoom(apart(now) / apart(before), ...middle(now));
}

export { ZOOM };
