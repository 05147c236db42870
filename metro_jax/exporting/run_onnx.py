"""Runs an exported network on a photograph: NumPy, OpenCV and onnxruntime are enough.

Run:    python run.py photo.jpg [LEFT TOP RIGHT BOTTOM] [--model=model_fp16.onnx]
        Four numbers are a box around the person, in pixels; without them the person is
        taken to fill the picture. Gives photo_mesh.obj and photo_mesh.jpg.
From Python: `predict = run.load(FOLDER)`, then `predict(crops)` gives arrays by name,
        for RGB crops (b, px, px, 3) of the type that model.json names, 0 to 255. A crop
        is a square around the person. Where `looks` is 2, the network sees best what
        `upright` frames by the joints of a first look.
"""

import argparse
import json
import pathlib

import cv2
import numpy as np
import onnxruntime


def load(folder, model="model.onnx"):
  """Reads an export; see the top of this file."""
  options = onnxruntime.SessionOptions()  # threads that wait leave cores to others
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  session = onnxruntime.InferenceSession(pathlib.Path(folder) / model, options)
  names = [output.name for output in session.get_outputs()]
  return lambda crops: dict(
    zip(names, session.run(names, {"images": crops}), strict=True)
  )


def look(predict, facts, image, center, side, angle=0.0):
  """The network's view of a square, turned by `angle`; points_px are the picture's."""
  px = facts["image_px"]
  shrink = max(int(side / px), 1)  # by area, lest fine patterns alias
  size = [-(-length // shrink) for length in image.shape[1::-1]]
  small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink > 1 else image
  ratio = np.divide(image.shape[1::-1], size)
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  linear, offset = px / side * turn, px / 2 - px / side * turn @ center
  across = linear * ratio
  affine = np.column_stack([across, offset + across.sum(1) / 2 - 0.5])
  crop = cv2.warpAffine(small, affine, (px, px)).astype(facts["image_type"])
  made = {name: value[0] for name, value in predict(crop[None]).items()}
  s, *shift = made["camera"]
  for name in ("vertices", "joints"):
    points = made[name]
    in_crop = (s * (points[:, :2] + shift) + 1) * px / 2
    made[f"{name}_px"] = (in_crop - offset) @ np.linalg.inv(linear).T
    made[name] = np.column_stack([points[:, :2] @ turn, points[:, 2]])
  return made


def upright(framing, joints_px):
  """Centre, side and turn of the square that shows the person upright and large."""
  shoulders, hips = (joints_px[framing[k]].mean(0) for k in ("shoulders", "hips"))
  x, y = shoulders - hips
  angle = -np.pi / 2 - np.arctan2(y, x)
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  turned = joints_px @ turn.T
  low, high = turned.min(0), turned.max(0)
  side = max(framing["margin"] * (high - low).max(), framing["least"] * np.hypot(x, y))
  return (low + high) / 2 @ turn, max(side, 1.0), angle


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("picture")
  parser.add_argument("box", nargs="*", type=float, help="left top right bottom")
  parser.add_argument("--model", default="model.onnx")
  options = parser.parse_args()
  folder = pathlib.Path(__file__).parent
  facts, predict = (
    json.loads((folder / "model.json").read_text()),
    load(folder, options.model),
  )
  image = cv2.imread(options.picture)
  if image is None or len(options.box) not in (0, 4):
    parser.error("expected a picture, and four numbers or none")
  height, width = image.shape[:2]
  center, side = np.array([width / 2, height / 2]), max(width, height)
  if options.box:
    corners = np.reshape(options.box, (2, 2))
    center, side = corners.mean(0), 1.2 * (corners[1] - corners[0]).max()
  rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  made = look(predict, facts, rgb, center, side)
  for _ in range(facts["looks"] - 1):
    square = upright(facts["framing"], made["joints_px"])
    made = look(predict, facts, rgb, *square)
  name = pathlib.Path(options.picture).stem
  lines = [f"v {x:.5f} {-y:.5f} {-z:.5f}" for x, y, z in made["vertices"]]
  lines += [f"f {a} {b} {c}" for a, b, c in np.load(folder / "faces.npy") + 1]
  pathlib.Path(f"{name}_mesh.obj").write_text("\n".join(lines) + "\n")
  for x, y in made["vertices_px"]:
    cv2.circle(image, (round(x), round(y)), 1, (240, 180, 80), -1)
  cv2.imwrite(f"{name}_mesh.jpg", image)
  print(f"{name}_mesh.obj and {name}_mesh.jpg; joints in metres:")
  for joint, point in zip(facts["joint_names"], made["joints"], strict=True):
    print(f"{joint:12}", *(f"{value:8.3f}" for value in point))


if __name__ == "__main__":
  main()
