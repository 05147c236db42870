"""One training sample as the original's data loader makes it, for comparison.

Everything happens on the host and in Python, sample by sample: the crop in float64,
colour, normalisation and channel order in float, every joint by itself, and the masks
of mask modelling. Both sides start from a JPEG's bytes and arrays of labels: the base64
and JSON that the original also reads are not counted.

Source: released code, metro/datasets/human_mesh_tsv.py and metro/utils/image_ops.py,
  by what they compute.
"""

from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from metro_jax.body import joints
from metro_jax.data import augment, released_crop
from metro_jax.data.readers.fields import BOX_PX_PER_SCALE
from metro_jax.data.schema import Example
from metro_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD

_J24_FLIP = joints.flip_permutation(joints.J24)
_SMPL24_FLIP = joints.flip_permutation(joints.SMPL24)


TOKENS = (14, 431)  # joints and vertices that mask modelling hides
MASK_FRACTION = 0.3


def sample(
  example: Example,
  drawn: augment.Augmentation,
  crop_px: int,
  rng: np.random.Generator,
) -> dict[str, np.ndarray]:
  """Decodes, crops, colours and normalises a picture, and moves a body's labels.

  Args:
    example: As stored.
    drawn: What to do to it.
    crop_px: Side of the crop.
    rng: Draws the masks.

  Returns:
    A float32 picture with its channels first, and labels.
  """
  degrees = float(np.rad2deg(drawn.rotation_rad))
  degrees = degrees if drawn.flip else -degrees  # it turns first, then mirrors
  scale = drawn.scale * float(example["box_px"]) / BOX_PX_PER_SCALE
  box = (example["center_px"], scale, crop_px, degrees, drawn.flip)
  return {
    "image": _picture(example["image"], box, drawn.color_gain),
    "joints_2d": _joints_2d(example["joints_2d_px"], box),
    "joints_3d": _joints_3d(example["joints_3d_m"], degrees, drawn.flip),
    "pose": _pose(example["pose"], degrees, drawn.flip),
    "shape": np.asarray(example["shape"], np.float32),
    "mask": np.concatenate([_mask(count, rng) for count in TOKENS]),
  }


def batch(
  source: Any, rows: range, config: ConfigDict, rng: np.random.Generator
) -> dict[str, np.ndarray]:
  """A batch of samples, one after another, stacked."""
  samples = []
  for row in rows:
    drawn = rng.random((1, augment.NUMBERS))
    (change,) = augment.sample(drawn, config.data.augment)
    samples.append(sample(source[row], change, config.data.image_px, rng))
  return {key: np.stack([one[key] for one in samples]) for key in samples[0]}


def _picture(jpeg: bytes, box: tuple[Any, ...], gain: np.ndarray) -> np.ndarray:
  encoded = np.frombuffer(jpeg, np.uint8)
  image = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
  crop = released_crop.cut_out(image, *box)
  for channel in range(3):
    coloured = crop[:, :, channel] * gain[channel]
    crop[:, :, channel] = np.minimum(255.0, np.maximum(0.0, coloured))
  planes = np.transpose(crop.astype(np.float32), (2, 0, 1)) / 255.0
  mean = np.asarray(IMAGENET_MEAN, np.float32)[:, None, None]
  std = np.asarray(IMAGENET_STD, np.float32)[:, None, None]
  normalized = planes.copy()  # the original's are kept for pictures of a run
  normalized -= mean
  normalized /= std
  return normalized


def _joints_2d(points: np.ndarray, box: tuple[Any, ...]) -> np.ndarray:
  center_px, scale, crop_px, degrees, flip = box
  moved = np.array(points, np.float64)
  for n in range(len(moved)):
    # Neither the map nor its rotation is kept from one joint to the next.
    zoom = _zoom(center_px, scale, crop_px, degrees)
    place = np.dot(zoom, np.array([moved[n, 0], moved[n, 1], 1.0]))
    moved[n, :2] = place[:2].astype(int) + 1
  moved[:, :2] = 2.0 * moved[:, :2] / crop_px - 1.0
  if flip:
    moved[:, 0] = -moved[:, 0]
  return _flipped(moved, flip).astype(np.float32)


def _zoom(
  center_px: np.ndarray, scale: float, crop_px: int, degrees: float
) -> np.ndarray:
  """As `released_crop.affine`, by as few operations as the original takes."""
  side_px = BOX_PX_PER_SCALE * scale
  zoom = np.zeros((3, 3))
  zoom[0, 0] = zoom[1, 1] = crop_px / side_px
  zoom[0, 2] = crop_px * (-float(center_px[0]) / side_px + 0.5)
  zoom[1, 2] = crop_px * (-float(center_px[1]) / side_px + 0.5)
  zoom[2, 2] = 1
  if degrees == 0:
    return zoom
  angle = -degrees * np.pi / 180
  sine, cosine = np.sin(angle), np.cos(angle)
  turn, to_middle = np.zeros((3, 3)), np.eye(3)
  turn[0, :2], turn[1, :2], turn[2, 2] = [cosine, -sine], [sine, cosine], 1
  to_middle[:2, 2] = -crop_px / 2
  back = to_middle.copy()
  back[:2, 2] *= -1
  return np.dot(back, np.dot(turn, np.dot(to_middle, zoom)))


def _joints_3d(points: np.ndarray, degrees: float, flip: bool) -> np.ndarray:
  moved = np.array(points, np.float64)
  cosine, sine = np.cos(np.deg2rad(-degrees)), np.sin(np.deg2rad(-degrees))
  turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
  moved[:, :3] = np.einsum("ij,kj->ki", turn, moved[:, :3])
  if flip:
    moved[:, 0] = -moved[:, 0]
  return _flipped(moved, flip).astype(np.float32)


def _flipped(points: np.ndarray, flip: bool) -> np.ndarray:
  return points[_J24_FLIP] if flip and len(points) == len(_J24_FLIP) else points


def _pose(pose: np.ndarray, degrees: float, flip: bool) -> np.ndarray:
  turns = np.array(pose, np.float64).reshape(-1, 3)
  angle = np.deg2rad(-degrees)
  about_z = np.array(
    [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
  )
  root, _ = cv2.Rodrigues(turns[0])
  turned, _ = cv2.Rodrigues(about_z @ root)
  turns[0] = turned[:, 0]
  if flip and len(turns) == len(_SMPL24_FLIP):
    turns = turns[_SMPL24_FLIP] * [1.0, -1.0, -1.0]
  return turns.ravel().astype(np.float32)


def _mask(count: int, rng: np.random.Generator) -> np.ndarray:
  """Ones, and zeros for the tokens that are hidden, as a column."""
  mask = np.ones((count, 1), np.float32)
  hidden = int(rng.random() * MASK_FRACTION * count)
  mask[rng.choice(count, hidden, replace=False)] = 0
  return mask
