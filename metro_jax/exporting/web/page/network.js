// The exported network in the browser: a square of a picture in, a mesh in its pixels out.
import * as ort from "./ort.wasm.bundle.min.mjs";

export async function load() {
  const threads = navigator.hardwareConcurrency || 1;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(threads, 8) : 1;
  const [facts, faces, session] = await Promise.all([
    fetch("model.json").then((answer) => answer.json()),
    fetch("faces.npy").then((answer) => answer.arrayBuffer()).then(readFaces),
    ort.InferenceSession.create("model_fp16.onnx", { executionProviders: ["wasm"] }),
  ]);
  return { facts, faces, session };
}

// NumPy's format: 10 bytes, the last two the length of the text that follows, then int32.
function readFaces(buffer) {
  const start = 10 + new DataView(buffer).getUint16(8, true);
  return new Uint32Array(buffer.slice(start));
}

export function wholePicture(width, height) {
  return { center: [width / 2, height / 2], side: Math.max(width, height), angle: 0 };
}

// The square that shows the person upright and large, as run.py and the training have it.
export function upright(framing, joints) {
  const mean = (rows) => [0, 1].map((k) => rows.reduce((sum, n) => sum + joints[n][k], 0) / rows.length);
  const shoulders = mean(framing.shoulders), hips = mean(framing.hips);
  const up = [shoulders[0] - hips[0], shoulders[1] - hips[1]];
  const angle = -Math.PI / 2 - Math.atan2(up[1], up[0]);
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  const turned = joints.map(([x, y]) => [c * x - s * y, s * x + c * y]);
  const low = [0, 1].map((k) => Math.min(...turned.map((p) => p[k])));
  const high = [0, 1].map((k) => Math.max(...turned.map((p) => p[k])));
  const extent = Math.max(high[0] - low[0], high[1] - low[1]);
  const [x, y] = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
  const side = Math.max(framing.margin * extent, framing.least * Math.hypot(...up), 1);
  return { center: [c * x + s * y, -s * x + c * y], side, angle };
}

// Sees a square; points are (x, y) in the picture's pixels and depth at the same scale.
export async function look(network, picture, frame) {
  const px = network.facts.image_px, zoom = px / frame.side;
  const [a, b] = [zoom * Math.cos(frame.angle), zoom * Math.sin(frame.angle)];
  const [x, y] = frame.center;
  const offset = [px / 2 - a * x + b * y, px / 2 - b * x - a * y];
  const pixels = crop(picture, [a, b, -b, a, ...offset], px, network.facts.image_type);
  const images = new ort.Tensor(network.facts.image_type, pixels, [1, px, px, 3]);
  const made = await network.session.run({ images });
  const [s, tx, ty] = made.camera.data, perMetre = (s * px) / 2 / zoom;
  const place = (points) => {
    const placed = [];
    for (let n = 0; n < points.length; n += 3) {
      const u = ((s * (points[n] + tx) + 1) * px) / 2 - offset[0];
      const v = ((s * (points[n + 1] + ty) + 1) * px) / 2 - offset[1];
      placed.push([(a * u + b * v) / zoom ** 2, (a * v - b * u) / zoom ** 2, points[n + 2] * perMetre]);
    }
    return placed;
  };
  return { vertices: place(made.vertices.data), joints: place(made.joints.data) };
}

// Bilinear, as in training; of a picture that is much finer, after shrinking it.
function crop(picture, affine, px, type) {
  const finer = Math.max(1, Math.floor(1 / Math.hypot(affine[0], affine[1])));
  const canvas = new OffscreenCanvas(px, px);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, px, px);
  context.imageSmoothingQuality = "low";
  context.setTransform(...affine);
  context.drawImage(finer > 1 ? shrunk(picture, finer) : picture, 0, 0, picture.width, picture.height);
  const { data } = context.getImageData(0, 0, px, px);
  const pixels = new (type === "uint8" ? Uint8Array : Float32Array)(px * px * 3);
  for (let n = 0, m = 0; n < data.length; n += 4) {
    for (let k = 0; k < 3; k++) pixels[m++] = data[n + k];
  }
  return pixels;
}

function shrunk(picture, finer) {
  const [width, height] = [picture.width, picture.height].map((size) => Math.ceil(size / finer));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
}
