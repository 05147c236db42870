"""The square that a network sees best: tight around the person, the torso upright.

Source: crops of MediaPipe's pose tracking, which are turned by the line from hips to
  shoulders (Bazarevsky et al., "BlazePose", 2020).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from metro_jax.body import joints

MARGIN = 1.25  # side of the square over the joints' extent: hands, feet, the skull
LEAST = 1.6  # smallest side over the torso's length: people who curl up
_TORSO = joints.index(joints.J14, ("L_Shoulder", "R_Shoulder", "L_Hip", "R_Hip"))


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
  shoulders, hips = (joints_px[_TORSO[i : i + 2]].mean(axis=0) for i in (0, 2))
  up = shoulders - hips
  rotation_rad = float(-np.pi / 2 - np.arctan2(up[1], up[0]))
  c, s = np.cos(rotation_rad), np.sin(rotation_rad)
  turn = np.array([[c, -s], [s, c]])
  turned = joints_px @ turn.T
  low, high = turned.min(axis=0), turned.max(axis=0)
  side_px = max(MARGIN * (high - low).max(), LEAST * float(np.hypot(*up)), 1.0)
  return Frame((low + high) / 2 @ turn, float(side_px), _within_turn(rotation_rad))


def _within_turn(angle_rad: float) -> float:
  """The same angle from -pi to pi."""
  return float((angle_rad + np.pi) % (2 * np.pi) - np.pi)
