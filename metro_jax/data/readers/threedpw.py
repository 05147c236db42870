"""3DPW, "3D Poses in the Wild", as its owners publish it: pickles and frames.

Source: https://virtualhumans.mpi-inf.mpg.de/3DPW (von Marcard et al., ECCV 2018). After
        agreeing to the licence there, download sequenceFiles.zip and imageFiles.zip and
        unpack both into one folder:
          3DPW/sequenceFiles/{train,validation,test}/SEQUENCE.pkl
          3DPW/imageFiles/SEQUENCE/image_00000.jpg
Run:    python -m metro_jax.prepare --format=3dpw --source=3DPW --name=3dpw --split=test
          (also --split=train, --split=validation)
Licence: for non-commercial scientific research only, as is the SMPL body model that
        the poses are for (male and female).

One row is one person in one frame whose camera is valid; the others are left out, as in
every published number. The root's turn and the joints go from the world to the camera.
Labels: pose, shape and gender; 3D joints of the limbs, whose points in SMPL's tree are
those of J24; 2D joints as the projection of these, and nose, eyes, ears and hips as
OpenPose found them. The box is 1.2 times the rectangle of OpenPose's joints, as SPIN's,
or of the projected ones where it is sure of none (below 0.1).
The group is the sequence.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from metro_jax.body import joints
from metro_jax.data import schema
from metro_jax.data.readers import fields, file_bytes, geometry, pictures
from metro_jax.data.readers.formats import Source
from metro_jax.data.schema import Example
from metro_jax.untrusted import pickle_stubs, pickles

SPLITS = {"val": "validation", "valid": "validation"}  # other names of splits
OPENPOSE18 = (
  *("Nose", "Neck", "R_Shoulder", "R_Elbow", "R_Wrist", "L_Shoulder", "L_Elbow"),
  *("L_Wrist", "R_Hip", "R_Knee", "R_Ankle", "L_Hip", "L_Knee", "L_Ankle", "R_Eye"),
  *("L_Eye", "R_Ear", "L_Ear"),
)
DETECTED = ("Nose", "R_Eye", "L_Eye", "R_Ear", "L_Ear", "R_Hip", "L_Hip")
_GENDERS = {"m": "male", "f": "female"}
_SEQUENCE_FIELDS = ("cam_poses", "cam_intrinsics")
_PERSON_FIELDS = ("poses", "betas", "poses2d", "jointPositions", "campose_valid")


class Sequence(NamedTuple):
  """One pickle: n frames of p people."""

  name: str
  cameras: np.ndarray  # (n, 4, 4) world to camera
  intrinsics: np.ndarray  # (3, 3)
  poses: list[np.ndarray]  # p of (n, 72)
  betas: list[np.ndarray]  # p of (10,)
  detections: list[np.ndarray]  # p of (n, 3, 18) x, y, confidence
  joints_m: list[np.ndarray]  # p of (n, 24, 3), world
  valid: list[np.ndarray]  # p of (n,)
  genders: list[str]  # p


def open_reader(source: Source) -> "ThreeDpwReader":
  """Opens the folder that holds sequenceFiles and imageFiles.

  Args:
    source: Uses `source`, `split` and, in place of imageFiles, `images`.

  Raises:
    FileNotFoundError: Naming the folder that is missing.
    ValueError: If a pickle is not one of 3DPW's.
  """
  split = SPLITS.get(source.split, source.split)
  folder = source.source / "sequenceFiles" / split
  images = source.images or source.source / "imageFiles"
  for path in (folder, images):
    if not path.is_dir():
      raise FileNotFoundError(
        f"{path} is not there; metro_jax/data/readers/threedpw.py says where from"
      )
  files = sorted(folder.glob("*.pkl"))
  if not files:
    raise FileNotFoundError(f"{folder}: expected SEQUENCE.pkl, got none")
  return ThreeDpwReader(source.source, images, files)


class ThreeDpwReader:
  """People in frames, sequence by sequence; keeps the last sequence that it read."""

  def __init__(
    self, source: pathlib.Path, images: pathlib.Path, files: list[pathlib.Path]
  ):
    self.name = f"3dpw {source}"
    self.labels = schema.BODY
    self._images, self._files = images, files
    self._stamps = [file_bytes.stamp(path) for path in files]
    rows, invalid = [], 0
    for number, path in enumerate(files):
      for person, valid in enumerate(load_sequence(path).valid):
        frames = np.flatnonzero(valid)
        invalid += len(valid) - len(frames)
        rows.append(np.insert(frames[:, None], [0, 0], [number, person], axis=1))
    self._rows = np.concatenate(rows).astype(np.int32)
    self.left_out = {"people in frames without a valid camera": invalid}
    self._open: tuple[int, Sequence] | None = None

  def __len__(self) -> int:
    return len(self._rows)

  def where(self, row: int) -> str:
    """The pickle, the person and the frame."""
    number, person, frame = self._rows[row].tolist()
    path = self._files[number]
    return f"{path.parent.name}/{path.name} person {person} frame {frame}"

  def read(self, row: int) -> Example:
    """Reads a person in a frame.

    Raises:
      ValueError, OSError: If it is bad, saying why.
    """
    number, person, frame = self._rows[row].tolist()
    if self._open is None or self._open[0] != number:
      self._open = number, load_sequence(self._files[number])
    sequence = self._open[1]
    image = f"{sequence.name}/image_{frame:05d}.jpg"
    return to_example(sequence, person, frame, pictures.read_named(image, self._images))

  def __getstate__(self) -> dict[str, object]:
    return self.__dict__ | {"_open": None}


def to_example(sequence: Sequence, person: int, frame: int, image: bytes) -> Example:
  """The labels of a person in a frame, in the camera's frame.

  Args:
    sequence: A pickle.
    person: In the sequence, from 0.
    frame: In the sequence, from 0.
    image: The frame's JPEG.

  Raises:
    ValueError: If the person stands behind the camera or has no box.
  """
  camera = sequence.cameras[frame]
  points_m = sequence.joints_m[person][frame] @ camera[:3, :3].T + camera[:3, 3]
  points_m = points_m[joints.index(joints.SMPL24, geometry.SMPL_IN_J24)]
  points_px = geometry.project(points_m, sequence.intrinsics)
  detected = fields.known("poses2d", sequence.detections[person][frame].T, OPENPOSE18)
  seen = detected[detected[:, 2] > 0, :2]
  sure = len(seen) > 1 and detected[:, 2].max() >= geometry.SURE
  center_px, box_px = geometry.box_around(seen if sure else points_px)
  others = detected[joints.index(OPENPOSE18, DETECTED)]
  others[:, 2] = np.clip(others[:, 2], 0, 1)
  return schema.make_example(
    schema.BODY,
    f"{sequence.name}/image_{frame:05d}.jpg/{person}",
    image,
    center_px,
    box_px,
    joints_2d_px=geometry.place(
      schema.BODY,
      (*geometry.SMPL_IN_J24, *DETECTED),
      np.concatenate([geometry.with_confidence(points_px), others]),
    ),
    joints_3d_m=geometry.place(
      schema.BODY, geometry.SMPL_IN_J24, geometry.with_confidence(points_m)
    ),
    pose=geometry.turn_root(sequence.poses[person][frame], camera[:3, :3]),
    shape=sequence.betas[person],
    gender=sequence.genders[person],
    group=sequence.name,
  )


def load_sequence(path: pathlib.Path) -> Sequence:
  """Reads a pickle of 3DPW, executing nothing in it.

  Raises:
    ValueError: If something is missing or of another shape, naming file and field.
  """
  entries = pickles.load(path)
  wanted = ("sequence", "genders", *_SEQUENCE_FIELDS, *_PERSON_FIELDS)
  missing = [key for key in wanted if key not in entries]
  if missing:
    raise ValueError(f"{path}: expected {' '.join(missing)}, got {sorted(entries)}")
  cameras, intrinsics = (
    _numbers(entries[key], f"{path}: {key}") for key in _SEQUENCE_FIELDS
  )
  people = {
    key: [_numbers(one, f"{path}: {key}") for one in _items(entries[key], path, key)]
    for key in _PERSON_FIELDS
  }
  frames, genders = len(cameras), _items(entries["genders"], path, "genders")
  _expect(path, "cam_poses", cameras, (frames, 4, 4))
  _expect(path, "cam_intrinsics", intrinsics, (3, 3))
  shapes = {
    "poses": (frames, 72),
    "betas": (10,),
    "poses2d": (frames, 3, 18),
    "jointPositions": (frames, 72),
    "campose_valid": (frames,),
  }
  people["betas"] = [beta.ravel()[:10] for beta in people["betas"]]
  for key, shape in shapes.items():
    for one in people[key]:
      _expect(path, key, one, shape)
  if {len(genders), *map(len, people.values())} != {len(genders)}:
    raise ValueError(f"{path}: expected as many people in every field, got others")
  return Sequence(
    _text(entries["sequence"], f"{path}: sequence"),
    cameras,
    intrinsics,
    people["poses"],
    people["betas"],
    people["poses2d"],
    [points.reshape(frames, 24, 3) for points in people["jointPositions"]],
    [valid.astype(bool) for valid in people["campose_valid"]],
    [_gender(one, path) for one in genders],
  )


def _items(value: Any, path: pathlib.Path, key: str) -> list[Any]:
  """What each person has: of a list, or the rows of an array."""
  where = f"{path}: {key}"
  if isinstance(value, list | tuple):
    return list(value)
  try:
    return pickle_stubs.items(value, where)
  except ValueError:
    return list(pickle_stubs.array(value, where))


def _numbers(value: Any, where: str) -> np.ndarray:
  found = pickle_stubs.array(value, where)
  if found.dtype.kind not in "biuf":
    raise ValueError(f"{where}: expected numbers, got {found.dtype}")
  return found.astype(np.float64)


def _expect(
  path: pathlib.Path, key: str, found: np.ndarray, shape: tuple[int, ...]
) -> None:
  if found.shape != shape:
    raise ValueError(f"{path}: {key}: expected shape {shape}, got {found.shape}")


def _text(value: Any, where: str) -> str:
  found = (
    value if isinstance(value, str | bytes) else pickle_stubs.array(value, where).item()
  )
  return found.decode("latin1") if isinstance(found, bytes) else str(found)


def _gender(value: Any, path: pathlib.Path) -> str:
  letter = _text(value, f"{path}: genders")
  if letter not in _GENDERS:
    raise ValueError(f"{path}: genders: expected m or f, got {letter!r}")
  return _GENDERS[letter]
