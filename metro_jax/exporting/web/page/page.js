// What the page's buttons and pointers do.
import { load, look, upright, wholePicture } from "./network.js";
import { Mesh } from "./mesh.js";

const LARGEST = 1600; // pixels of a picture's longer side that are shown
const $ = (id) => document.getElementById(id);
const picture = $("picture"), context = picture.getContext("2d");
let network, mesh, video = null, drag = null;

const say = (text) => ($("status").textContent = text);

function show() {
  $("stage").classList.toggle("turned", mesh.isTurned());
  mesh.draw();
}

function resize(width, height) {
  [picture.width, picture.height] = [width, height];
  mesh.resize(width, height);
  $("stage").style.width = `min(100%, calc((100vh - 7rem) * ${width / height}))`;
}

async function see(frame, looks) {
  const start = performance.now();
  let seen = await look(network, picture, frame);
  for (let n = 1; n < looks; n++) seen = await look(network, picture, upright(network.facts.framing, seen.joints));
  say(`${(performance.now() - start).toFixed(0)} ms`);
  mesh.set(seen.vertices);
  show();
  window.seen = seen; // for the console
  return seen;
}

async function openPicture(file) {
  stopCamera();
  document.body.dataset.state = "working";
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return fail(`${file.name} is no picture that this browser reads`);
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  resize(Math.round(bitmap.width * scale), Math.round(bitmap.height * scale));
  context.drawImage(bitmap, 0, 0, picture.width, picture.height);
  mesh.reset();
  await see(wholePicture(picture.width, picture.height), network.facts.looks);
  document.body.dataset.state = "shown";
}

async function toggleCamera() {
  if (video) return stopCamera();
  const stream = await navigator.mediaDevices.getUserMedia({ video: true }).catch(() => null);
  if (!stream) return fail("no camera, or it was not allowed");
  video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true });
  await video.play();
  $("camera").textContent = "Stop";
  resize(video.videoWidth, video.videoHeight);
  mesh.reset();
  follow();
}

// Each frame's joints say where the next one's square is; one that is lost starts anew.
async function follow() {
  let frame = null;
  while (video) {
    context.drawImage(video, 0, 0);
    const { width, height } = picture;
    const seen = await see(frame || wholePicture(width, height), frame ? 1 : network.facts.looks);
    const { framing } = network.facts, longer = Math.max(width, height);
    frame = framing ? upright(framing, seen.joints) : null;
    if (frame && !(frame.side > longer / 8 && frame.side < 3 * longer && inside(frame.center))) frame = null;
    document.body.dataset.state = "following";
    await new Promise(requestAnimationFrame);
  }
}

const inside = ([x, y]) => x > 0 && y > 0 && x < picture.width && y < picture.height;

function stopCamera() {
  if (!video) return;
  for (const track of video.srcObject.getTracks()) track.stop();
  video = null;
  $("camera").textContent = "Camera";
}

function fail(text) {
  document.body.dataset.state = "failed";
  say(text);
}

function pixel(event) {
  const box = picture.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top].map((v) => (v * picture.width) / box.width);
}

function showBox(from, to) {
  const ratio = picture.getBoundingClientRect().width / picture.width;
  const [left, top] = [0, 1].map((k) => Math.min(from[k], to[k]) * ratio);
  const [width, height] = [0, 1].map((k) => Math.abs(from[k] - to[k]) * ratio);
  Object.assign($("box").style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
  $("box").hidden = false;
}

function begin(event) {
  drag = { box: event.shiftKey && !video, from: pixel(event), at: [event.clientX, event.clientY] };
  $("stage").setPointerCapture(event.pointerId);
}

function move(event) {
  if (!drag) return;
  if (drag.box) return showBox(drag.from, pixel(event));
  mesh.yaw -= (event.clientX - drag.at[0]) * 0.01;
  mesh.pitch += (event.clientY - drag.at[1]) * 0.01;
  drag.at = [event.clientX, event.clientY];
  show();
}

function end(event) {
  if (!drag) return;
  const { box, from } = drag, to = pixel(event);
  drag = null;
  $("box").hidden = true;
  const side = 1.2 * Math.max(Math.abs(from[0] - to[0]), Math.abs(from[1] - to[1]));
  if (!box || side < 16) return;
  mesh.reset();
  see({ center: [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2], side, angle: 0 }, network.facts.looks);
}

function connect() {
  const stage = $("stage");
  $("open").onclick = () => $("file").click();
  $("file").onchange = (event) => event.target.files[0] && openPicture(event.target.files[0]);
  $("camera").onclick = toggleCamera;
  stage.onpointerdown = begin;
  stage.onpointermove = move;
  stage.onpointerup = end;
  stage.ondblclick = () => (mesh.reset(), show());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    mesh.zoom *= Math.exp(-event.deltaY / 600);
    show();
  }, { passive: false });
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) openPicture(event.dataTransfer.files[0]);
  };
}

try {
  network = await load();
  mesh = new Mesh($("mesh"), network.faces);
  connect();
  for (const id of ["open", "camera"]) $(id).disabled = false;
  document.body.dataset.state = "ready";
  say("Open a photograph of one person");
} catch (error) {
  fail(`The network could not be loaded: ${error.message}`);
}
