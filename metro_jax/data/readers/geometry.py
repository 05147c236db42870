"""What label files need to become labels: joints by name, projection, boxes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from metro_jax.body import joints, rotations
from metro_jax.data.schema import LabelSet

# The side of a person's square box, in longer sides of what is labelled; SPIN's.
BOX_MARGIN = 1.2
SURE = 0.1  # a detector's joints of less are not drawn, let alone trusted
# Names whose points are the same in SMPL's tree and in J24.
SMPL_IN_J24 = tuple(
  name for name in joints.J24 if name in joints.SMPL24 and name not in joints.EXTRA14
)


def place(
  labels: LabelSet, names: Sequence[str], values: Float[np.ndarray, "n c"]
) -> Float[np.ndarray, "j c"]:
  """Puts labelled joints into the places of a label set; the others are zeros.

  Args:
    labels: Whose joints to make.
    names: Of the joints given; those that the set lacks are left out.
    values: Coordinates and confidence of each.
  """
  placed = np.zeros((len(labels.joints), values.shape[1]))
  position = {name: i for i, name in enumerate(labels.joints)}
  for name, value in zip(names, values, strict=True):
    if name in position:
      placed[position[name]] = value
  return placed


def with_confidence(
  points: Float[np.ndarray, "n c"], confidence: Float[np.ndarray, " n"] | float = 1.0
) -> Float[np.ndarray, "n d"]:
  """Points with their confidence as a last column."""
  column = np.broadcast_to(np.asarray(confidence, np.float64), (len(points),))
  return np.concatenate([points, column[:, None]], axis=1)


def project(
  points_m: Float[np.ndarray, "n 3"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "n 2"]:
  """Pixels of points in the camera frame: (u, v) = (K X)_xy / (K X)_z.

  Raises:
    ValueError: If a point lies behind the camera.
  """
  nearest = points_m[:, 2].min()
  if not nearest > 0:
    raise ValueError(f"3D joints: expected them before the camera, got z = {nearest:g}")
  points = np.asarray(points_m, np.float64) @ np.asarray(intrinsics, np.float64).T
  return points[:, :2] / points[:, 2:]


def box_around(
  points_px: Float[np.ndarray, "n 2"], margin: float = BOX_MARGIN
) -> tuple[Float[np.ndarray, "2"], float]:
  """Middle and side of the square around points.

  Args:
    points_px: At least one.
    margin: Side of the square in longer sides of the points' rectangle.

  Raises:
    ValueError: If there are no points, or all are one.
  """
  if len(points_px) == 0:
    raise ValueError("box: expected a labelled joint, got none")
  low, high = points_px.min(axis=0), points_px.max(axis=0)
  side = margin * float((high - low).max())
  if not side > 0:
    raise ValueError("box: expected joints apart, got all in one place")
  return (low + high) / 2, side


def box_around_joints(
  joints_px: Float[np.ndarray, "n 3"], margin: float = BOX_MARGIN
) -> tuple[Float[np.ndarray, "2"], float]:
  """Middle and side of the square around the joints that somebody is sure of.

  Args:
    joints_px: x, y and confidence; those below `SURE` may lie anywhere.
    margin: Side of the square in longer sides of the joints' rectangle.

  Raises:
    ValueError: If nobody is sure of any, with the number and the limit, or all are one.
  """
  confidence = joints_px[:, 2]
  sure = confidence >= SURE
  if not sure.any() and (confidence > 0).any():
    raise ValueError(
      f"box: expected a joint of confidence {SURE:g} or more to put it around, the "
      f"surest has {confidence.max():g}"
    )
  return box_around(joints_px[sure, :2], margin)


def turn_root(
  pose: Float[np.ndarray, " p"], turn: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " p"]:
  """A pose whose root is turned further: R_root becomes R R_root.

  Args:
    pose: Axis-angle of every joint.
    turn: From the frame that the root turns into to another, as world to camera.
  """
  turned = np.array(pose, np.float64)
  root = rotations.axis_angle_to_matrix(turned[:3])
  turned[:3] = rotations.matrix_to_axis_angle(np.asarray(turn, np.float64) @ root)
  return turned
