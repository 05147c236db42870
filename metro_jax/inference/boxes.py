"""People's boxes, as a detector gives them, and the pictures that they belong to."""

import os
import pathlib
import sys
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from metro_jax import text_files
from metro_jax.data import names

Corners = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Entry = list[Corners] | str  # boxes, or why they cannot be used
Boxes = dict[str, Entry]  # by the name of the picture
_EXPECTED = "a list of [left, top, right, bottom] with left < right and top < bottom"
_LARGEST = sys.float_info.max
_MOST_SAID = 5


class Matched(NamedTuple):
  """Boxes by picture.

  Attributes:
    entries: Of each picture, its boxes; None where it has no entry.
    absent: A line for each name that means no picture.
  """

  entries: list[Entry | None]
  absent: list[str]


def read(path: str | os.PathLike[str]) -> Boxes:
  """Reads a file of boxes.

  The file is JSON: {"photo.jpg": [[left, top, right, bottom], ...], ...}, in pixels
  of the upright picture. A fifth number of a box, its score, is ignored.

  Returns:
    By name, its boxes, or a text that says why they cannot be used.

  Raises:
    ValueError: If the file cannot be read, is of another form, has a name twice, or no
      good entry.
  """
  place = f"boxes file {path}"
  try:
    content = text_files.read_json(path, unique_keys=True)
  except (OSError, ValueError) as error:
    raise ValueError(f"boxes file {error}") from error
  if not isinstance(content, dict):
    raise ValueError(
      f"{place}: expected an object of lists by picture name, "
      f"got {type(content).__name__}"
    )
  found = {name: _entry(f"{place}, {name}", entry) for name, entry in content.items()}
  refused = [entry for entry in found.values() if isinstance(entry, str)]
  if refused and len(refused) == len(found):
    raise ValueError(refused[0])
  return found


def match(boxes: Boxes, pictures: Sequence[pathlib.Path]) -> Matched:
  """Finds the picture of each name: its path, the end of its path, or its bare name.

  Args:
    boxes: As `read` gives them.
    pictures: Paths.

  Raises:
    ValueError: If a name means several pictures, two names mean one, or all names mean
      none: nobody can say then whose boxes these are.
  """
  found = names.match(boxes, pictures)
  if found.problems:
    raise ValueError(f"boxes: {say(found.problems)}")
  if boxes and not found.places:
    raise ValueError(f"boxes: {say(found.absent)}")
  entries: list[Entry | None] = [None] * len(pictures)
  for name, place in found.places.items():
    entries[place] = boxes[name]
  return Matched(entries, found.absent)


def say(lines: Sequence[str]) -> str:
  """The first few of many lines, as one."""
  more = [f"and {len(lines) - _MOST_SAID:,} more"] if len(lines) > _MOST_SAID else []
  return text_files.printable("; ".join([*lines[:_MOST_SAID], *more]))


def _entry(place: str, boxes: Any) -> Entry:
  if not isinstance(boxes, list):
    return f"{place}: expected {_EXPECTED}, got {text_files.short(boxes)}"
  try:
    return corners(place, boxes)
  except ValueError as error:
    return str(error)


def corners(place: str, boxes: Collection[Any]) -> list[Corners]:
  """Takes boxes as somebody gave them.

  Args:
    place: They come from, for the error.
    boxes: Left, top, right, bottom and perhaps a score each.

  Raises:
    ValueError: If one is no box.
  """
  for box in boxes:
    if not _is_box(box):
      raise ValueError(f"{place}: expected {_EXPECTED}, got {text_files.short(box)}")
  return [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1, *_ in boxes]


def _is_box(box: Any) -> bool:
  return (
    isinstance(box, list | tuple | np.ndarray)
    and len(box) in (4, 5)
    and all(isinstance(x, Real) and not isinstance(x, bool) for x in box)
    and all(abs(x) < _LARGEST for x in box[:4])  # not so of NaN
    and bool(box[0] < box[2])
    and bool(box[1] < box[3])
  )
