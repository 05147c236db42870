"""What a row must satisfy to be stored: a whole picture, a box on it, sane numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import simplejpeg

from metro_jax.data import schema
from metro_jax.data.schema import LabelSet

MAX_PIXELS = 100_000_000
MIN_BOX_PX = 1.0
MAX_BOX_PICTURES = 20.0  # sides of a box in sides of its picture
MAX_JOINT_PX = 1e5
MAX_JOINT_M = 100.0  # what is beyond are millimetres
MAX_ANGLE = 100.0
MAX_SHAPE = 100.0


def checker(labels: LabelSet) -> Callable[[Mapping[str, Any]], None]:
  """A function that checks all of an example.

  Args:
    labels: Of bodies or hands.

  Returns:
    A function of an example that raises ValueError, naming the field, what was
    expected and what came.
  """
  bounds = _bounds(labels)
  shapes = schema.example_shapes(labels)
  low, high = (
    np.concatenate([bound[i].ravel() for bound in bounds.values()], dtype=np.float32)
    for i in (0, 1)
  )

  def is_plain(example: Mapping[str, Any]) -> bool:
    """One look at all numbers; what fails it is looked at closely."""
    try:
      for name, shape in shapes.items():
        if example[name].shape != shape:
          return False
      numbers = np.concatenate([example[name] for name in bounds], axis=None)
      return bool(((numbers >= low) & (numbers <= high)).all())
    except (AttributeError, KeyError, TypeError, ValueError):
      return False

  def check(example: Mapping[str, Any]) -> None:
    if not is_plain(example):
      schema.check_example(example, labels)
      _expect_sane(example)
    _expect_types(example)
    _expect_box(example, *picture_size(example["image"]))

  return check


def _bounds(labels: LabelSet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """What the numbers of nearly all examples are between, by field."""
  largest = {"pose": MAX_ANGLE, "shape": MAX_SHAPE}
  shapes = schema.example_shapes(labels)
  bounds = {name: np.full(shapes[name], limit) for name, limit in largest.items()}
  found = {name: (-high, high) for name, high in bounds.items()}
  for name, limit in (("joints_2d_px", MAX_JOINT_PX), ("joints_3d_m", MAX_JOINT_M)):
    low, high = np.full(shapes[name], -limit), np.full(shapes[name], limit)
    low[:, -1], high[:, -1] = 0, 1  # confidences
    found[name] = (low, high)
  return found


def picture_size(jpeg: bytes) -> tuple[int, int]:
  """Decodes a picture at an eighth of its size, in grey, which finds most damage.

  All of the compressed data is read, so a cut file, an unknown code and data left over
  are found; what is skipped is only arithmetic on pixels.

  Args:
    jpeg: The file's bytes.

  Returns:
    Height and width.

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
  return height, width


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


def _expect_sane(example: Mapping[str, Any]) -> None:
  """Refuses finite numbers that no label holds; joints of no confidence may."""
  if example["has_joints_2d"]:
    _expect_below("joints_2d_px", _known(example["joints_2d_px"]), MAX_JOINT_PX)
  if example["has_joints_3d"]:
    _expect_below("joints_3d_m", _known(example["joints_3d_m"]), MAX_JOINT_M)
  if example["has_mesh"]:
    _expect_below("pose", example["pose"], MAX_ANGLE)
    _expect_below("shape", example["shape"], MAX_SHAPE)


def _known(joints: np.ndarray) -> np.ndarray:
  """Coordinates, those of joints without confidence as zeros."""
  return joints[:, :-1] * (joints[:, -1:] > 0)


def _expect_below(name: str, values: np.ndarray, limit: float) -> None:
  largest = np.abs(values).max()
  if not largest <= limit:
    raise ValueError(f"{name}: expected numbers up to {limit:g}, got {largest:g}")
