"""Photographs to predict from: finding, reading, and the square around a person."""

import json
import os
import pathlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from metro_jax.data import augment
from metro_jax.data.framing import Frame
from metro_jax.rendering.overlay import Box, whole_picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
Corners = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def find(paths: Iterable[str | os.PathLike[str]]) -> list[pathlib.Path]:
  """Lists the pictures that arguments name: files as they are, folders sorted.

  Args:
    paths: Files, or folders whose pictures (by suffix, not of their subfolders) are
      meant.

  Returns:
    Each picture once. A file that does not exist is listed too; reading it says so.

  Raises:
    ValueError: If there is no picture, naming the arguments.
  """
  paths = [pathlib.Path(path) for path in paths]
  found: dict[pathlib.Path, None] = {}
  for path in paths:
    if path.is_dir():
      inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
      found.update(dict.fromkeys(inside))
    else:
      found[path] = None
  if not found:
    named = ", ".join(map(str, paths)) or "nothing"
    raise ValueError(
      f"pictures: expected image files or folders with {' '.join(SUFFIXES)}, "
      f"got {named}"
    )
  return list(found)


def read(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
  """Reads a picture, turned upright as its EXIF data says.

  Returns:
    RGB.

  Raises:
    ValueError: If it cannot be read, naming the file.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise ValueError(f"{path}: {error.strerror or error}") from error
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except cv2.error:
    image = None
  if image is None:
    raise ValueError(f"{path}: expected an image, got {len(data):,} bytes of no such")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_boxes(path: str | os.PathLike[str]) -> dict[str, list[Corners]]:
  """Reads people's boxes, as a detector gives them.

  The file is JSON: {"photo.jpg": [[left, top, right, bottom], ...], ...}, in pixels
  of the upright picture; the names are the pictures' without their folders.

  Raises:
    ValueError: If the file cannot be read or is of another form, naming the picture.
  """
  try:
    content = json.loads(pathlib.Path(path).read_text())
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"boxes file {path}: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(
      f"boxes file {path}: expected an object of lists by picture name, "
      f"got {type(content).__name__}"
    )
  return {name: _check_boxes(path, name, boxes) for name, boxes in content.items()}


def _check_boxes(path, name: str, boxes: object) -> list[Corners]:
  expected = "a list of [left, top, right, bottom] with left < right and top < bottom"
  if not isinstance(boxes, list) or not all(map(_is_box, boxes)):
    raise ValueError(f"boxes file {path}, {name}: expected {expected}, got {boxes!r}")
  return [tuple(map(float, box)) for box in boxes]


def _is_box(box: object) -> bool:
  return (
    isinstance(box, list)
    and len(box) == 4
    and all(isinstance(x, int | float) and np.isfinite(x) for x in box)
    and box[0] < box[2]
    and box[1] < box[3]
  )


def squares(
  height: int, width: int, boxes: Sequence[Corners] | None, scale: float
) -> list[Box]:
  """The squares that the network shall see.

  Args:
    height: Of the picture.
    width: Of the picture.
    boxes: Tight boxes around people; None stands for one person and takes the whole
      picture, padded to a square.
    scale: How much larger than the longer side of a given box its square is.
  """
  if boxes is None:
    return [whole_picture(height, width)]
  return [
    Box((x0 + x1) / 2, (y0 + y1) / 2, scale * max(x1 - x0, y1 - y0))
    for x0, y0, x1, y1 in boxes
  ]


def crop(
  image: UInt8[np.ndarray, "h w 3"], frame: Frame, crop_px: int
) -> UInt8[np.ndarray, "crop_px crop_px 3"]:
  """Cuts a square out, black beyond the picture's border, as in training."""
  turn = augment.identity()._replace(rotation_rad=frame.rotation_rad)
  affine = augment.crop_affine(frame.center_px, frame.side_px, turn, crop_px)
  return augment.crop(image, affine, crop_px)
