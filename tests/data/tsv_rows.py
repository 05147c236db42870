"""Small datasets in METRO's TSV layout, for tests."""

import base64
import json
import pathlib

import cv2
import numpy as np

JOINTS = {"body": 24, "hand": 21}
ROTATIONS = {"body": 72, "hand": 48}


def picture(seed: int, side: int = 48, quality: int = 80) -> bytes:
  """A JPEG of soft noise."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
  image = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
  noise = rng.normal(0, 12, (side, side, 1))
  image = np.clip(image + noise, 0, 255).astype(np.uint8)
  done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
  assert done
  return data.tobytes()


def label(seed: int, kind: str = "body", side: int = 48) -> dict:
  """The object of a label row, all labels present."""
  rng = np.random.default_rng((seed, 1))
  count = JOINTS[kind]
  seen = rng.integers(0, 2, (count, 1))
  joints_2d = np.concatenate([rng.uniform(0, side, (count, 2)), seen], axis=1)
  joints_3d = np.concatenate(
    [rng.normal(0, 0.4, (count, 3)), np.ones((count, 1))], axis=1
  )
  return {
    "center": rng.uniform(side / 3, side / 1.5, 2).tolist(),
    "scale": float(rng.uniform(0.6, 1.2) * side / 200),
    "has_2d_joints": 1,
    "has_3d_joints": 1,
    "has_smpl": 1,
    "2d_joints": [joints_2d.tolist()],
    "3d_joints": [joints_3d.tolist()],
    "pose": rng.normal(0, 0.4, ROTATIONS[kind]).tolist(),
    "betas": rng.normal(0, 1, 10).tolist(),
  }


def key(seed: int) -> str:
  """A key as Human3.6M's."""
  return f"S9_Walking_1.60457274_{seed:06d}.jpg"


def image_row(seed: int, side: int = 48) -> bytes:
  """A row of an .img.tsv file, without its end of line."""
  return key(seed).encode() + b"\t" + base64.b64encode(picture(seed, side))


def label_row(seed: int, found: dict | None = None, kind: str = "body") -> bytes:
  """A row of a .label.tsv file, without its end of line."""
  found = label(seed, kind) if found is None else found
  return key(seed).encode() + b"\t" + json.dumps([found]).encode()


def write(
  folder: pathlib.Path,
  seeds: range,
  stem: str = "train",
  kind: str = "body",
  images: dict[int, bytes] | None = None,
  labels: dict[int, bytes] | None = None,
) -> pathlib.Path:
  """Writes the rows of seeds, some replaced, with a yaml file; gives its path."""
  folder.mkdir(parents=True, exist_ok=True)
  images, labels = images or {}, labels or {}
  rows = [images[s] if s in images else image_row(s) for s in seeds]
  write_rows(folder / f"{stem}.img.tsv", rows)
  rows = [labels[s] if s in labels else label_row(s, kind=kind) for s in seeds]
  write_rows(folder / f"{stem}.label.tsv", rows)
  path = folder / f"{stem}.yaml"
  path.write_text(f"img: {stem}.img.tsv\nlabel: {stem}.label.tsv\nhw: {stem}.hw.tsv\n")
  return path


def write_rows(path: pathlib.Path, rows: list[bytes], index: bool = False) -> None:
  """Writes rows, and if asked the offsets of what was meant to be a row."""
  path.write_bytes(b"".join(row + b"\n" for row in rows))
  if index:
    starts = np.cumsum([0, *(len(row) + 1 for row in rows[:-1])])
    text = "".join(f"{start}\n" for start in starts.tolist())
    path.with_suffix(".lineidx").write_text(text)
