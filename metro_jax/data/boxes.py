"""People's boxes, as a detector gives them, and the pictures that they belong to."""

import json
import os
import pathlib
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from metro_jax import files

Corners = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Entry = list[Corners] | str  # boxes, or why they cannot be used
Boxes = dict[str, Entry]  # by the name of the picture
_EXPECTED = "a list of [left, top, right, bottom] with left < right and top < bottom"
_LARGEST = sys.float_info.max
_MOST_NAMED = 5


class Matched(NamedTuple):
  """Boxes by picture.

  Attributes:
    entries: Of each picture, its boxes; None where it has no entry.
    unused: Names that fit no picture.
  """

  entries: list[Entry | None]
  unused: list[str]


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
  try:
    text = pathlib.Path(path).read_text()
    content = json.loads(text, object_pairs_hook=_without_doubles)
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f"boxes file {path}: {error}") from error
  if not isinstance(content, dict):
    raise ValueError(
      f"boxes file {path}: expected an object of lists by picture name, "
      f"got {type(content).__name__}"
    )
  found = {name: _entry(f"boxes file {path}, {name}", e) for name, e in content.items()}
  refused = [entry for entry in found.values() if isinstance(entry, str)]
  if refused and len(refused) == len(found):
    raise ValueError(refused[0])
  return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  content = dict(pairs)
  if len(content) < len(pairs):
    names = [name for name, _ in pairs]
    double = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"expected each name once, got {double!r} several times")
  return content


def _entry(place: str, boxes: Any) -> Entry:
  if not isinstance(boxes, list):
    return f"{place}: expected {_EXPECTED}, got {_short(boxes)}"
  for box in boxes:
    if not _is_box(box):
      return f"{place}: expected {_EXPECTED}, got {_short(box)}"
  return [tuple(map(float, box[:4])) for box in boxes]


def _is_box(box: Any) -> bool:
  return (
    isinstance(box, list)
    and len(box) in (4, 5)
    and all(isinstance(x, int | float) and not isinstance(x, bool) for x in box)
    and all(abs(x) < _LARGEST for x in box[:4])  # not so of NaN
    and box[0] < box[2]
    and box[1] < box[3]
  )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:77]}..."


def match(boxes: Boxes, pictures: Sequence[pathlib.Path]) -> Matched:
  """Finds the picture of each name: its path as given, the end of its path, its name.

  Args:
    boxes: As `read` gives them.
    pictures: Paths.

  Raises:
    ValueError: If a name fits several pictures, two names fit one picture, or no name
      fits any.
  """
  index = _Index(pictures)
  entries: list[Entry | None] = [None] * len(pictures)
  names: dict[int, str] = {}
  unused = []
  for name, entry in boxes.items():
    fitting = index.fitting(name)
    if not fitting:
      unused.append(name)
      continue
    if len(fitting) > 1:
      paths = _listed([str(pictures[i]) for i in fitting])
      raise ValueError(f"boxes: {name!r} fits several pictures, {paths}; give paths")
    (i,) = fitting
    if i in names:
      both = _listed([names[i], name])
      raise ValueError(f"boxes: expected one entry for {pictures[i]}, got {both}")
    names[i], entries[i] = name, entry
  if boxes and not names:
    raise ValueError(f"{describe_unused(unused)}; the pictures are {_listed(pictures)}")
  return Matched(entries, unused)


def describe_unused(names: Sequence[str]) -> str:
  """Says which names fit no picture, on one line."""
  return f"boxes: names that fit no picture ({len(names):,}): {_listed(names)}"


class _Index:
  """Pictures by every way that people write their names."""

  def __init__(self, pictures: Sequence[pathlib.Path]):
    self._given: dict[tuple[str, ...], list[int]] = {}
    self._whole = [_parts(os.path.abspath(path)) for path in pictures]
    self._by_name: dict[str, list[int]] = {}
    for i, path in enumerate(pictures):
      self._given.setdefault(_parts(str(path)), []).append(i)
      self._by_name.setdefault(self._whole[i][-1], []).append(i)

  def fitting(self, name: str) -> list[int]:
    parts = _parts(name)
    if parts in self._given and len(parts) > 0:
      return self._given[parts]
    alike = self._by_name.get(parts[-1], []) if parts else []
    return [i for i in alike if self._whole[i][-len(parts) :] == parts]


def _parts(name: str) -> tuple[str, ...]:
  name = unicodedata.normalize("NFC", name.replace("\\", "/"))
  return tuple(part for part in name.split("/") if part not in ("", "."))


def _listed(names: Sequence[str | os.PathLike[str]]) -> str:
  more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
  return ", ".join(files.shown(name) for name in names[:_MOST_NAMED]) + more
