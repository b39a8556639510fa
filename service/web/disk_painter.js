// The map on a canvas: edges as arcs, dots, photos. Where things are and what is shown, the scene has worked out.

import { geodesic } from "./disk_geometry.js";

const TURN = 2 * Math.PI;

/** Paint `scene` as `view` shows it; `photoOf(i)` gives a round picture or undefined; `inks` the colours. */
export function paint(context, scene, view, photoOf, inks) {
  const { width, height, scale } = view;
  context.clearRect(0, 0, width, height);
  context.beginPath();
  context.arc(width / 2, height / 2, scale, 0, TURN);
  context.fillStyle = inks.disk;
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = inks.rim;
  context.stroke();
  paintEdges(context, scene, view, inks);
  paintDots(context, scene, view, inks);
  paintPhotos(context, scene, photoOf, inks);
  if (scene.pin >= 0) paintPin(context, scene, inks);
}

// Edges of one colour and width are one path: a stroke costs more than an arc.
function paintEdges(context, scene, view, inks) {
  const batches = new Map();
  for (let i = 1; i < scene.points.length; i += 1) {
    const parent = scene.parents[i];
    if (parent < 0 || !nearScreen(scene, view, i, parent)) continue;
    const isRoute = scene.route.has(i);
    const weight = isRoute ? 3.5 : i < scene.numNodes ? 1.6 : 0.6;
    const key = isRoute ? -2 : scene.branches[i] + 20 * (i < scene.numNodes);
    if (!batches.has(key)) {
      batches.set(key, { path: new Path2D(), weight, ink: isRoute ? inks.accent : inks.branches[scene.branches[i]] ?? inks.rim });
    }
    addEdge(batches.get(key).path, scene, view, i, parent);
  }
  const order = [...batches].sort(([, one], [, other]) => one.weight - other.weight);
  for (const [, { path, weight, ink }] of order) {
    context.lineWidth = weight;
    context.strokeStyle = ink;
    context.globalAlpha = weight < 1 ? 0.4 : weight > 3 ? 1 : 0.7;
    context.stroke(path);
  }
  context.globalAlpha = 1;
}

function nearScreen(scene, { width, height }, i, parent) {
  const beyond = (first, second, most) => (first < -40 && second < -40) || (first > most + 40 && second > most + 40);
  return !beyond(scene.screenX[i], scene.screenX[parent], width) && !beyond(scene.screenY[i], scene.screenY[parent], height);
}

function addEdge(path, scene, { width, height, scale }, i, parent) {
  const fromX = scene.screenX[parent];
  const fromY = scene.screenY[parent];
  path.moveTo(fromX, fromY);
  // Over a few pixels an arc is a line.
  const long = Math.abs(scene.screenX[i] - fromX) + Math.abs(scene.screenY[i] - fromY) > 12;
  const arc = long ? geodesic([scene.diskX[parent], scene.diskY[parent]], [scene.diskX[i], scene.diskY[i]]) : null;
  if (arc === null) path.lineTo(scene.screenX[i], scene.screenY[i]);
  else path.arc(width / 2 + arc.x * scale, height / 2 + arc.y * scale, arc.radius * scale, arc.from, arc.to, arc.anticlockwise);
}

function paintDots(context, scene, { width, height }, inks) {
  const paths = new Map();
  for (let i = 0; i < scene.points.length; i += 1) {
    if (scene.alpha[i] === 1) continue;
    const x = scene.screenX[i];
    const y = scene.screenY[i];
    if (x < 0 || y < 0 || x > width || y > height) continue;
    const isNode = i < scene.numNodes;
    const size = Math.max(1, Math.min(isNode ? 6 : 3.5, scene.radius[i] * (isNode ? 0.28 : 0.2)));
    const key = scene.branches[i];
    if (!paths.has(key)) paths.set(key, new Path2D());
    const path = paths.get(key);
    path.moveTo(x + size, y);
    path.arc(x, y, size, 0, TURN);
  }
  for (const [branch, path] of paths) {
    context.fillStyle = inks.branches[branch] ?? inks.muted;
    context.fill(path);
  }
}

function paintPhotos(context, scene, photoOf, inks) {
  for (let i = scene.points.length - 1; i >= 0; i -= 1) {
    if (scene.alpha[i] === 0) continue;
    const picture = photoOf(i);
    if (!picture) continue;
    const isNode = i < scene.numNodes;
    const radius = scene.radius[i] * (0.7 + 0.3 * scene.alpha[i]);
    context.globalAlpha = scene.alpha[i];
    context.drawImage(picture, scene.screenX[i] - radius, scene.screenY[i] - radius, 2 * radius, 2 * radius);
    context.beginPath();
    context.arc(scene.screenX[i], scene.screenY[i], radius, 0, TURN);
    const isMarked = i === scene.chosen || i === scene.focused;
    context.lineWidth = isMarked ? 4 : isNode ? Math.max(1.5, radius / 12) : 1;
    context.strokeStyle = isMarked ? inks.accent : inks.branches[scene.branches[i]] ?? inks.muted;
    context.stroke();
  }
  context.globalAlpha = 1;
}

function paintPin(context, scene, inks) {
  const x = scene.screenX[scene.pin];
  const y = scene.screenY[scene.pin];
  const radius = (scene.alpha[scene.pin] ? scene.radius[scene.pin] : 7) + 5;
  context.beginPath();
  context.arc(x, y, radius, 0, TURN);
  context.lineWidth = 3.5;
  context.strokeStyle = inks.accent;
  context.stroke();
  context.beginPath();
  context.arc(x, y, radius + 4, 0, TURN);
  context.lineWidth = 1.5;
  context.stroke();
}
