"""Poses: everyday stances, scattered, inside the limits of human joints."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from metro_jax.body import rotations
from metro_jax.data.builders.synthetic import anatomy
from metro_jax.data.builders.synthetic.anatomy import ANGLES

# Standing at ease: mean and spread. Every stance starts here and says what differs.
REST = {
  "spine_flexion": (4, 8),
  "spine_bend": (0, 6),
  "spine_twist": (0, 8),
  "neck_flexion": (4, 13),
  "neck_bend": (0, 7),
  "neck_twist": (0, 20),
  "hip_flexion": (3, 6),
  "hip_abduction": (5, 5),
  "hip_twist": (-6, 8),
  "knee_flexion": (6, 7),
  "ankle_flexion": (2, 5),
  "ankle_inversion": (0, 4),
  "toe_flexion": (0, 3),
  "collar_elevation": (0, 4),
  "collar_azimuth": (0, 5),
  "shoulder_elevation": (-70, 8),
  "shoulder_azimuth": (20, 22),
  "shoulder_twist": (0, 20),
  "elbow_flexion": (18, 14),
  "forearm_twist": (0, 22),
  "wrist_flexion": (0, 14),
  "wrist_deviation": (0, 7),
  "finger_flexion": (15, 10),
}


class Stance(NamedTuple):
  """One everyday stance: mean and spread of the angles that differ from rest.

  `first` and `second` add to `both` for one side and the other; which of them is the
  left is a coin's toss. `lean_deg` tips the whole body forward.
  """

  weight: float
  both: Mapping[str, tuple[float, float]]
  first: Mapping[str, tuple[float, float]] = {}
  second: Mapping[str, tuple[float, float]] = {}
  lean_deg: tuple[float, float] = (0.0, 4.0)


_FREE_ARM = {
  "shoulder_elevation": (-30, 38),
  "shoulder_azimuth": (45, 38),
  "shoulder_twist": (0, 30),
  "elbow_flexion": (50, 36),
  "collar_elevation": (3, 6),
}
_REACHING_ARM = {
  "shoulder_elevation": (5, 28),
  "shoulder_azimuth": (65, 28),
  "elbow_flexion": (20, 18),
  "collar_azimuth": (8, 6),
  "collar_elevation": (6, 6),
}
_SEATED_LEGS = {
  "hip_flexion": (82, 10),
  "hip_abduction": (12, 9),
  "hip_twist": (0, 10),
  "knee_flexion": (85, 16),
  "ankle_flexion": (0, 9),
}
_SWINGING_ARM = {"shoulder_azimuth": (55, 25), "elbow_flexion": (28, 18)}

STANCES = {
  "standing": Stance(0.16, {}),
  "standing_busy": Stance(0.14, _FREE_ARM),
  "contrapposto": Stance(
    0.05,
    {"spine_bend": (6, 5), "hip_abduction": (8, 5)},
    first={"hip_flexion": (18, 8), "knee_flexion": (30, 12)},
    second={
      "shoulder_elevation": (-38, 7),
      "shoulder_azimuth": (0, 12),
      "shoulder_twist": (45, 12),
      "elbow_flexion": (95, 12),
    },
  ),
  "walking": Stance(
    0.13,
    {"spine_flexion": (5, 6), "hip_abduction": (2, 3)},
    first={
      "hip_flexion": (26, 9),
      "knee_flexion": (14, 10),
      "ankle_flexion": (4, 7),
      "shoulder_elevation": (-70, 7),
      "shoulder_azimuth": (-55, 15),
      "elbow_flexion": (18, 12),
    },
    second={
      "hip_flexion": (-9, 7),
      "knee_flexion": (30, 20),
      "ankle_flexion": (-12, 10),
      "toe_flexion": (12, 8),
      "shoulder_elevation": (-62, 9),
      **_SWINGING_ARM,
    },
    lean_deg=(4.0, 4.0),
  ),
  "running": Stance(
    0.06,
    {"spine_flexion": (10, 7), "elbow_flexion": (88, 16), "hip_abduction": (2, 3)},
    first={
      "hip_flexion": (55, 15),
      "knee_flexion": (65, 22),
      "shoulder_elevation": (-58, 10),
      "shoulder_azimuth": (-60, 10),
    },
    second={
      "hip_flexion": (-8, 8),
      "knee_flexion": (45, 28),
      "ankle_flexion": (-20, 12),
      "shoulder_elevation": (-48, 12),
      "shoulder_azimuth": (65, 15),
    },
    lean_deg=(10.0, 5.0),
  ),
  "sitting": Stance(
    0.13,
    {
      **_SEATED_LEGS,
      "spine_flexion": (14, 12),
      "shoulder_elevation": (-55, 13),
      "shoulder_azimuth": (62, 20),
      "elbow_flexion": (58, 25),
    },
    lean_deg=(-4.0, 9.0),
  ),
  "sitting_busy": Stance(
    0.06, {**_SEATED_LEGS, **_FREE_ARM, "spine_flexion": (18, 14)}, lean_deg=(-2.0, 9.0)
  ),
  "sitting_on_floor": Stance(
    0.04,
    {
      "spine_flexion": (28, 14),
      "hip_flexion": (88, 12),
      "hip_abduction": (20, 12),
      "hip_twist": (-15, 12),
      "knee_flexion": (75, 45),
      "shoulder_elevation": (-50, 14),
      "shoulder_azimuth": (60, 25),
      "elbow_flexion": (45, 25),
    },
    lean_deg=(-14.0, 8.0),
  ),
  "reaching": Stance(
    0.10,
    {"spine_flexion": (12, 14), "spine_twist": (0, 14), "spine_bend": (0, 10)},
    first=_REACHING_ARM,
    second={"hip_flexion": (10, 12), "knee_flexion": (15, 12)},
    lean_deg=(2.0, 4.0),
  ),
  "reaching_with_both": Stance(
    0.05, {"spine_flexion": (10, 14), **_REACHING_ARM}, lean_deg=(2.0, 4.0)
  ),
  "bending": Stance(
    0.05,
    {
      "spine_flexion": (48, 16),
      "hip_flexion": (45, 18),
      "knee_flexion": (22, 18),
      "shoulder_elevation": (-28, 22),
      "shoulder_azimuth": (80, 18),
      "elbow_flexion": (25, 18),
    },
    lean_deg=(35.0, 12.0),
  ),
  "crouching": Stance(
    0.06,
    {
      "spine_flexion": (28, 14),
      "hip_flexion": (100, 14),
      "hip_abduction": (18, 10),
      "knee_flexion": (122, 14),
      "ankle_flexion": (16, 8),
      "shoulder_elevation": (-42, 18),
      "shoulder_azimuth": (72, 20),
      "elbow_flexion": (48, 28),
    },
    lean_deg=(18.0, 9.0),
  ),
  "squatting": Stance(
    0.03,
    {"hip_flexion": (75, 18), "hip_abduction": (14, 8), "knee_flexion": (80, 18)}
    | _REACHING_ARM,
    lean_deg=(22.0, 8.0),
  ),
  "kneeling": Stance(
    0.03,
    {**_FREE_ARM, "spine_flexion": (12, 12)},
    first={"hip_flexion": (88, 10), "knee_flexion": (92, 10)},
    second={
      "hip_flexion": (4, 8),
      "knee_flexion": (95, 12),
      "ankle_flexion": (-32, 8),
    },
  ),
  "lunging": Stance(
    0.04,
    {**_FREE_ARM, "spine_flexion": (6, 10)},
    first={"hip_flexion": (70, 15), "knee_flexion": (75, 18)},
    second={"hip_flexion": (-12, 7), "knee_flexion": (25, 18), "ankle_flexion": (5, 9)},
    lean_deg=(10.0, 8.0),
  ),
  "one_leg": Stance(
    0.03,
    _FREE_ARM,
    first={
      "hip_flexion": (55, 28),
      "hip_abduction": (14, 14),
      "knee_flexion": (60, 40),
    },
  ),
  "arms_up": Stance(
    0.06,
    {
      "shoulder_elevation": (55, 18),
      "shoulder_azimuth": (35, 25),
      "collar_elevation": (16, 6),
      "elbow_flexion": (35, 30),
    },
  ),
  "one_arm_up": Stance(
    0.05,
    {},
    first={
      "shoulder_elevation": (52, 20),
      "shoulder_azimuth": (35, 28),
      "collar_elevation": (15, 6),
      "elbow_flexion": (40, 32),
    },
  ),
  "arms_wide": Stance(
    0.03,
    {
      "shoulder_elevation": (0, 16),
      "shoulder_azimuth": (5, 18),
      "elbow_flexion": (14, 14),
    },
  ),
}


def sample_pose(
  rng: np.random.Generator, rest_joints_m: Float[np.ndarray, "24 3"]
) -> Float[np.ndarray, " 72"]:
  """Draws a stance and scatters it, inside the limits and without crossed limbs.

  Args:
    rng: Where the randomness comes from; the result depends on nothing else.
    rest_joints_m: Joints of a typical body's rest pose, to see which limbs cross.

  Returns:
    SMPL's axis-angle of 24 joints, radians, in the body's own frame: the root's is
    only the lean of the stance.
  """
  weights = np.array([stance.weight for stance in STANCES.values()])
  chosen = rng.choice(len(weights), p=weights / weights.sum())
  name = list(STANCES)[chosen]
  for _ in range(_ROUNDS):
    poses = anatomy.angles_to_pose(sample_angles(rng, name, _TRIES))
    poses[:, 0, 0] = np.radians(rng.normal(*STANCES[name].lean_deg, _TRIES))
    free = anatomy.clearance_m(poses, rest_joints_m)
    if free.max() >= 0:
      break
  # The first pose that is clear of itself; else the one that is least crossed.
  best = np.argmax(free >= 0) if free.max() >= 0 else np.argmax(free)
  return poses[best].reshape(72).astype(np.float32)


_TRIES, _ROUNDS = 4, 4


def sample_angles(
  rng: np.random.Generator, stance: str, count: int
) -> Float[np.ndarray, "n a 2"]:
  """Draws the angles of a stance.

  Args:
    rng: Where the randomness comes from.
    stance: A name of `STANCES`.
    count: Poses to draw.

  Returns:
    Degrees in the order of `anatomy.ANGLES`, left and right, inside
    `anatomy.LIMITS_DEG`. Angles of the trunk have the same number twice.
  """
  mean, spread = _stance_table(stance)
  return scatter(rng, mean, spread, count)


def scatter(
  rng: np.random.Generator,
  mean_deg: Float[np.ndarray, "a 2"],
  spread_deg: Float[np.ndarray, "a 2"],
  count: int,
) -> Float[np.ndarray, "n a 2"]:
  """Draws angles around a mean, inside the limits, half of them mirrored."""
  noise = rng.standard_normal((count, *mean_deg.shape)).clip(-2.5, 2.5)
  angles = anatomy.inside_limits(mean_deg + spread_deg * noise)
  turned = rng.random(count) < 0.5
  angles[turned] = anatomy.mirror(angles[turned])
  return angles


@functools.cache
def _stance_table(name: str):
  return mean_and_spread(STANCES[name])


def mean_and_spread(
  stance: Stance,
) -> tuple[Float[np.ndarray, "a 2"], Float[np.ndarray, "a 2"]]:
  """Degrees of every angle of a stance on its first and second side."""
  sides = []
  for side in (stance.first, stance.second):
    angles = {**REST, **stance.both, **side}
    sides.append([angles[angle] for angle in ANGLES])
  mean, spread = np.array(sides, np.float64).transpose(2, 1, 0)
  return mean, spread


def turn_root(
  lean: Float[np.ndarray, "3"], heading_rad: float, pitch_rad: float, roll_rad: float
) -> Float[np.ndarray, "3"]:
  """Turns a body from its own frame into the camera's.

  R = R_roll R_pitch R_x(π) R_heading R_lean

  Args:
    lean: Axis-angle of the root in the body's own frame.
    heading_rad: Where it faces.
    pitch_rad: How far the camera looks down.
    roll_rad: How far the picture is turned.

  Returns:
    Axis-angle of the root in the camera frame, radians.
  """
  vectors = np.zeros((5, 3))
  vectors[0, 2] = roll_rad
  vectors[1, 0] = pitch_rad
  vectors[2, 0] = np.pi
  vectors[3, 1] = heading_rad
  vectors[4] = lean
  turns = rotations.axis_angle_to_matrix(vectors)
  matrix = np.linalg.multi_dot(turns)
  return rotations.matrix_to_axis_angle(matrix).astype(np.float32)
