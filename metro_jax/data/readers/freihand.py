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

from metro_jax import text_files
from metro_jax.data import schema
from metro_jax.data.readers import fields, geometry, pictures
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
  labels, problems = _read_labels(source.source, split)
  versions = _versions(source.options.get("versions", ""), images, labels, split)
  return FreiHandReader(source.source, split, images, labels, problems, versions, box)


class FreiHandReader:
  """Hands before one background after the other."""

  def __init__(
    self,
    folder: pathlib.Path,
    split: str,
    images: pathlib.Path,
    labels: Mapping[str, np.ndarray],
    problems: Mapping[int, str],
    versions: Sequence[str],
    box: str,
  ):
    self.name = f"freihand {folder} {split}"
    self.labels = schema.HAND
    self._images, self._split, self._box = images, split, box
    self._labels, self._versions = dict(labels), tuple(versions)
    self._problems = dict(problems)
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
    if hand in self._problems:
      raise ValueError(self._problems[hand])
    found = {name: values[hand] for name, values in self._labels.items()}
    points_m, mano = found.get("xyz"), found.get("mano")
    points_px = None if points_m is None else geometry.project(points_m, found["K"])
    center_px, box_px = np.full(2, _PICTURE_PX / 2), float(_PICTURE_PX)
    if self._box == "joints" and points_px is not None:
      center_px, box_px = geometry.box_around(points_px, _BOX_MARGIN)
    return schema.make_example(
      schema.HAND,
      self.where(row),
      pictures.read_named(self._picture(row), self._images),
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


def _read_labels(
  folder: pathlib.Path, split: str
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
  """The arrays of the JSON files that are there, and the hands with a bad row."""
  found: dict[str, np.ndarray] = {}
  problems: dict[int, str] = {}
  for name, shape in _SHAPES.items():
    path = folder / f"{split}_{name}.json"
    if path.is_file():
      found[name] = _read_array(path, shape, problems)
    elif name == "K" or split == "training":
      raise FileNotFoundError(
        f"{path} is not there, which FreiHAND's {split} set needs"
      )
  counts = {name: len(values) for name, values in found.items()}
  if len(set(counts.values())) != 1 or not all(counts.values()):
    raise ValueError(
      f"{folder}: {split}: expected as many rows in every file, {counts}"
    )
  return found, problems


def _read_array(
  path: pathlib.Path, shape: tuple[int, ...], problems: dict[int, str]
) -> np.ndarray:
  """A file's rows; zeros in place of those that are bad, which go to the problems."""
  rows = text_files.read_json(path)
  if not isinstance(rows, list):
    raise ValueError(f"{path}: expected rows of numbers {shape}, got another value")
  found, bad = np.zeros((len(rows), *shape), np.float32), {}
  for number, row in enumerate(rows):
    try:
      # mano's rows are lists of one list
      values = fields.numbers(path.stem, row, shape, (1, *shape), texts=True)
      if np.isnan(values).any():
        raise ValueError(f"{path.stem}: expected numbers, got NaN")
      with np.errstate(over="ignore"):  # infinite numbers are refused row by row
        found[number] = values.reshape(shape)
    except ValueError as error:
      bad[number] = str(error)
  if bad and len(bad) == len(rows):
    raise ValueError(f"{path}: expected rows of numbers {shape}; {bad[0]}")
  for number, problem in bad.items():
    problems.setdefault(number, problem)
  return found


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
