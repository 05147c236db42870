"""The square that a network sees best: tight around the person, the torso upright.

In prediction a first pass over a loose square says where the joints are, and a second
one sees the square that `upright` makes of them; `train_view` draws squares of both.

Source: crops of MediaPipe's pose tracking, which are turned by the line from hips to
  shoulders (Bazarevsky et al., "BlazePose", 2020).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from metro_jax.body import joints
from metro_jax.data.augment import Augmentation
from metro_jax.data.schema import Example

MARGIN = 1.25  # side of the square over the joints' extent: hands, feet, the skull
LEAST = 1.6  # smallest side over the torso's length: people who curl up
FIRST_PASSES = 0.3  # share of the training views that are as a first pass sees them
LOOSE = 1.2  # side of such a square over the joints' extent
TORSO = joints.index(joints.J14, ("L_Shoulder", "R_Shoulder", "L_Hip", "R_Hip"))


class Frame(NamedTuple):
  """A square of a picture, turned.

  Attributes:
    center_px: Middle, x and y.
    side_px: Side.
    rotation_rad: How far its content is turned to stand in the crop, from right
      towards down: clockwise as seen.
  """

  center_px: Float[np.ndarray, "2"]
  side_px: float
  rotation_rad: float


def upright(joints_px: Float[np.ndarray, "14 2"]) -> Frame:
  """Frames a person by its J14 joints.

  The line from the middle of the hips to that of the shoulders points up in the crop.

  Args:
    joints_px: In the picture, all of them, as labelled or as a first pass says.
  """
  shoulders, hips = (joints_px[TORSO[i : i + 2]].mean(axis=0) for i in (0, 2))
  up = shoulders - hips
  rotation_rad = float(-np.pi / 2 - np.arctan2(up[1], up[0]))
  turn = _turn(rotation_rad)
  turned = joints_px @ turn.T
  low, high = turned.min(axis=0), turned.max(axis=0)
  side_px = max(MARGIN * (high - low).max(), LEAST * float(np.hypot(*up)), 1.0)
  return Frame((low + high) / 2 @ turn, float(side_px), _within_turn(rotation_rad))


def _within_turn(angle_rad: float) -> float:
  """The same angle from -pi to pi."""
  return float((angle_rad + np.pi) % (2 * np.pi) - np.pi)


def train_view(
  rng: np.random.Generator, example: Example, augmentation: Augmentation
) -> tuple[Example, Augmentation]:
  """Frames an example for training, as one of the passes of prediction would.

  A first pass sees an upright picture and a box that is more or less loose; a second
  one what `upright` makes of joints that are a little wrong.

  Args:
    rng: Where the randomness comes from; the result depends on nothing else.
    example: With 2D joints; one without all of the J14 keeps its box.
    augmentation: Its turn and scale are replaced.

  Returns:
    The example with another box, and what then happens to it.
  """
  j14 = example["joints_2d_px"][joints.J14_FROM_J24]
  noise, first = rng.standard_normal((17, 2)), rng.random() < FIRST_PASSES
  u = rng.random()
  if not (example["has_joints_2d"] and (j14[:, 2] > 0).all()):
    return example, augmentation
  points = j14[:, :2].astype(np.float64)
  extent = np.ptp(points, axis=0).max()
  if first:
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    frame = Frame(middle, float(LOOSE * extent), 0.0)
    shift, scale, degrees = 0.05, 0.9 + 0.5 * u, 12.0
  else:
    frame = upright(points + 0.03 * extent * noise[:14])
    shift, scale, degrees = 0.03, 0.92 + 0.23 * u, 10.0
  center_px = frame.center_px + shift * frame.side_px * noise[14]
  upright_rad = -frame.rotation_rad if augmentation.flip else frame.rotation_rad
  turn = upright_rad + np.radians(degrees) * float(noise[15, 0])
  changed = {
    "center_px": center_px.astype(np.float32),
    "box_px": np.float32(frame.side_px),
  }
  return {**example, **changed}, augmentation._replace(scale=scale, rotation_rad=turn)


def turn_back(
  points_m: Float[np.ndarray, "n 3"],
  camera: Float[np.ndarray, "3"],
  frame: Frame,
  box: Frame,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "3"]]:
  """Tells what was seen in a turned square in terms of an upright one.

  With R the frame's turn, points become Rᵀ X and a camera (s, t) becomes s' = s side /
  side', t' = Rᵀ t + (c - c') / (s' side' / 2), which sends them to the same pixels.

  Args:
    points_m: Camera frame of the turned crop.
    camera: s, tx, ty of the same.
    frame: The turned square.
    box: The upright one, of the same picture.

  Returns:
    Points in the picture's own camera frame, and s, tx, ty of the box.
  """
  turn = _turn(frame.rotation_rad)
  back_m = points_m.copy()
  back_m[:, :2] = points_m[:, :2] @ turn
  s = camera[0] * frame.side_px / box.side_px
  moved = (frame.center_px - box.center_px) * (2 / (box.side_px * s))
  shift = camera[1:] @ turn + moved
  return back_m, np.array([s, *shift], camera.dtype)


def _turn(angle_rad: float) -> Float[np.ndarray, "2 2"]:
  """Turns column vectors from x towards y."""
  c, s = np.cos(angle_rad), np.sin(angle_rad)
  return np.array([[c, -s], [s, c]])
