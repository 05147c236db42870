"""FreiHAND as its owners publish it: pictures of right hands and JSON files.

Source: https://lmb.informatik.uni-freiburg.de/projects/freihand (Zimmermann et al.,
        ICCV 2019). Download FreiHAND_pub_v2.zip and, for labels of the evaluation set,
        FreiHAND_pub_v2_eval.zip, and unpack both into one folder:
          FreiHAND/{training,evaluation}_{K,mano,xyz}.json
          FreiHAND/{training,evaluation}/rgb/00000000.jpg
Run:    python -m metro_jax.prepare --format=freihand --source=FreiHAND
          --name=freihand --split=train    (--split=test for the evaluation set)
Licence: for research only, no commercial use; so is the MANO hand of the poses.

Every training hand stands before its own background (gs) and three others (hom, sample,
auto): picture i + n v is hand i of n in version v, and all versions that are there
become rows; --option=versions=gs chooses. The group is the version.
Labels: 21 joints in metres in the camera frame, their projection by K, MANO's 48
angles, which are offsets from its mean hand, and its 10 components. What has no JSON
file, as in the evaluation set of the first release, is absent.
The box is the whole picture, which the owners cropped around the hand, so it is the
same where there are no labels. --option=box=joints makes it 1.5 times the rectangle of
the joints.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from metro_jax.data import schema
from metro_jax.data.readers import geometry, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.schema import Example

SPLITS = {
  **dict.fromkeys(("train", "training"), "training"),
  **dict.fromkeys(("test", "eval", "evaluation"), "evaluation"),
}
VERSIONS = ("gs", "hom", "sample", "auto")
BOXES = ("picture", "joints")
_BOX_MARGIN = 1.5  # a hand's outline reaches beyond its joints
_PICTURE_PX = 224
# Numbers of a label file's row; K and xyz are there or not, row by row in one order.
_SHAPES = {"K": (3, 3), "xyz": (21, 3), "mano": (61,)}
_POSE, _SHAPE = slice(0, 48), slice(48, 58)  # of mano; then a root in pixels and scale


def open_reader(source: Source) -> "FreiHandReader":
  """Opens the folder of the JSON files.

  Args:
    source: Uses `source`, `split`, `images` in place of SPLIT/rgb, and the options
      "versions" (names, commas between) and "box".

  Raises:
    FileNotFoundError: Naming what is missing.
    ValueError: If an option or a file is wrong.
  """
  if source.split not in SPLITS:
    raise ValueError(
      f"--split of freihand: expected one of {', '.join(SPLITS)}, got {source.split!r}"
    )
  split = SPLITS[source.split]
  box = source.options.get("box", BOXES[0])
  if box not in BOXES:
    raise ValueError(f"--option box: expected {' or '.join(BOXES)}, got {box!r}")
  images = source.images or source.source / split / "rgb"
  labels = _read_labels(source.source, split)
  versions = _versions(source.options.get("versions", ""), images, labels, split)
  return FreiHandReader(source.source, split, images, labels, versions, box)


class FreiHandReader:
  """Hands before one background after the other."""

  def __init__(
    self,
    folder: pathlib.Path,
    split: str,
    images: pathlib.Path,
    labels: Mapping[str, np.ndarray],
    versions: Sequence[str],
    box: str,
  ):
    self.name = f"freihand {folder} {split}"
    self.labels = schema.HAND
    self._images, self._split, self._box = images, split, box
    self._labels, self._versions = dict(labels), tuple(versions)
    self._hands = len(labels["K"])

  def __len__(self) -> int:
    return self._hands * len(self._versions)

  def where(self, row: int) -> str:
    """The picture, by its folder and number."""
    return f"{self._split}/rgb/{self._picture(row)}"

  def read(self, row: int) -> Example:
    """Reads a hand before a background.

    Raises:
      ValueError, OSError: If it is bad, saying why.
    """
    hand = row % self._hands
    found = {name: values[hand] for name, values in self._labels.items()}
    points_m, mano = found.get("xyz"), found.get("mano")
    points_px = None if points_m is None else geometry.project(points_m, found["K"])
    center_px, box_px = np.full(2, _PICTURE_PX / 2), float(_PICTURE_PX)
    if self._box == "joints" and points_px is not None:
      center_px, box_px = geometry.box_around(points_px, _BOX_MARGIN)
    return schema.make_example(
      schema.HAND,
      self.where(row),
      pictures.read_jpeg(self._images / self._picture(row)),
      center_px,
      box_px,
      joints_2d_px=points_px if points_px is None else _known(points_px),
      joints_3d_m=points_m if points_m is None else _known(points_m),
      pose=None if mano is None else mano[_POSE],
      shape=None if mano is None else mano[_SHAPE],
      group=self._version(row),
    )

  def _version(self, row: int) -> str:
    return self._versions[row // self._hands]

  def _picture(self, row: int) -> str:
    shift = self._hands * VERSIONS.index(self._version(row))
    return f"{row % self._hands + shift:08d}.jpg"


def _known(points: np.ndarray) -> np.ndarray:
  return geometry.with_confidence(points)


def _read_labels(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
  """The arrays of the JSON files that are there, as many rows in each."""
  found = {}
  for name, shape in _SHAPES.items():
    path = folder / f"{split}_{name}.json"
    if path.is_file():
      found[name] = _read_array(path, shape)
    elif name == "K" or split == "training":
      raise FileNotFoundError(
        f"{path} is not there, which FreiHAND's {split} set needs"
      )
  counts = {name: len(values) for name, values in found.items()}
  if len(set(counts.values())) != 1 or not all(counts.values()):
    raise ValueError(
      f"{folder}: {split}: expected as many rows in every file, {counts}"
    )
  return found


def _read_array(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  try:
    rows = orjson.loads(path.read_bytes())
    # mano's rows are lists of one list
    found = np.array(rows, np.float64).reshape(len(rows), *shape)
  except (orjson.JSONDecodeError, ValueError, TypeError) as error:
    raise ValueError(f"{path}: expected rows of numbers {shape}; {error}") from error
  return found.astype(np.float32)


def _versions(
  wanted: str, images: pathlib.Path, labels: Mapping[str, np.ndarray], split: str
) -> tuple[str, ...]:
  """The versions to read: those named, else those whose last picture is there."""
  if not images.is_dir():
    raise FileNotFoundError(f"{images} is not there, where FreiHAND's pictures lie")
  possible = VERSIONS if split == "training" else VERSIONS[:1]
  named = tuple(filter(None, wanted.split(",")))
  for name in named:
    if name not in possible:
      raise ValueError(
        f"--option versions: expected some of {','.join(possible)}, got {name!r}"
      )
  hands = len(labels["K"])
  last = {name: (VERSIONS.index(name) + 1) * hands - 1 for name in possible}
  there = tuple(n for n in possible if (images / f"{last[n]:08d}.jpg").is_file())
  return named or there or possible[:1]
