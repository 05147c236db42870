"""Values of labels as they stand in label files: numbers, text, joints.

What a tool did not know it writes as NaN or null. That is no fault of a joint that does
not count; of all else it is, and is named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from metro_jax.text_files import short

NUMBERS = (int, float, type(None))
BOX_PX_PER_SCALE = 200  # METRO, SPIN and MPII give a box's side in these


def numbers(
  name: str, value: Any, *shapes: tuple[int, ...], texts: bool = False
) -> np.ndarray:
  """Numbers of one of some shapes; null among them becomes NaN.

  Args:
    name: Of the field, for messages.
    value: A number or lists of numbers.
    shapes: Which are expected; none lets any be.
    texts: Whether "1.5" is a number, too.

  Returns:
    float64, or whole numbers as they are.

  Raises:
    ValueError: If they are others, with what came.
  """
  try:
    found = np.array(value)
    if found.dtype.kind == "O" and value is not None:
      if all(type(one) in NUMBERS for one in found.flat):
        found = found.astype(np.float64)
    elif texts and found.dtype.kind == "U":
      found = found.astype(np.float64)
  except (ValueError, OverflowError):  # lists of several lengths, 1 and 400 zeros
    found = np.array("")
  if found.dtype.kind not in "fiu" or (shapes and found.shape not in shapes):
    expected = " or ".join(map(str, shapes))
    numeric = found.dtype.kind in "fiu"
    got = f"shape {found.shape}" if numeric else short(value)
    raise ValueError(f"{name}: expected numbers{expected and ' '}{expected}, got {got}")
  return found


def text(fields: Mapping[str, Any], name: str) -> str:
  """A field's text, "" where it is absent.

  Raises:
    ValueError: If it is no text.
  """
  value = fields.get(name, "")
  if not isinstance(value, str) or "\0" in value:
    raise ValueError(f"{name}: expected text, got {short(value)}")
  return value


def identity(value: Any) -> str | None:
  """An id as text, whatever type a tool gave it: 7, 7.0 and "7" are one.

  Returns:
    None if it is none: absent, empty, NaN, a list or an object.
  """
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, bool) or not isinstance(value, str | int | float):
    return None
  return None if value == "" or value != value else str(value)


def known(
  name: str, points: Num[np.ndarray, "n c"], joints: Sequence[str] = ()
) -> Num[np.ndarray, "n c"]:
  """Points with those that do not count, and are not numbers, made zeros.

  Args:
    name: Of the field, for messages.
    points: Coordinates and confidence. A joint does not count if its confidence is 0,
      or if all of it is NaN.
    joints: Their names, for messages.

  Raises:
    ValueError: If a joint that counts has NaN, naming it.
  """
  if np.isfinite(np.add.reduce(points, axis=None)):  # half the time of looking at each
    return points
  missing, points = ~np.isfinite(points), points.copy()
  absent = (points[:, -1] == 0) | np.isnan(points).all(axis=1)
  points[absent & missing.any(axis=1)] = 0
  wrong = np.isnan(points)
  if wrong.any():
    joint, place = np.argwhere(wrong)[0].tolist()
    what = joints[joint] if joints else f"joint {joint}"
    part = "confidence" if place == points.shape[1] - 1 else "coordinates"
    raise ValueError(
      f"{name}: {what}: expected {part} of a joint that counts, got NaN; a joint that "
      "is not known has confidence 0"
    )
  return points
