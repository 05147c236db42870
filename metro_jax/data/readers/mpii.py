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
import orjson

from metro_jax.data import schema
from metro_jax.data.readers import file_bytes, geometry, mpii_mat, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.schema import Example

JOINTS = (
  *("R_Ankle", "R_Knee", "R_Hip", "L_Hip", "L_Knee", "L_Ankle", "Pelvis", "Thorax"),
  *("Neck", "Top_of_Head", "R_Wrist", "R_Elbow", "R_Shoulder", "L_Shoulder"),
  *("L_Elbow", "L_Wrist"),
)
_FROM_ONE = 0.5  # MPII's first pixel has its middle at 1, ours at 0.5
_BOX_PX = 1.25 * 200  # side, for a scale of 1
_LOWER_PX = 15


class Person(NamedTuple):
  """One annotated person, in MPII's pixels."""

  image: str
  joints: np.ndarray  # (16, 3) x, y, confidence
  center: np.ndarray  # (2,), negative where it is not annotated
  scale: float  # height / 200 px


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
    kept = [i for i, person in enumerate(people) if (person.joints[:, 2] > 0).any()]
    self.left_out = {"people without joints": len(people) - len(kept)}
    if not kept:
      raise ValueError(f"{path}: expected people with joints, got none")
    self._numbers = np.array(kept, np.int32)
    self._names = np.array([people[i].image.encode() for i in kept])
    self._joints = np.array([people[i].joints for i in kept])
    self._boxes = np.array([[*people[i].center, people[i].scale] for i in kept])

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
    name = self._names[row].decode()
    joints = self._joints[row].copy()
    joints[:, :2] -= _FROM_ONE
    x, y, scale = self._boxes[row].tolist()
    center_px, box_px = (
      np.array([x, y + _LOWER_PX * scale]) - _FROM_ONE,
      _BOX_PX * scale,
    )
    if x < 0 or not scale > 0:
      center_px, box_px = geometry.box_around(joints[joints[:, 2] > 0, :2])
    return schema.make_example(
      schema.BODY,
      f"{name}/{self._numbers[row]}",
      pictures.read_jpeg(pictures.inside(self._images, name)),
      center_px,
      box_px,
      joints_2d_px=geometry.place(schema.BODY, JOINTS, joints),
    )


def people_of_json(path: pathlib.Path) -> Iterator[Person]:
  """The people of a JSON file: a list of objects with joints, joints_vis and a box.

  Raises:
    ValueError: If it is no such file, naming it and the person.
  """
  try:
    rows = orjson.loads(path.read_bytes())
  except orjson.JSONDecodeError as error:
    raise ValueError(f"{path}: bad JSON: {error}") from error
  if not isinstance(rows, list):
    raise ValueError(f"{path}: expected a list of people, got {type(rows).__name__}")
  for number, row in enumerate(rows):
    where = f"{path} person {number}"
    if not isinstance(row, dict):
      raise ValueError(f"{where}: expected an object, got {type(row).__name__}")
    joints = _numbers(row, "joints", (16, 2), where)
    visible = np.sign(_numbers(row, "joints_vis", (16,), where)).clip(0)
    yield Person(
      str(row.get("image", "")),
      geometry.with_confidence(joints * visible[:, None], visible),
      _numbers(row, "center", (2,), where),
      float(_numbers(row, "scale", (), where)),
    )


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
  for image, joints, (x, y, scale) in zip(*mpii_mat.read(path), strict=True):
    yield Person(str(image), joints, np.array([x, y]), float(scale))


def _has_scipy() -> bool:
  try:
    return importlib.util.find_spec("scipy.io") is not None
  except ModuleNotFoundError:
    return False


def _numbers(
  row: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str
) -> np.ndarray:
  try:
    numbers = np.array(row[key], np.float64)
  except (KeyError, TypeError, ValueError):
    numbers = np.zeros((0, 0, 0))
  if numbers.shape != shape:
    raise ValueError(f"{where}: {key}: expected numbers {shape}, got others")
  return numbers
