"""From a stored example to the network's crop: scale, turn, mirror, labels included.

Every label follows the map of its picture's `Crop`. Pictures and 2D joints go one by
one, other labels of several examples together: NumPy takes longer to be called than to
move one person's joints. Colours are left to the device, which multiplies by
`color_gain` and clips.

Source: released code, metro/utils/image_ops.py and metro/datasets/
  human_mesh_tsv.py. Ours samples the picture between pixels and never rounds a
  label, where the released code truncates both to whole pixels; `ARITHMETICS` has both.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from ml_collections import ConfigDict
from numpy.typing import DTypeLike

from metro_jax.body import joints
from metro_jax.data import exact_crop, released_crop
from metro_jax.data.exact_crop import Crop
from metro_jax.data.schema import BODY, FLAGS, Example, LabelSet

NUMBERS = 8  # random ones that an augmentation is made of


class Arithmetic(NamedTuple):
  """A way to compute crops.

  Attributes:
    views: Makes crops of a JPEG.
    points: Says where points of the picture are in a crop, from -1 to 1.
  """

  views: Callable[[bytes, Sequence[Crop]], list[UInt8[np.ndarray, "px px 3"]]]
  points: Callable[[Float[np.ndarray, "j 2"], Crop], Float[np.ndarray, "j 2"]]


ARITHMETICS = {  # by the names of `config.data.crop`
  "exact": Arithmetic(exact_crop.views, exact_crop.points),
  "released": Arithmetic(released_crop.views, released_crop.points),
}


class Augmentation(NamedTuple):
  """One random change of a picture and its labels."""

  scale: float  # of the box; above 1 the person gets smaller
  rotation_rad: float  # of the content, from right towards down: clockwise as seen
  flip: bool  # mirrored left to right, before the turn
  color_gain: Float[np.ndarray, "3"]  # factor of each channel


def identity() -> Augmentation:
  """The augmentation that changes nothing; evaluation uses it."""
  return Augmentation(1.0, 0.0, False, np.ones(3, np.float32))


def numbers(seed: int, first: int, count: int) -> Float[np.ndarray, "count 8"]:
  """Rows of an endless table of random numbers, uniform from 0 to 1.

  Row n is the same whichever rows are asked for, at the same cost wherever it is.

  Args:
    seed: Of the table.
    first: Row to begin with.
    count: How many.
  """
  stream = np.random.Philox(seed)
  stream.advance(first * NUMBERS // 4)  # it makes four numbers at a time
  return np.random.Generator(stream).random((count, NUMBERS))


def stream(seed: int, place: int) -> np.random.Generator:
  """The further randomness of one place, where an augmentation takes more numbers."""
  return np.random.Generator(np.random.Philox(key=[seed, place]))


def sample(drawn: Float[np.ndarray, "n 8"], config: ConfigDict) -> list[Augmentation]:
  """Makes augmentations of random numbers.

  Each change has numbers of its own, so that switching one off leaves the others as
  they were. Normal ones come from two uniform ones, sqrt(-2 ln u) (cos, sin)(2 pi v).

  Args:
    drawn: Uniform numbers, a row an augmentation.
    config: `config.data.augment`.
  """
  scale_std, degrees_std = config.scale_std, config.rotation_std_deg
  turned, flipped = config.rotation_probability, config.flip_probability
  gains = (1 + config.color_gain * (2 * drawn[:, 4:7] - 1)).astype(np.float32)
  made = []
  for (u, v, turn, flip, *_), gain in zip(drawn.tolist(), gains, strict=True):
    radius, angle = math.sqrt(-2 * math.log(1 - u)), 2 * math.pi * v
    scale = 1 + scale_std * min(max(radius * math.cos(angle), -1.0), 1.0)
    degrees = degrees_std * min(max(radius * math.sin(angle), -2.0), 2.0)
    rotation_rad = math.radians(degrees) if turn < turned else 0.0
    made.append(Augmentation(scale, rotation_rad, flip < flipped, gain))
  return made


def crop_of(example: Example, augmentation: Augmentation, crop_px: int) -> Crop:
  """Places an example's crop: its box, enlarged, mirrored and turned."""
  change = (augmentation.scale, augmentation.rotation_rad, augmentation.flip)
  return Crop(example["center_px"].tolist(), float(example["box_px"]), crop_px, *change)


def move_labels(
  examples: Sequence[Example],
  crops: Sequence[Crop],
  arithmetic: Arithmetic,
  labels: LabelSet = BODY,
) -> dict[str, np.ndarray]:
  """Moves examples' labels as their pictures go.

  Joints are mirrored and turned about the camera's axis; a mirrored pose swaps
  left and right and keeps its shape, since bodies' shapes are symmetric. Labels
  that an example lacks, and joints of confidence 0, are zeros.

  Args:
    examples: At least one; valid ones.
    crops: Of each.
    arithmetic: Of 2D joints.
    labels: The examples' joints and rotations. A mirrored hand is the other hand.

  Returns:
    Their fields of `Batch` that are labels, stacked.
  """
  known = {name: _stacked(examples, name, np.bool_) for name in FLAGS}
  joints_2d = _stacked(examples, "joints_2d_px")
  for place, crop in zip(joints_2d, crops, strict=True):
    place[:, :2] = arithmetic.points(place[:, :2], crop)
  joints_3d = _stacked(examples, "joints_3d_m")
  planes = np.array([crop.plane() for crop in crops])
  joints_3d[..., :2] = joints_3d[..., :2] @ planes.transpose(0, 2, 1)
  flips = np.array([crop.flip for crop in crops])
  pose = augment_poses(_stacked(examples, "pose"), crops, labels)
  has_mesh = known["has_mesh"][:, None]
  return {
    "joints_2d": _finish(joints_2d, flips, known["has_joints_2d"], labels),
    "joints_3d_m": _finish(joints_3d, flips, known["has_joints_3d"], labels),
    "pose": np.where(has_mesh, pose, 0.0).astype(np.float32),
    "shape": np.where(has_mesh, _stacked(examples, "shape"), 0.0).astype(np.float32),
    "gender": np.array([e.get("gender", 0) for e in examples], np.int32),
    **known,
  }


def augment_poses(
  poses: Float[np.ndarray, "n p"],
  changes: Sequence[Augmentation | Crop],
  labels: LabelSet,
) -> Float[np.ndarray, "n p"]:
  """Mirrors poses and turns their roots.

  A mirror F at the plane x = 0 turns a rotation R into F R F, whose axis-angle is
  (x, -y, -z), and swaps left and right joints. The root becomes Rz R_root.

  Args:
    poses: Axis-angle of every joint, radians; the root turns into the camera frame.
      Written into.
    changes: Mirror and turn of each.
    labels: Of bodies or hands.
  """
  turns = poses.reshape(len(poses), len(labels.tree), 3)
  flips = [n for n, change in enumerate(changes) if change.flip]
  if flips:
    turns[flips] = turns[flips][:, _mirror_order(labels.tree)] * [1.0, -1.0, -1.0]
  for n, change in enumerate(changes):
    if change.rotation_rad:
      turns[n, 0] = _turn_root(turns[n, 0].tolist(), change.rotation_rad)
  return turns.reshape(len(poses), -1)


@functools.cache
def _mirror_order(names: tuple[str, ...]) -> Int[np.ndarray, " j"]:
  return joints.flip_permutation(names)


def _turn_root(root: Sequence[float], angle_rad: float) -> tuple[float, float, float]:
  """Axis-angle of Rz(angle) R(root), by one product of quaternions.

  In plain numbers many times faster than the matrices of `body.rotations`, and as
  exact near a half turn, where every standing body is.
  """
  angle = math.hypot(*root)
  ratio = math.sin(angle / 2) / angle if angle else 0.5
  w, (x, y, z) = math.cos(angle / 2), (ratio * part for part in root)
  cosine, sine = math.cos(angle_rad / 2), math.sin(angle_rad / 2)
  w, z = cosine * w - sine * z, cosine * z + sine * w
  x, y = cosine * x - sine * y, cosine * y + sine * x
  length = math.hypot(x, y, z)
  factor = 2 * math.atan2(length, w) / length if length else 2.0
  return factor * x, factor * y, factor * z


def _stacked(
  examples: Sequence[Mapping[str, Any]], name: str, dtype: DTypeLike = np.float64
) -> Shaped[np.ndarray, "n ..."]:
  return np.stack([example[name] for example in examples], dtype=dtype)


def _finish(
  points: Float[np.ndarray, "n j k"],
  flips: np.ndarray,
  known: np.ndarray,
  labels: LabelSet,
) -> Float[np.ndarray, "n j k"]:
  """Swaps left and right after a mirror; zeros where nothing is known."""
  if flips.any():
    points[flips] = points[flips][:, _mirror_order(labels.joints)]
  sure = known[:, None, None] & (points[..., -1:] > 0)
  return np.where(sure, points, 0.0).astype(np.float32)
