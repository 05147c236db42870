"""A user's own data: JSON lines, one person or hand a line, no code needed.

  {"image": "photos/17.jpg", "box": [210, 80, 450, 620],
   "joints_2d": {"R_Knee": [301.5, 440, 1], "Nose": [330, 120]}}

Run:    python -m metro_jax.prepare --format=jsonl --source=mine/train.jsonl
          --name=mine --split=train [--images=mine/photos]
Then:   config.data.train = ("mine/train",)

Each line is one object with these keys; what is absent is simply not learnt from:

  image      path of the picture, relative to --images, else to the JSONL file
  box        [left, top, right, bottom] around the person, pixels; the square that is
             cropped has 1.2 times its longer side
  center, scale   instead of box: [x, y], and side of the square / 200 pixels, as METRO
             and SPIN write them. Without either, the box goes around the 2D joints.
  joints_2d  {name: [x, y] or [x, y, confidence]}, pixels of the upright picture, where
             the first pixel reaches from 0 to 1
  joints_3d  {name: [x, y, z] or [x, y, z, confidence]}, metres; x right, y down, z away
             from the camera; only places relative to each other matter
  pose, shape   together: SMPL's 72 angles (MANO's 48, as offsets from its mean hand)
             and 10 components; the root turns into the camera frame
  gender     neutral (when absent), male or female: of the SMPL that pose and shape
             belong to
  group      any text, such as an action or sequence: tables of errors go by it
  key        any text: names the line in tables and pictures; else the image's path
  kind       body (when absent) or hand; the same in a whole file

JPEG files are stored as they are, PNG and other pictures as JPEG of quality 95.
Pictures lie below --images or the JSONL file's folder; links out of these are refused.
Confidences lie between 0 (not known) and 1 (when absent). A joint that is null, or that
has confidence 0, is not known, and may have NaN or null for numbers; in one that counts
they are errors. A box goes around joints of confidence 0.1 and more. Names of a body's
joints are those of `body.joints.J24`, of a hand's those of `HAND21`. Unknown keys and
names are errors that say which known one is nearest.
"""

import difflib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from metro_jax import text_files
from metro_jax.data import schema
from metro_jax.data.readers import fields, geometry, groups, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.readers.line_file import LineFile
from metro_jax.data.schema import Example, LabelSet
from metro_jax.text_files import short

KEYS = (
  *("image", "box", "center", "scale", "joints_2d", "joints_3d", "pose", "shape"),
  *("gender", "group", "key", "kind"),
)
_KINDS = {"body": schema.BODY, "hand": schema.HAND}
_TRIED_LINES = 1000  # to learn whether bodies or hands are labelled


def open_reader(source: Source) -> "JsonlReader":
  """Opens a JSONL file.

  Args:
    source: Uses `source` and `images`.

  Raises:
    ValueError: If it has no lines, or none says which kind they are.
  """
  return JsonlReader(source.source, source.images or source.source.parent)


class JsonlReader:
  """The lines of a JSONL file that are not blank."""

  def __init__(self, path: pathlib.Path, images: pathlib.Path):
    self.name = f"jsonl {path}"
    self._images = images
    self._lines = LineFile(path)
    if len(self._lines) == 0:
      raise ValueError(f"{path}: expected lines, got an empty file")
    self.labels = self._find_labels()

  def __len__(self) -> int:
    return len(self._lines)

  def where(self, row: int) -> str:
    """The file and its line, from 1."""
    return f"{self._lines.path.name} line {self._lines.number(row)}"

  def read(self, row: int) -> Example:
    """Reads a line and its picture.

    Raises:
      ValueError, OSError: If something is missing or wrong, naming it.
    """
    line = _parse(self._lines.line(row))
    labels = _labels_of(line)
    if labels != self.labels:
      raise ValueError(
        f"kind: expected {self.labels.name} as in the first line, got {labels.name}"
      )
    image = fields.text(line, "image")
    if not image:
      raise ValueError("image: expected the path of a picture, got none")
    joints_2d_px = _joints(line, "joints_2d", labels, 2)
    center_px, box_px = _box(line, joints_2d_px)
    return schema.make_example(
      labels,
      _name(line, "key") or image,
      pictures.read_named(image, self._images, [self._lines.path.parent]),
      center_px,
      box_px,
      joints_2d_px=joints_2d_px,
      joints_3d_m=_joints(line, "joints_3d", labels, 3),
      pose=_numbers("pose", line["pose"]) if "pose" in line else None,
      shape=_numbers("shape", line["shape"]) if "shape" in line else None,
      gender=fields.text(line, "gender") or "neutral",
      group=_name(line, "group") or groups.group_of(image),
    )

  def _find_labels(self) -> LabelSet:
    """Those of the first line that says so; one bad line spoils no other."""
    for row in range(min(len(self), _TRIED_LINES)):
      try:
        return _labels_of(_parse(self._lines.line(row)))
      except ValueError:
        if row == 0:
          self._expect_objects()
    try:
      return _labels_of(_parse(self._lines.line(0)))
    except ValueError as error:
      raise ValueError(f"{self.where(0)}: {error}") from error

  def _expect_objects(self) -> None:
    """Names what has its JSON spread over all lines, or in a list on one."""
    first = self._lines.line(0).strip()
    try:
      is_list = isinstance(text_files.parse_json(first, ""), list) and len(self) == 1
      is_spread = False
    except ValueError:
      is_list, is_spread = first.startswith(b"["), first == b"{"
    if is_list or is_spread:
      kind = "a list" if is_list else "an object over several lines"
      raise ValueError(
        f"{self._lines.path}: expected one object {{...}} a line, this is {kind}"
      )


def _parse(line: bytes) -> dict[str, Any]:
  found = text_files.parse_json(line, "line")
  if not isinstance(found, dict):
    raise ValueError(f"expected an object {{...}}, got {short(found)}")
  for key in found:
    if key not in KEYS:
      raise ValueError(f"key {short(key)}: {_nearest(key, KEYS)}")
  return {key: value for key, value in found.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
  """Whether a tool wrote that it does not know: null, NaN, or nothing in a list."""
  return value is None or value != value or (isinstance(value, list) and not value)


def _labels_of(line: Mapping[str, Any]) -> LabelSet:
  kind = line.get("kind", "body")
  if not isinstance(kind, str) or kind not in _KINDS:
    raise ValueError(f"kind: expected body or hand, got {short(kind)}")
  return _KINDS[kind]


def _nearest(name: str, known: Iterable[str]) -> str:
  """What to say of an unknown name."""
  known = list(known)
  by_small = {text.lower(): text for text in known}
  near = difflib.get_close_matches(name.lower(), by_small, n=1, cutoff=0.0)
  return f"not known; nearest is {by_small[near[0]]}; all are {' '.join(known)}"


def _name(line: Mapping[str, Any], key: str) -> str:
  """Text, or a number in its place."""
  return fields.identity(line.get(key)) or fields.text(line, key)


def _numbers(name: str, value: Any, sizes: tuple[int, ...] = ()) -> np.ndarray:
  """A flat list of numbers, of one of some lengths; null is NaN."""
  expected = f"{' or '.join(map(str, sizes))} numbers" if sizes else "numbers"
  plain = isinstance(value, list) and all(type(x) in fields.NUMBERS for x in value)
  if not plain or (sizes and len(value) not in sizes):
    raise ValueError(f"{name}: expected a list of {expected}, got {short(value)}")
  return fields.numbers(name, value).astype(np.float64)


def _joints(
  line: Mapping[str, Any], key: str, labels: LabelSet, size: int
) -> np.ndarray | None:
  """(j, size + 1) coordinates and confidence, or None where nothing is labelled."""
  named = line.get(key)
  if named is None:
    return None
  if not isinstance(named, dict):
    raise ValueError(f"{key}: expected an object of joints, got {short(named)}")
  for name in named:
    if name not in labels.joints:
      raise ValueError(f"{key}: joint {short(name)} {_nearest(name, labels.joints)}")
  named = {name: value for name, value in named.items() if value is not None}
  rows = np.ones((len(named), size + 1))
  for row, (name, value) in zip(rows, named.items(), strict=True):
    numbers = _numbers(f"{key}: {name}", value, (size, size + 1))
    row[: len(numbers)] = numbers
  if not named:
    return None
  return geometry.place(labels, list(named), fields.known(key, rows, list(named)))


def _box(
  line: Mapping[str, Any], joints_2d_px: np.ndarray | None
) -> tuple[np.ndarray, float]:
  given = [key for key in ("box", "center", "scale") if key in line]
  if given == ["box"]:
    left, top, right, bottom = _numbers("box", line["box"], (4,))
    if not (left < right and top < bottom):
      raise ValueError(
        "box: expected left < right and top < bottom in [left, top, right, bottom], "
        f"got {short(line['box'])}"
      )
    return geometry.box_around(np.array([[left, top], [right, bottom]]))
  if given == ["center", "scale"]:
    scale = _numbers("scale", [line["scale"]])[0]
    return _numbers("center", line["center"], (2,)), scale * fields.BOX_PX_PER_SCALE
  if given:
    raise ValueError(
      f"{given[0]}: expected box, or center and scale, got {' and '.join(given)}"
    )
  if joints_2d_px is None:
    raise ValueError("box: expected it, as there are no joints_2d to put it around")
  return geometry.box_around_joints(joints_2d_px)
