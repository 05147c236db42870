"""How cameras are held and what they see: tilts, focal lengths, perspective."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from metro_jax.body import camera, rotations

FRAME_MM = 36.0  # long side of the frame that focal lengths are told for
NEAREST_M = 0.3  # between the camera and the body's nearest point
NARROWEST = 0.3  # tangent of half the field that a backdrop shows at least


class Tilt(NamedTuple):
  """How a camera is held in an upright place: looking down, and rolled."""

  pitch_rad: float
  roll_rad: float

  def to_camera(self) -> Float[np.ndarray, "3 3"]:
    """R_roll R_pitch R_x(pi): y up to the camera's x right, y down, z away."""
    vectors = np.array(
      [[0, 0, self.roll_rad], [self.pitch_rad, 0, 0], [np.pi, 0, 0]], np.float64
    )
    return np.linalg.multi_dot(rotations.axis_angle_to_matrix(vectors))

  @classmethod
  def of(cls, to_camera: Float[np.ndarray, "3 3"]) -> "Tilt":
    """The tilt whose `to_camera` is given."""
    roll = np.arctan2(to_camera[0, 1], -to_camera[1, 1])
    pitch = np.arcsin(np.clip(-to_camera[2, 1], -1, 1))
    return cls(float(pitch), float(roll))


def sample_tilt(rng: np.random.Generator, wide: bool = False) -> Tilt:
  """Draws a tilt: cameras mostly look down a little.

  Args:
    rng: Where the randomness comes from.
    wide: Also cameras that look steeply up and down, and are held askew.
  """
  if not wide:
    pitch = np.clip(rng.normal(8.0, 12.0), -20.0, 40.0)
    roll = np.clip(rng.normal(0.0, 4.0), -12.0, 12.0)
  elif rng.random() < 0.65:
    pitch, roll = rng.normal(10.0, 14.0), rng.normal(0.0, 6.0)
  else:
    pitch, roll = rng.uniform(-40.0, 75.0), rng.normal(0.0, 15.0)
  return Tilt(float(np.radians(pitch)), float(np.radians(roll)))


class Lens(NamedTuple):
  """A focal length, and how much of the frame's long side the body fills."""

  focal_mm: float
  fill: float


def sample_lens(rng: np.random.Generator) -> Lens:
  """Draws a phone's or a camera's lens, 24 to 200 mm."""
  longest = 40.0 if rng.random() < 0.6 else 200.0
  focal_mm = 24.0 * (longest / 24.0) ** rng.random()
  return Lens(float(focal_mm), float(rng.uniform(0.3, 1.0)))


class Pinhole(NamedTuple):
  """A camera on the axis of the box: x2d = s (X_xy + (tx, ty)) d / (Z + d)."""

  weak: Float[np.ndarray, "3"]  # s, tx, ty
  depth_m: float  # d, of the points' origin

  def project(self, points_m: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 2"]:
    """Crop coordinates in [-1, 1] of camera-frame points."""
    nearer = self.depth_m / (points_m[:, 2:] + self.depth_m)
    return camera.weak_perspective(points_m, self.weak) * nearer


def depth_m(lens: Lens, vertices_m: Float[np.ndarray, "v 3"]) -> float:
  """How far a body stands to fill its share of the frame, at least `NEAREST_M` off."""
  extent_m = float(np.ptp(vertices_m[:, :2], axis=0).max())
  distance_m = extent_m * lens.focal_mm / (FRAME_MM * lens.fill)
  return max(distance_m, NEAREST_M - float(vertices_m[:, 2].min()))


def flatten(
  vertices_m: Float[np.ndarray, "v 3"], depth_m: float | None
) -> Float[np.ndarray, "v 2"]:
  """Where points are seen in the plane through the origin; None is infinitely far."""
  if depth_m is None:
    return vertices_m[:, :2]
  return vertices_m[:, :2] * (depth_m / (vertices_m[:, 2:] + depth_m))


def fit_weak(
  points_m: Float[np.ndarray, "n 3"], seen: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "3"]:
  """The weak-perspective camera that is closest to what is seen, least squares.

  Args:
    points_m: Camera frame.
    seen: Their crop coordinates.

  Returns:
    s, tx, ty.
  """
  flat = points_m[:, :2].astype(np.float64)
  middle, center = flat.mean(axis=0), seen.mean(axis=0)
  away = flat - middle
  s = (away * (seen - center)).sum() / (away * away).sum()
  return np.array([s, *(center / s - middle)], np.float32)


def half_width(pinhole: Pinhole | None, box_px: float, side_px: int) -> float:
  """Tangent of half the field of view of a whole picture, at least `NARROWEST`."""
  if pinhole is None:
    return NARROWEST
  tangent = side_px / box_px / (float(pinhole.weak[0]) * pinhole.depth_m)
  return max(tangent, NARROWEST)
