"""From a stored example to the network's crop: scale, turn, mirror, labels included.

A crop is one affine map of the picture: the person's box, enlarged, mirrored and
turned about its centre, becomes the square [-1, 1]². Every label follows the same
map. With u the box's own coordinates,

  x2d = R(rotation) F(flip) u / scale.

Colours are left to the device, which multiplies by `color_gain` and clips.

Source: released code, metro/utils/image_ops.py and metro/datasets/
  human_mesh_tsv.py. Ours samples the picture between pixels and never rounds a
  label, where the released code truncates both to whole pixels; `apply` can do
  either.
"""

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from metro_jax.body import joints
from metro_jax.data import released_crop
from metro_jax.data.schema import BODY, Example, LabelSet

_DECODER_REDUCTIONS = {  # libjpeg averages blocks of n x n while it decodes
  8: cv2.IMREAD_REDUCED_COLOR_8,
  4: cv2.IMREAD_REDUCED_COLOR_4,
  2: cv2.IMREAD_REDUCED_COLOR_2,
  1: cv2.IMREAD_COLOR,
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


def sample(rng: np.random.Generator, config: ConfigDict) -> Augmentation:
  """Draws an augmentation.

  Always draws the same numbers in the same order, so that switching one change off
  leaves the others as they were.

  Args:
    rng: Where all randomness comes from.
    config: `config.data.augment`.
  """
  # NumPy's clip takes longer on one number than all the rest of this.
  scale = 1 + config.scale_std * min(max(rng.standard_normal(), -1.0), 1.0)
  degrees = config.rotation_std_deg * min(max(rng.standard_normal(), -2.0), 2.0)
  turned = rng.random() < config.rotation_probability
  flip = rng.random() < config.flip_probability
  gain = 1 + config.color_gain * rng.uniform(-1, 1, 3)
  return Augmentation(
    scale=float(scale),
    rotation_rad=float(np.deg2rad(degrees)) if turned else 0.0,
    flip=bool(flip),
    color_gain=gain.astype(np.float32),
  )


def apply(
  example: Example,
  augmentation: Augmentation,
  crop_px: int,
  arithmetic: str = "exact",
  labels: LabelSet = BODY,
) -> dict[str, Any]:
  """Crops the picture and moves the labels with it.

  Joints are mirrored and turned about the camera's axis; a mirrored pose swaps
  left and right and keeps its shape, since bodies' shapes are symmetric. Labels
  that the example lacks, and joints of confidence 0, are zeros.

  Args:
    example: As stored; a valid one.
    augmentation: What to do to it.
    crop_px: Side of the square crop.
    arithmetic: Of the picture and the 2D joints: "exact", or the "released" code's
      with its rounding. `config.data.crop`.
    labels: The example's joints and rotations. A mirrored hand is the other hand.

  Returns:
    The fields of one example of `Batch`, except `valid`, `index` and `dataset`.

  Raises:
    ValueError: If the picture cannot be decoded.
  """
  view = {"exact": _exact_view, "released": _released_view}[arithmetic]
  image, places = view(example, augmentation, crop_px)
  has_mesh = bool(example["has_mesh"])
  pose = np.asarray(example["pose"]) * has_mesh
  if has_mesh:
    pose = augment_pose(pose, augmentation, labels)
  return {
    "image": image,
    "color_gain": augmentation.color_gain,
    "joints_2d": _joints_2d(example, places, augmentation, labels),
    "joints_3d_m": _joints_3d(example, augmentation, labels),
    "pose": pose.astype(np.float32),
    "shape": np.asarray(example["shape"], np.float32) * np.float32(has_mesh),
    "gender": np.int32(example.get("gender", 0)),
    "has_joints_2d": np.bool_(example["has_joints_2d"]),
    "has_joints_3d": np.bool_(example["has_joints_3d"]),
    "has_mesh": np.bool_(has_mesh),
  }


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
  linear = crop_px / (augmentation.scale * float(box_px)) * _plane(augmentation)
  offset = crop_px / 2 - linear @ np.asarray(center_px, np.float64)
  return np.concatenate([linear, offset[:, None]], axis=1)


def crop_jpeg(
  jpeg: bytes, affine: Float[np.ndarray, "2 3"], crop_px: int
) -> UInt8[np.ndarray, "crop_px crop_px 3"]:
  """Decodes a JPEG and crops it, at a reduced size where the crop is much smaller.

  Args:
    jpeg: The file's bytes.
    affine: Picture to crop, continuous pixels.
    crop_px: Side of the crop.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  shrink = _shrink(affine)
  reduction = next(n for n in _DECODER_REDUCTIONS if n <= max(shrink, 1))
  image = _decode(jpeg, reduction)
  cropped = crop(image, affine * [reduction, reduction, 1], crop_px)
  return cv2.cvtColor(cropped, cv2.COLOR_BGR2RGB, dst=cropped)  # fewer pixels than all


def crop(
  image: UInt8[np.ndarray, "h w 3"], affine: Float[np.ndarray, "2 3"], crop_px: int
) -> UInt8[np.ndarray, "crop_px crop_px 3"]:
  """Crops a decoded picture, bilinear, black beyond its border.

  A crop of less than half the resolution reads from a picture shrunk by area, so
  that fine patterns average out instead of aliasing.

  Args:
    image: RGB, or any three channels.
    affine: Picture to crop, continuous pixels.
    crop_px: Side of the crop.
  """
  shrink = int(_shrink(affine))
  if shrink >= 2:
    height, width = image.shape[:2]
    size = (-(-width // shrink), -(-height // shrink))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    affine = affine * [width / size[0], height / size[1], 1]
  # OpenCV's coordinates are 0 at the centre of the first pixel, ours are 0.5 there.
  affine = affine.copy()
  affine[:, 2] += affine[:, :2] @ [0.5, 0.5] - 0.5
  return cv2.warpAffine(image, affine, (crop_px, crop_px), flags=cv2.INTER_LINEAR)


def decode(jpeg: bytes, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes a JPEG to RGB.

  Args:
    jpeg: The file's bytes.
    reduction: 1, 2, 4 or 8: each pixel is the mean of so many pixels squared.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  image = _decode(jpeg, reduction)
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _decode(jpeg: bytes, reduction: int) -> UInt8[np.ndarray, "h w 3"]:
  """The same with blue first, as OpenCV has it."""
  buffer = np.frombuffer(jpeg, np.uint8)
  image = cv2.imdecode(buffer, _DECODER_REDUCTIONS[reduction]) if len(jpeg) else None
  if image is None:
    raise ValueError(f"image: expected a whole JPEG, got {len(jpeg)} bytes of no such")
  return image


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
  turns = np.asarray(pose, np.float64).reshape(len(labels.tree), 3)
  if augmentation.flip:
    turns = turns[_mirror_order(labels.tree)] * [1.0, -1.0, -1.0]
  if augmentation.rotation_rad:
    root = _turn_root(turns[0], augmentation.rotation_rad)
    turns = np.concatenate([root[None], turns[1:]])
  return turns.reshape(-1)


@functools.cache
def _mirror_order(names: tuple[str, ...]) -> Int[np.ndarray, " j"]:
  return joints.flip_permutation(names)


def _turn_root(
  root: Float[np.ndarray, "3"], angle_rad: float
) -> Float[np.ndarray, "3"]:
  """Axis-angle of Rz(angle) R(root), by one product of quaternions.

  On one vector many times faster than the matrices of `body.rotations`, and as
  exact near a half turn, where every standing body is.
  """
  half = np.linalg.norm(root) / 2
  w = np.cos(half)
  x, y, z = root * np.sinc(half / np.pi) / 2
  cosine, sine = np.cos(angle_rad / 2), np.sin(angle_rad / 2)
  w, z = cosine * w - sine * z, cosine * z + sine * w
  vector = np.array([cosine * x - sine * y, cosine * y + sine * x, z])
  length = np.linalg.norm(vector)
  return vector * (2 * np.arctan2(length, w) / length if length > 0 else 2.0)


def _turn(angle_rad: float) -> Float[np.ndarray, "2 2"]:
  cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
  return np.array([[cosine, -sine], [sine, cosine]])


def _plane(augmentation: Augmentation) -> Float[np.ndarray, "2 2"]:
  """R F: what the picture's plane goes through, but for the scale."""
  mirror = np.array([-1.0 if augmentation.flip else 1.0, 1.0])
  return _turn(augmentation.rotation_rad) * mirror


def _shrink(affine: Float[np.ndarray, "2 3"]) -> float:
  """Picture pixels a crop pixel, along a side."""
  (a, b, _), (c, d, _) = affine.tolist()
  return abs(a * d - b * c) ** -0.5


def _exact_view(
  example: Example, augmentation: Augmentation, crop_px: int
) -> tuple[np.ndarray, np.ndarray]:
  """The crop and the places of the joints in it, as this file computes them."""
  affine = crop_affine(example["center_px"], example["box_px"], augmentation, crop_px)
  points_px = np.asarray(example["joints_2d_px"], np.float64)[:, :2]
  points_px = points_px @ affine[:, :2].T + affine[:, 2]
  image = crop_jpeg(example["image"], affine, crop_px)
  return image, points_px * 2 / crop_px - 1


def _released_view(
  example: Example, augmentation: Augmentation, crop_px: int
) -> tuple[np.ndarray, np.ndarray]:
  """The same as the released code computes them; it turns first, then mirrors."""
  degrees = float(np.rad2deg(augmentation.rotation_rad))
  box = (
    example["center_px"],
    augmentation.scale * (float(example["box_px"]) / released_crop.SCALE_PX),
    crop_px,
    degrees if augmentation.flip else -degrees,
    augmentation.flip,
  )
  image = released_crop.crop(decode(example["image"]), *box)
  places = released_crop.joints_2d(example["joints_2d_px"][:, :2], *box)
  return np.rint(image).astype(np.uint8), places


def _joints_2d(
  example: Example, places: np.ndarray, augmentation: Augmentation, labels: LabelSet
) -> Float[np.ndarray, "j 3"]:
  points = np.concatenate([places, example["joints_2d_px"][:, 2:]], axis=1)
  return _finish(points, augmentation, bool(example["has_joints_2d"]), labels)


def _joints_3d(
  example: Example, augmentation: Augmentation, labels: LabelSet
) -> Float[np.ndarray, "j 4"]:
  points = np.array(example["joints_3d_m"], np.float64)
  points[:, :2] = points[:, :2] @ _plane(augmentation).T
  return _finish(points, augmentation, bool(example["has_joints_3d"]), labels)


def _finish(
  points: np.ndarray, augmentation: Augmentation, known: bool, labels: LabelSet
) -> np.ndarray:
  """Swaps left and right after a mirror; zeros where nothing is known."""
  if augmentation.flip:
    points = points[_mirror_order(labels.joints)]
  return np.where(known & (points[:, -1:] > 0), points, 0.0).astype(np.float32)
