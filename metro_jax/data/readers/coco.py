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

One row is one person. Crowds, and people with fewer than --option=min_keypoints=6
labelled keypoints, are left out and counted; 12 without those of the face, as SPIN
asks, is --option=min_limbs=12. Labels: 2D joints; hidden ones that are labelled count
as much as visible ones. A coordinate names a pixel, whose middle is half a pixel on.
The box is 1.2 times the longer side of the annotated one.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from metro_jax.data import schema
from metro_jax.data.readers import file_bytes, geometry, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.schema import Example

KEYPOINTS = (
  *("Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear", "L_Shoulder", "R_Shoulder", "L_Elbow"),
  *("R_Elbow", "L_Wrist", "R_Wrist", "L_Hip", "R_Hip", "L_Knee", "R_Knee", "L_Ankle"),
  "R_Ankle",
)
MIN_KEYPOINTS = 6
_FIRST_LIMB = KEYPOINTS.index("L_Shoulder")
_PIXEL_MIDDLE = 0.5


class People(NamedTuple):
  """The annotations that are rows, as arrays."""

  keypoints: np.ndarray  # (n, 17, 3) x, y, visibility; float32
  boxes: np.ndarray  # (n, 4) left, top, width, height; float32
  ids: np.ndarray  # (n,) of the annotation
  images: np.ndarray  # (n,) places in `names`
  names: np.ndarray  # (m,) file names, bytes


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
    """The file and the annotation's own number."""
    return f"{self._path.name} annotation {self._people.ids[row]}"

  def read(self, row: int) -> Example:
    """Reads a person and the picture.

    Raises:
      ValueError, OSError: If it is bad, saying why.
    """
    people = self._people
    name = people.names[people.images[row]].decode()
    left, top, width, height = people.boxes[row].tolist()
    corners = np.array([[left, top], [left + width, top + height]])
    center_px, box_px = geometry.box_around(corners)
    keypoints = people.keypoints[row].astype(np.float64)
    keypoints[:, :2] += _PIXEL_MIDDLE
    keypoints[:, 2] = keypoints[:, 2] > 0
    return schema.make_example(
      schema.BODY,
      f"{name}/{people.ids[row]}",
      pictures.read_jpeg(pictures.inside(self._images, name)),
      center_px,
      box_px,
      joints_2d_px=geometry.place(schema.BODY, KEYPOINTS, keypoints),
    )


def read_people(
  path: pathlib.Path, min_keypoints: int, min_limbs: int
) -> tuple[People, dict[str, int]]:
  """Reads the annotations that are rows, and counts the others by reason.

  Args:
    path: Of the JSON file.
    min_keypoints: How many keypoints a person must have.
    min_limbs: How many of those that are not of the face.

  Raises:
    ValueError: If it is no such file, naming it and what is wrong in it.
  """
  content = _read_json(path)
  names = {
    _integer(image, "id", f"{path} image {number}"): image["file_name"]
    for number, image in enumerate(content["images"])
  }
  place = {key: i for i, key in enumerate(names)}
  kept, left_out = [], {"annotations of crowds": 0, "people with too few keypoints": 0}
  for number, found in enumerate(content["annotations"]):
    where = f"{path} annotation {number}"
    keypoints = _numbers(found, "keypoints", 51, where).reshape(17, 3)
    visible = keypoints[:, 2] > 0
    if found.get("iscrowd"):
      left_out["annotations of crowds"] += 1
    elif visible.sum() < min_keypoints or visible[_FIRST_LIMB:].sum() < min_limbs:
      left_out["people with too few keypoints"] += 1
    else:
      image = _integer(found, "image_id", where)
      if image not in place:
        raise ValueError(f"{where}: image_id {image} is of no image")
      box, key = _numbers(found, "bbox", 4, where), _integer(found, "id", where)
      kept.append((keypoints, box, key, place[image]))
  if not kept:
    raise ValueError(f"{path}: expected people, got none; left out {left_out}")
  return People(
    np.array([person[0] for person in kept], np.float32),
    np.array([person[1] for person in kept], np.float32),
    np.array([person[2] for person in kept], np.int64),
    np.array([person[3] for person in kept], np.int32),
    np.array([str(name).encode() for name in names.values()]),
  ), left_out


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = orjson.loads(path.read_bytes())
    for key, needed in (("images", ("id", "file_name")), ("annotations", ())):
      rows = content[key]
      if not all(isinstance(row, dict) and row.keys() >= set(needed) for row in rows):
        raise ValueError(f"{key}: expected objects with {' '.join(needed)}")
  except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path}: expected COCO's person_keypoints with images and annotations; "
      f"{type(error).__name__}: {error}"
    ) from error
  return content


def _numbers(found: Mapping[str, Any], key: str, size: int, where: str) -> np.ndarray:
  try:
    with np.errstate(over="ignore"):  # infinite numbers are refused row by row
      numbers = np.array(found.get(key), np.float64).astype(np.float32)
  except (TypeError, ValueError):
    numbers = np.zeros(0, np.float32)
  if numbers.shape != (size,):
    raise ValueError(f"{where}: {key}: expected {size} numbers, got others")
  return numbers


def _integer(found: Mapping[str, Any], key: str, where: str) -> int:
  number = found.get(key)
  if type(number) is not int or abs(number) >= 2**63:
    raise ValueError(f"{where}: {key}: expected a whole number, got {number!r}")
  return number


def _images_beside(path: pathlib.Path) -> pathlib.Path:
  """The folder that COCO's own layout has: ../train2014 of ..._train2014.json."""
  year = re.search(r"([a-z]+20\d\d)$", path.stem)
  return path.parent.parent / year[1] if year else path.parent


def _count(options: Mapping[str, str], name: str, default: int) -> int:
  text = options.get(name, str(default))
  if not text.isdecimal():
    raise ValueError(f"--option {name}: expected a whole number, got {text!r}")
  return int(text)
