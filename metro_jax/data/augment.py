"""From a stored example to the network's crop: scale, turn, mirror, labels included.

A crop is one affine map of the picture: the person's box, enlarged, mirrored and
turned about its centre, becomes the square [-1, 1]². Every label follows the same
map. With u the box's own coordinates,

  x2d = R(rotation) F(flip) u / scale.

Pictures go one by one, labels of several examples together: NumPy takes longer to be
called than to move one person's joints. Colours are left to the device, which
multiplies by `color_gain` and clips.

Source: released code, metro/utils/image_ops.py and metro/datasets/
  human_mesh_tsv.py. Ours samples the picture between pixels and never rounds a
  label, where the released code truncates both to whole pixels; `crop_example` and
  `move_labels` can do either.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from metro_jax.body import joints
from metro_jax.data import jpegs, released_crop
from metro_jax.data.readers.fields import BOX_PX_PER_SCALE
from metro_jax.data.schema import BODY, FLAGS, Example, LabelSet

NUMBERS = 8  # random ones that an augmentation is made of


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


def apply(
  example: Example,
  augmentation: Augmentation,
  crop_px: int,
  arithmetic: str = "exact",
  labels: LabelSet = BODY,
) -> dict[str, Any]:
  """Crops one example's picture and moves its labels with it.

  Args:
    example: As stored; a valid one.
    augmentation: What to do to it.
    crop_px: Side of the square crop.
    arithmetic, labels: As for `move_labels`.

  Returns:
    The fields of one example of `Batch`, except `valid`, `index` and `dataset`.

  Raises:
    ValueError: If the picture cannot be decoded.
  """
  image, one = np.empty((crop_px, crop_px, 3), np.uint8), ([example], [augmentation])
  affines = crop_affines(*one, crop_px)
  crop_example(example, augmentation, affines[0], image, arithmetic)
  moved = move_labels(*one, affines, crop_px, arithmetic, labels)
  return {"image": image} | {name: values[0] for name, values in moved.items()}


def crop_example(
  example: Example,
  augmentation: Augmentation,
  affine: Float[np.ndarray, "2 3"],
  into: UInt8[np.ndarray, "crop_px crop_px 3"],
  arithmetic: str = "exact",
) -> None:
  """Crops an example's picture.

  Args:
    example: As stored; a valid one.
    augmentation: What to do to it.
    affine: The same, of `crop_affines`.
    into: Takes the crop.
    arithmetic: As for `move_labels`.

  Raises:
    ValueError: If the picture cannot be decoded.
  """
  if arithmetic == "released":
    box = released_box(example, augmentation, len(into))
    into[:] = np.rint(released_crop.crop(decode(example["image"]), *box))
  else:
    cropped = crop_jpeg(example["image"], affine, len(into))
    cv2.cvtColor(cropped, cv2.COLOR_RGBA2RGB, dst=into)


def move_labels(
  examples: Sequence[Example],
  augmentations: Sequence[Augmentation],
  affines: Float[np.ndarray, "n 2 3"],
  crop_px: int,
  arithmetic: str = "exact",
  labels: LabelSet = BODY,
) -> dict[str, np.ndarray]:
  """Moves examples' labels as their pictures go.

  Joints are mirrored and turned about the camera's axis; a mirrored pose swaps
  left and right and keeps its shape, since bodies' shapes are symmetric. Labels
  that an example lacks, and joints of confidence 0, are zeros.

  Args:
    examples: At least one; valid ones.
    augmentations: What to do to each.
    affines: The same, of `crop_affines`.
    crop_px: Side of the square crops.
    arithmetic: Of pictures and 2D joints: "exact", or the "released" code's with its
      rounding. `config.data.crop`.
    labels: The examples' joints and rotations. A mirrored hand is the other hand.

  Returns:
    Their fields of `Batch` but `image`, `valid`, `index` and `dataset`, stacked.
  """
  known = {
    name: np.array([example[name] for example in examples], np.bool_) for name in FLAGS
  }
  joints_2d = _stacked(examples, "joints_2d_px")
  if arithmetic == "released":
    places = _released_places(joints_2d[..., :2], examples, augmentations, crop_px)
  else:
    to_places = affines.transpose(0, 2, 1) * (2 / crop_px)
    places = joints_2d[..., :2] @ to_places[:, :2] + (to_places[:, 2:] - 1)
  joints_2d[..., :2] = places
  joints_3d = _stacked(examples, "joints_3d_m")
  planes = np.array([_plane(a) for a in augmentations])
  joints_3d[..., :2] = joints_3d[..., :2] @ planes.transpose(0, 2, 1)
  flips = np.array([a.flip for a in augmentations])
  pose = _augment_poses(_stacked(examples, "pose"), augmentations, labels)
  has_mesh = known["has_mesh"][:, None]
  return {
    "color_gain": np.array([a.color_gain for a in augmentations]),
    "joints_2d": _finish(joints_2d, flips, known["has_joints_2d"], labels),
    "joints_3d_m": _finish(joints_3d, flips, known["has_joints_3d"], labels),
    "pose": np.where(has_mesh, pose, 0.0).astype(np.float32),
    "shape": np.where(has_mesh, _stacked(examples, "shape"), 0.0).astype(np.float32),
    "gender": np.array([e.get("gender", 0) for e in examples], np.int32),
    **known,
  }


def crop_affines(
  examples: Sequence[Example], augmentations: Sequence[Augmentation], crop_px: int
) -> Float[np.ndarray, "n 2 3"]:
  """The map of each example's picture to its crop, as `crop_affine` says."""
  centers_px = np.array([example["center_px"] for example in examples], np.float64)
  boxes_px = np.array([example["box_px"] for example in examples], np.float64)
  zooms = crop_px / (boxes_px * [change.scale for change in augmentations])
  linear = np.array([_plane(change) for change in augmentations])
  linear *= zooms[:, None, None]
  offsets = crop_px / 2 - linear @ centers_px[:, :, None]
  return np.concatenate([linear, offsets], axis=2)


def crop_affine(
  center_px: Float[np.ndarray, "2"],
  box_px: float | np.number | np.ndarray,
  augmentation: Augmentation,
  crop_px: int,
) -> Float[np.ndarray, "2 3"]:
  """The map from picture to crop, both in continuous pixels.

  q = A p + b, A = crop / (scale box) R F, b = crop / 2 - A center.

  Pixel i covers [i, i + 1) in both.

  Args:
    center_px: Middle of the person's box in the picture.
    box_px: Side of the box.
    augmentation: Scale, turn and mirror of the box's content.
    crop_px: Side of the crop.

  Returns:
    [A | b], float64.
  """
  example = {"center_px": center_px, "box_px": box_px}
  return crop_affines([example], [augmentation], crop_px)[0]


def crop_jpeg(
  jpeg: bytes, affine: Float[np.ndarray, "2 3"], crop_px: int
) -> UInt8[np.ndarray, "crop_px crop_px 4"]:
  """Decodes a JPEG, reduced where the crop is much smaller, and crops it as `crop`.

  Returns:
    RGB and a channel of no meaning.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  shrink = max(_shrink(affine), 1)
  reduction = next(n for n in jpegs.REDUCTIONS if n <= shrink)
  return crop(jpegs.rgba(jpeg, reduction), affine, crop_px, reduction)


def crop(
  image: UInt8[np.ndarray, "h w c"],
  affine: Float[np.ndarray, "2 3"],
  crop_px: int,
  reduction: int = 1,
) -> UInt8[np.ndarray, "crop_px crop_px c"]:
  """Crops a decoded picture, bilinear, black beyond its border.

  A crop of less than half the resolution reads from a picture shrunk by area, so
  that fine patterns average out instead of aliasing.

  Args:
    image: RGB, or any three or four channels.
    affine: Picture to crop, continuous pixels.
    crop_px: Side of the crop.
    reduction: Side of the square of the picture that a pixel of `image` is of.
  """
  shrink, across, down = int(_shrink(affine) / reduction), reduction, reduction
  if shrink >= 2:
    height, width = image.shape[:2]
    size = (-(-width // shrink), -(-height // shrink))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    across, down = reduction * width / size[0], reduction * height / size[1]
  rows = []
  for x, y, offset in affine.tolist():
    x, y = x * across, y * down
    # OpenCV's coordinates are 0 at the centre of the first pixel, ours are 0.5 there.
    rows.append((x, y, offset + (x + y) / 2 - 0.5))
  return cv2.warpAffine(image, np.array(rows), (crop_px,) * 2, flags=cv2.INTER_LINEAR)


def decode(jpeg: bytes, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes a JPEG to RGB.

  Args:
    jpeg: The file's bytes.
    reduction: 1, 2, 4 or 8: each pixel is the mean of so many pixels squared.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  image = jpegs.bgr(jpeg, reduction)
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def augment_pose(
  pose: Float[np.ndarray, " p"], augmentation: Augmentation, labels: LabelSet = BODY
) -> Float[np.ndarray, " p"]:
  """Mirrors a pose and turns its root.

  A mirror F at the plane x = 0 turns a rotation R into F R F, whose axis-angle is
  (x, -y, -z), and swaps left and right joints. The root becomes Rz R_root.

  Args:
    pose: Axis-angle of every joint, radians; the root turns into the camera frame.
    augmentation: Mirror and turn.
    labels: Of a body or a hand.
  """
  return _augment_poses(np.array(pose[None], np.float64), [augmentation], labels)[0]


def _augment_poses(
  poses: Float[np.ndarray, "n p"],
  augmentations: Sequence[Augmentation],
  labels: LabelSet,
) -> Float[np.ndarray, "n p"]:
  turns = poses.reshape(len(poses), len(labels.tree), 3)
  flips = [n for n, a in enumerate(augmentations) if a.flip]
  if flips:
    turns[flips] = turns[flips][:, _mirror_order(labels.tree)] * [1.0, -1.0, -1.0]
  for n, augmentation in enumerate(augmentations):
    if augmentation.rotation_rad:
      turns[n, 0] = _turn_root(turns[n, 0].tolist(), augmentation.rotation_rad)
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


def _plane(augmentation: Augmentation) -> tuple[tuple[float, float], ...]:
  """R F: what the picture's plane goes through, but for the scale."""
  angle, mirror = augmentation.rotation_rad, -1.0 if augmentation.flip else 1.0
  cosine, sine = math.cos(angle), math.sin(angle)
  return (cosine * mirror, -sine), (sine * mirror, cosine)


def _shrink(affine: Float[np.ndarray, "2 3"]) -> float:
  """Picture pixels a crop pixel, along a side."""
  (a, b, _), (c, d, _) = affine.tolist()
  return abs(a * d - b * c) ** -0.5


def _stacked(examples: Sequence[Example], name: str) -> Float[np.ndarray, "n ..."]:
  return np.stack([example[name] for example in examples], dtype=np.float64)


def _released_places(
  points_px: Float[np.ndarray, "n j 2"],
  examples: Sequence[Example],
  augmentations: Sequence[Augmentation],
  crop_px: int,
) -> Float[np.ndarray, "n j 2"]:
  """Where points of the pictures are in the released code's crops, from -1 to 1."""
  boxes = map(released_box, examples, augmentations, [crop_px] * len(examples))
  pairs = zip(points_px, boxes, strict=True)
  return np.stack([released_crop.joints_2d(points, *box) for points, box in pairs])


def released_box(
  example: Example, augmentation: Augmentation, crop_px: int
) -> tuple[Any, ...]:
  """Arguments of `released_crop` behind the picture; it turns first, then mirrors."""
  degrees = float(np.rad2deg(augmentation.rotation_rad))
  return (
    example["center_px"],
    augmentation.scale * (float(example["box_px"]) / BOX_PX_PER_SCALE),
    crop_px,
    degrees if augmentation.flip else -degrees,
    augmentation.flip,
  )


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
