"""MPII Human Pose: the owners' MATLAB file, or the JSON that pose projects made of it.

Source: http://human-pose.mpi-inf.mpg.de (Andriluka et al., CVPR 2014). Download the
        images (mpii_human_pose_v1.tar.gz) and the annotations
        (mpii_human_pose_v1_u12_2.zip), and unpack both into one folder:
          MPII/images/015601864.jpg
          MPII/mpii_human_pose_v1_u12_1.mat
        The .mat file needs SciPy: pip install metro_jax[mpii]. HRNet's and
        SimpleBaseline's annot/train.json (and valid.json) need nothing.
Run:    python -m metro_jax.prepare --format=mpii --name=mpii --split=train
          --source=MPII/mpii_human_pose_v1_u12_1.mat    (or MPII/annot/train.json)
          [--images=MPII/images]
Licence: Simplified BSD for the annotations; the pictures are YouTube's.

One row is one person of the training pictures; those without joints are left out and
counted. Labels: 2D joints, of which MPII's upper neck is J24's Neck and its head top
J24's Top_of_Head. MPII counts pixels from 1, so x of its first one is 0.5 here. The box
is the usual one of top-down pose: 1.25 times the annotated scale, and 15 pixels a scale
lower than the annotated centre.
"""

import importlib.util
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from metro_jax import text_files
from metro_jax.data import schema
from metro_jax.data.readers import fields, file_bytes, geometry, mpii_mat, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.schema import Example

JOINTS = (
  *("R_Ankle", "R_Knee", "R_Hip", "L_Hip", "L_Knee", "L_Ankle", "Pelvis", "Thorax"),
  *("Neck", "Top_of_Head", "R_Wrist", "R_Elbow", "R_Shoulder", "L_Shoulder"),
  *("L_Elbow", "L_Wrist"),
)
_FROM_ONE = 0.5  # MPII's first pixel has its middle at 1, ours at 0.5
_BOX_PX = 1.25 * fields.BOX_PX_PER_SCALE  # side, for a scale of 1
_FROM_ONE_TO_PLACES = np.array([_FROM_ONE, _FROM_ONE, 0])
_LOWER_PX = 15


class Person(NamedTuple):
  """One annotated person, in MPII's pixels."""

  image: str
  joints: np.ndarray  # (16, 3) x, y, confidence
  center: np.ndarray  # (2,), negative or NaN where it is not annotated
  scale: float  # height / 200 px
  problem: str = ""  # why the annotation cannot be read


def open_reader(source: Source) -> "MpiiReader":
  """Opens a .mat or .json file; all of it is read once.

  Args:
    source: Uses `source` and `images`.

  Raises:
    FileNotFoundError: If the folder of the pictures is not there.
    ImportError: If a .mat file needs SciPy.
    ValueError: If the file is not MPII's.
  """
  path = source.source
  if path.suffix not in (".mat", ".json"):
    raise ValueError(f"{path}: expected a .mat or .json file of MPII")
  is_mat = path.suffix == ".mat"
  images = source.images or (path.parent if is_mat else path.parents[1]) / "images"
  if not images.is_dir():
    raise FileNotFoundError(f"{images} is not there; name the pictures with --images")
  people = list(people_of_mat(path) if is_mat else people_of_json(path))
  return MpiiReader(path, images, people)


class MpiiReader:
  """People in pictures."""

  def __init__(self, path: pathlib.Path, images: pathlib.Path, people: list[Person]):
    self.name = f"mpii {path}"
    self.labels = schema.BODY
    self._path, self._images = path, images
    self._stamp = file_bytes.stamp(path)
    kept = [i for i, one in enumerate(people) if one.problem or one.joints[:, 2].any()]
    self.left_out = {"people without joints": len(people) - len(kept)}
    self._numbers = np.array(kept, np.int32)
    self._people = [people[i] for i in kept]
    if all(person.problem for person in self._people):
      told = f"; person {kept[0]}: {self._people[0].problem}" if kept else ""
      raise ValueError(f"{path}: expected people with joints, got none{told}")

  def __len__(self) -> int:
    return len(self._numbers)

  def where(self, row: int) -> str:
    """The file, and which of its people, from 0."""
    return f"{self._path.name} person {self._numbers[row]}"

  def read(self, row: int) -> Example:
    """Reads a person and the picture.

    Raises:
      ValueError, OSError: If it is bad, saying why.
    """
    name, joints, (x, y), scale, problem = self._people[row]
    if problem:
      raise ValueError(problem)
    joints = fields.known("joints", joints, JOINTS) - _FROM_ONE_TO_PLACES
    if x >= 0 and np.isfinite(y) and scale > 0:
      center_px = np.array([x, y + _LOWER_PX * scale]) - _FROM_ONE
      box_px = _BOX_PX * scale
    else:
      center_px, box_px = geometry.box_around_joints(joints)
    return schema.make_example(
      schema.BODY,
      f"{name}/{self._numbers[row]}",
      pictures.read_named(name, self._images),
      center_px,
      box_px,
      joints_2d_px=geometry.place(schema.BODY, JOINTS, joints),
    )


def people_of_json(path: pathlib.Path) -> Iterator[Person]:
  """The people of a JSON file: a list of objects with joints, joints_vis and a box.

  Raises:
    ValueError: If it is no such file, naming it.
  """
  rows = text_files.read_json(path)
  if not isinstance(rows, list):
    raise ValueError(f"{path}: expected a list of people, got {type(rows).__name__}")
  for row in rows:
    try:
      yield _person(row)
    except ValueError as error:
      yield _unreadable(str(error))


def _person(row: Any) -> Person:
  if not isinstance(row, dict):
    raise ValueError(f"expected an object, got {type(row).__name__}")
  joints = _numbers(row, "joints", (16, 2))
  visible = np.sign(_numbers(row, "joints_vis", (16,))).clip(0)
  joints[visible == 0] = 0
  image = row.get("image")
  if not isinstance(image, str):
    raise ValueError(f"image: expected the name of a picture, got {image!r}")
  return Person(
    image,
    geometry.with_confidence(joints, visible),
    _numbers(row, "center", (2,), unknown=-1.0),
    float(_numbers(row, "scale", (), unknown=-1.0)),
  )


def _unreadable(problem: str) -> Person:
  return Person("", np.zeros((16, 3)), np.full(2, -1.0), -1.0, problem)


def people_of_mat(path: pathlib.Path) -> Iterator[Person]:
  """The people of the training pictures of the owners' MATLAB file.

  Raises:
    ImportError: Without SciPy.
    ValueError: If it is another file or a damaged one, naming it.
  """
  if not _has_scipy():
    raise ImportError(
      f"{path}: expected SciPy for MATLAB files; pip install metro_jax[mpii], or use "
      "the JSON file train.json of HRNet"
    )
  for image, joints, (x, y, scale), problem in zip(*mpii_mat.read(path), strict=True):
    yield Person(str(image), joints, np.array([x, y]), float(scale), str(problem))


def _has_scipy() -> bool:
  try:
    return importlib.util.find_spec("scipy.io") is not None
  except ModuleNotFoundError:
    return False


def _numbers(
  row: Mapping[str, Any],
  key: str,
  shape: tuple[int, ...],
  unknown: float | None = None,
) -> np.ndarray:
  """A field's numbers; one that may be unknown can be absent, null or empty, too."""
  value = row.get(key)
  if unknown is not None and (value is None or value == []):
    return np.full(shape, unknown)
  return fields.numbers(key, value, shape, texts=True).astype(np.float64)
