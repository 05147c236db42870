"""What a row must satisfy to be stored: a whole picture, a box on it, sane numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import simplejpeg

from metro_jax.data import jpegs, schema
from metro_jax.data.schema import LabelSet

MAX_PIXELS = 100_000_000
MIN_BOX_PX = 1.0
MAX_BOX_PICTURES = 20.0  # sides of a box in sides of its picture
# No human's numbers are beyond; those of labels in other units are.
MAX_EXTENT_M = 4.0  # between two joints, along an axis; arms spread reach 2.8 at most
MAX_BETA = 15.0  # the tallest human ever is 13 of SMPL's standard deviations away
MAX_TURN = 4 * np.pi  # of a joint, twice around


def check(example: Mapping[str, Any], labels: LabelSet) -> None:
  """Checks all of an example.

  Args:
    example: As a reader made it.
    labels: Of bodies or hands.

  Raises:
    ValueError: Naming the field, what was expected and what came.
  """
  schema.check_example(example, labels)
  _expect_types(example)
  _expect_human(example)
  _expect_box(example, *picture_size(example["image"]))


def picture_size(jpeg: bytes) -> tuple[int, int]:
  """Decodes a picture at an eighth of its size, in grey, which finds most damage.

  All of the compressed data is read, so a cut file, an unknown code and data left over
  are found; what is skipped is only arithmetic on pixels.

  Args:
    jpeg: The file's bytes.

  Returns:
    Height and width of the upright picture, which labels are of.

  Raises:
    ValueError: If it is not a whole JPEG, or too large.
  """
  try:
    height, width, space, _ = simplejpeg.decode_jpeg_header(jpeg)
  except ValueError as error:
    raise _broken(jpeg, error) from error
  if height * width > MAX_PIXELS:
    raise ValueError(f"image: expected below 100 megapixels, got {width} x {height}")
  grey = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
  try:
    simplejpeg.decode_jpeg(
      jpeg,
      grey,
      fastdct=True,
      fastupsample=True,
      min_height=1,
      min_width=1,
      min_factor=8,
    )
  except ValueError as error:
    raise _broken(jpeg, error) from error
  return jpegs.upright_size(jpeg, height, width)


def _broken(jpeg: bytes, why: object) -> ValueError:
  return ValueError(f"image: expected a whole JPEG, got {len(jpeg)} bytes: {why}")


def _expect_types(example: Mapping[str, Any]) -> None:
  if not isinstance(example["image"], bytes):
    raise ValueError(f"image: expected bytes, got {type(example['image']).__name__}")
  for name in ("key", "group"):
    value = example.get(name, "")
    if not isinstance(value, str):
      raise ValueError(f"{name}: expected text, got {type(value).__name__}")
    try:
      value.encode()
    except UnicodeEncodeError as error:
      raise ValueError(f"{name}: expected Unicode, got {value!r}") from error
  if not 0 <= example.get("gender", 0) < len(schema.GENDERS):
    raise ValueError(f"gender: expected an index below 3, got {example['gender']}")


def _expect_human(example: Mapping[str, Any]) -> None:
  """Refuses numbers that no human has, most often those of another unit."""
  if example["has_joints_3d"] and _extent(example["joints_3d_m"]) > MAX_EXTENT_M:
    points_m = example["joints_3d_m"]
    known_m = points_m[points_m[:, 3] > 0]
    extent = _extent(known_m) if len(known_m) else 0.0
    _expect_at_most("joints_3d_m", extent, MAX_EXTENT_M, "metres from joint to joint")
  if example["has_mesh"]:
    pose, beta = example["pose"], float(np.abs(example["shape"]).max())
    if np.abs(pose).max() * np.sqrt(3) > MAX_TURN:
      turn = float(np.linalg.norm(pose.reshape(-1, 3), axis=1).max())
      _expect_at_most("pose", turn, MAX_TURN, "radians of a joint")
    _expect_at_most("shape", beta, MAX_BETA, "standard deviations")


def _extent(points: np.ndarray) -> float:
  """The longest side of the box around points, whatever their confidence."""
  low, high = np.minimum.reduce(points), np.maximum.reduce(points)
  return max((high - low)[:3].tolist())


def _expect_at_most(name: str, found: float, limit: float, what: str) -> None:
  if found > limit:
    raise ValueError(f"{name}: expected up to {limit:.3g} {what}, got {found:.4g}")


def _expect_box(example: Mapping[str, Any], height: int, width: int) -> None:
  (x, y), side = np.asarray(example["center_px"]).tolist(), float(example["box_px"])
  largest = MAX_BOX_PICTURES * max(height, width)
  if not MIN_BOX_PX <= side <= largest:
    raise ValueError(
      f"box_px: expected {MIN_BOX_PX:g} to {largest:g} on a picture of {width} x "
      f"{height}, got {side:g}"
    )
  half = side / 2
  if not (-half < x < width + half and -half < y < height + half):
    raise ValueError(
      f"center_px: expected a box on the picture of {width} x {height}, got one of "
      f"{side:g} at {x:g}, {y:g}"
    )
