"""COCO's keypoints of people: one JSON file, and the pictures beside it.

Source: https://cocodataset.org/#download (Lin et al., "Microsoft COCO", ECCV 2014).
        Download and unpack, of 2014 or 2017, the train images (and val images) and the
        train/val annotations:
          COCO/annotations/person_keypoints_train2014.json
          COCO/train2014/COCO_train2014_000000000009.jpg
Run:    python -m metro_jax.prepare --format=coco
          --source=COCO/annotations/person_keypoints_train2014.json
          --name=coco --split=train [--images=COCO/train2014]
Licence: annotations CC BY 4.0; the pictures are Flickr's, under their own terms.

One row is one person. Crowds, people with fewer than --option=min_keypoints=6 labelled
keypoints, and where the file names categories all that are no "person", are left out
and counted; 12 keypoints without those of the face, as SPIN asks, is
--option=min_limbs=12. Labels: 2D joints; hidden ones that are labelled count as much as
visible ones. A coordinate names a pixel, whose middle is half a pixel on. The box is
1.2 times the longer side of the annotated one; without one it goes around the joints.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metro_jax import text_files
from metro_jax.data import schema
from metro_jax.data.readers import fields, file_bytes, geometry, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.schema import Example
from metro_jax.text_files import short

KEYPOINTS = (
  *("Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear", "L_Shoulder", "R_Shoulder", "L_Elbow"),
  *("R_Elbow", "L_Wrist", "R_Wrist", "L_Hip", "R_Hip", "L_Knee", "R_Knee", "L_Ankle"),
  "R_Ankle",
)
MIN_KEYPOINTS = 6
_FIRST_LIMB = KEYPOINTS.index("L_Shoulder")
_TO_PLACES = np.array([0.5, 0.5, 0])  # from pixels' indices to their middles
_NAMES_OF_PEOPLE = ("person", "persons", "people")


_FEW = "people with too few keypoints"
_CROWDS = "annotations of crowds"
_NONE = "annotations without keypoints"
_OTHERS = "annotations of other categories than person"


class People(NamedTuple):
  """The annotations that are rows; those with a problem cannot be read."""

  keypoints: np.ndarray  # (n, 17, 3) x, y, visibility; float32
  boxes: np.ndarray  # (n, 4) left, top, width, height; NaN without one; float32
  ids: Sequence[str]  # n, of the annotation
  names: Sequence[str]  # n, of the picture's file
  problems: Mapping[int, str]  # by row


def open_reader(source: Source) -> "CocoReader":
  """Opens a person_keypoints JSON file; all of it is read once.

  Args:
    source: Uses `source`, `images`, and the options "min_keypoints" and "min_limbs".

  Raises:
    FileNotFoundError: If the folder of the pictures is not there.
    ValueError: If the file is no such JSON file, or an option is no number.
  """
  images = source.images or _images_beside(source.source)
  if not images.is_dir():
    raise FileNotFoundError(f"{images} is not there; name the pictures with --images")
  least = {
    name: _count(source.options, name, default)
    for name, default in (("min_keypoints", MIN_KEYPOINTS), ("min_limbs", 0))
  }
  people, left_out = read_people(source.source, **least)
  return CocoReader(source.source, images, people, left_out)


class CocoReader:
  """People in pictures."""

  def __init__(
    self,
    path: pathlib.Path,
    images: pathlib.Path,
    people: People,
    left_out: Mapping[str, int],
  ):
    self.name = f"coco {path}"
    self.labels = schema.BODY
    self.left_out = dict(left_out)
    self._path, self._images, self._people = path, images, people
    self._stamp = file_bytes.stamp(path)

  def __len__(self) -> int:
    return len(self._people.ids)

  def where(self, row: int) -> str:
    """The file and the annotation's own id, or its place there."""
    return f"{self._path.name} annotation {self._people.ids[row]}"

  def read(self, row: int) -> Example:
    """Reads a person and the picture.

    Raises:
      ValueError, OSError: If it is bad, saying why.
    """
    people = self._people
    if row in people.problems:
      raise ValueError(people.problems[row])
    name = people.names[row]
    keypoints = people.keypoints[row].astype(np.float64)
    keypoints[:, 2] = np.sign(keypoints[:, 2]).clip(0)
    keypoints = fields.known("keypoints", keypoints, KEYPOINTS)
    left, top, width, height = people.boxes[row].tolist()
    if np.isnan(people.boxes[row]).any() or (width == 0 and height == 0):
      center_px, box_px = geometry.box_around_joints(keypoints + _TO_PLACES)
    else:
      corners = np.array([[left, top], [left + width, top + height]])
      center_px, box_px = geometry.box_around(corners)
    return schema.make_example(
      schema.BODY,
      f"{name}/{people.ids[row]}",
      pictures.read_named(name, self._images),
      center_px,
      box_px,
      joints_2d_px=geometry.place(schema.BODY, KEYPOINTS, keypoints + _TO_PLACES),
    )


def read_people(
  path: pathlib.Path, min_keypoints: int, min_limbs: int
) -> tuple[People, dict[str, int]]:
  """Reads the annotations that are rows, and counts the others by reason.

  What is wrong with one of them is kept for when its row is read.

  Args:
    path: Of the JSON file.
    min_keypoints: How many keypoints a person must have.
    min_limbs: How many of those that are not of the face.

  Raises:
    ValueError: If it is no such file or has no people, naming it.
  """
  content = _read_json(path)
  images, persons = _Images(content["images"]), _persons(content.get("categories"))
  left_out = {_CROWDS: 0, _FEW: 0}
  keypoints, boxes, ids, names = [], [], list[str](), list[str]()
  problems: dict[int, str] = {}
  for number, found in enumerate(content["annotations"]):
    points, box, name, key = np.zeros((17, 3)), np.zeros(4), "", None
    try:
      if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {short(found)}")
      key = fields.identity(found.get("id"))
      reason = _reason_to_leave(found, persons)
      if not reason:
        points = _keypoints(found["keypoints"])
        visible = points[:, 2] > 0
        few = visible.sum() < min_keypoints or visible[_FIRST_LIMB:].sum() < min_limbs
        reason = _FEW if few else ""
      if reason:
        left_out[reason] = left_out.get(reason, 0) + 1
        continue
      name, box = images.name(found.get("image_id")), _box(found.get("bbox"))
    except ValueError as error:
      problems[len(ids)] = f"annotation {number}: {error}"
    keypoints.append(points)
    boxes.append(box)
    ids.append(key or f"[{number}]")
    names.append(name)
  if len(problems) == len(ids):
    raise ValueError(f"{path}: expected people, got none; {_told(problems, left_out)}")
  with np.errstate(over="ignore"):  # infinite numbers are refused row by row
    people = People(
      np.array(keypoints, np.float32), np.array(boxes, np.float32), ids, names, problems
    )
  return people, left_out


def _told(problems: Mapping[int, str], left_out: Mapping[str, int]) -> str:
  """What is wrong with the first bad annotation, and how many were left out."""
  counts = [f"{count:,} {why} left out" for why, count in left_out.items() if count]
  return "; ".join([*list(problems.values())[:1], *counts]) or "no annotations"


def _reason_to_leave(found: Mapping[str, Any], persons: set[str | None]) -> str:
  """Why an annotation is no row by the format's own rules, or ""."""
  category = fields.identity(found.get("category_id"))
  if found.get("iscrowd") in (1, "1"):
    return _CROWDS
  if persons and category is not None and category not in persons:
    return _OTHERS
  return "" if found.get("keypoints") else _NONE


class _Images:
  """The files of pictures, by the ids that annotations name them with."""

  def __init__(self, images: Sequence[Any]):
    self._names: dict[str, str] = {}
    self._problems: dict[str, str] = {}
    self._without_id = ""
    for number, image in enumerate(images):
      found = image if isinstance(image, dict) else {}
      key, name = fields.identity(found.get("id")), found.get("file_name")
      if key is None:
        got = short(found.get("id"))
        problem = f"; image {number}: id: expected a whole number or text, got {got}"
        self._without_id = self._without_id or problem
      elif not isinstance(name, str):
        self._problems[key] = (
          f"images: expected objects with id file_name, got {short(image)}"
        )
      elif self._names.setdefault(key, name) != name:
        self._problems[key] = (
          f"image_id {key[:60]} is of several images: {short(self._names[key])}, "
          f"{short(name)}"
        )

  def name(self, value: Any) -> str:
    """The file of the one picture with an id.

    Raises:
      ValueError: If there is none, or there are several.
    """
    key = fields.identity(value)
    if key is None:
      raise ValueError(f"image_id: expected a whole number or text, got {short(value)}")
    if key in self._problems:
      raise ValueError(self._problems[key])
    if key not in self._names:
      raise ValueError(f"image_id {key[:60]} is of no image{self._without_id}")
    return self._names[key]


def _persons(categories: Any) -> set[str | None]:
  """The ids of people among a file's categories; empty if it does not tell them apart.

  Raises:
    ValueError: If there are several categories and none is called person.
  """
  named = [one for one in categories or () if isinstance(one, dict) and one.get("name")]
  found = [
    one for one in named if str(one["name"]).strip().casefold() in _NAMES_OF_PEOPLE
  ]
  if len(named) > 1 and not found:
    kinds = ", ".join(short(one["name"]) for one in named[:5])
    raise ValueError(f"categories: expected one called person, got {kinds}")
  return {fields.identity(one.get("id")) for one in found}


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  content = text_files.read_json(path)
  expected = f"{path}: expected COCO's person_keypoints with images and annotations"
  if not isinstance(content, dict):
    raise ValueError(f"{expected}, got {short(content)}")
  for key in ("images", "annotations"):
    if not isinstance(content.get(key), list):
      raise ValueError(f"{expected}, got {key}: {short(content.get(key))}")
  return content


def _keypoints(value: Any) -> np.ndarray:
  """(17, 3) x, y, visibility."""
  try:
    return fields.numbers("keypoints", value, (51,), (17, 3), texts=True).reshape(17, 3)
  except ValueError:
    size = f"{len(value)} of them" if isinstance(value, list) else short(value)
    raise ValueError(f"keypoints: expected 51 numbers, got {size}") from None


def _box(value: Any) -> np.ndarray:
  """(4,) left, top, width, height, NaN where an annotation has none."""
  if value is None or value == []:
    return np.full(4, np.nan)
  return fields.numbers("bbox", value, (4,), texts=True)


def _images_beside(path: pathlib.Path) -> pathlib.Path:
  """The folder that COCO's own layout has: ../train2014 of ..._train2014.json."""
  year = re.search(r"([a-z]+20\d\d)$", path.stem)
  return path.parent.parent / year[1] if year else path.parent


def _count(options: Mapping[str, str], name: str, default: int) -> int:
  text = options.get(name, str(default))
  if not text.isdecimal():
    raise ValueError(f"--option {name}: expected a whole number, got {text!r}")
  return int(text)
