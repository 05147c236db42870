"""Anatomical angles: their limits, the joints' turns they mean, and where limbs go.

A pose is first a table of named angles in degrees. The same name on the left and on
the right means the same movement, so mirroring a pose is swapping two columns. Ball
joints are a swing, the shortest turn that points the bone somewhere, after a twist
about the bone. Hinges turn about one axis of the rest pose.
"""

import numpy as np
from jaxtyping import Float

from metro_jax.body import joints, rotations

# Lowest and highest angle, degrees. Flexion brings the limb forward or folds it;
# abduction moves it away from the middle; elevation is above the horizontal; azimuth
# is forward of straight sideways; positive twist turns inward.
LIMITS_DEG = {
  "spine_flexion": (-20.0, 80.0),
  "spine_bend": (-30.0, 30.0),
  "spine_twist": (-40.0, 40.0),
  "neck_flexion": (-45.0, 45.0),
  "neck_bend": (-30.0, 30.0),
  "neck_twist": (-65.0, 65.0),
  "hip_flexion": (-20.0, 120.0),
  "hip_abduction": (-15.0, 50.0),
  "hip_twist": (-40.0, 35.0),
  "knee_flexion": (0.0, 145.0),
  "ankle_flexion": (-45.0, 25.0),
  "ankle_inversion": (-12.0, 20.0),
  "toe_flexion": (-40.0, 25.0),
  "collar_elevation": (-8.0, 25.0),
  "collar_azimuth": (-15.0, 20.0),
  "shoulder_elevation": (-82.0, 75.0),
  "shoulder_azimuth": (-80.0, 125.0),
  "shoulder_twist": (-75.0, 70.0),
  "elbow_flexion": (0.0, 145.0),
  "forearm_twist": (-75.0, 75.0),
  "wrist_flexion": (-55.0, 60.0),
  "wrist_deviation": (-18.0, 28.0),
  "finger_flexion": (-5.0, 40.0),
}
ANGLES = tuple(LIMITS_DEG)
_LOWEST, _HIGHEST = np.array(list(LIMITS_DEG.values())).T[..., None]
_ON_TRUNK = [i for i, n in enumerate(ANGLES) if n.startswith(("spine", "neck"))]
_SIDEWAYS = [i for i in _ON_TRUNK if not ANGLES[i].endswith("flexion")]


def backward_limit_deg(
  elevation_deg: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, "n 2"]:
  """The lowest shoulder azimuth: an arm swings further back the lower it hangs."""
  return -35.0 + 0.55 * np.minimum(elevation_deg, 0.0)


def inside_limits(angles_deg: Float[np.ndarray, "n a 2"]) -> Float[np.ndarray, "n a 2"]:
  """The nearest angles that joints allow, the trunk's from the left column."""
  angles = angles_deg.clip(_LOWEST, _HIGHEST)
  elevation, azimuth = (
    ANGLES.index(f"shoulder_{kind}") for kind in ("elevation", "azimuth")
  )
  lowest = backward_limit_deg(angles[:, elevation])
  angles[:, azimuth] = np.maximum(angles[:, azimuth], lowest)
  angles[:, _ON_TRUNK, 1] = angles[:, _ON_TRUNK, 0]
  return angles


def mirror(angles_deg: Float[np.ndarray, "n a 2"]) -> Float[np.ndarray, "n a 2"]:
  """The same movements with left and right exchanged."""
  swapped = angles_deg[..., ::-1].copy()
  swapped[:, _SIDEWAYS] *= -1.0
  return swapped


def angles_to_pose(
  angles_deg: Float[np.ndarray, "n a 2"],
) -> Float[np.ndarray, "n 24 3"]:
  """SMPL's axis-angle vectors of named angles; the root's is zero.

  Args:
    angles_deg: In the order of `ANGLES`, left and right.

  Returns:
    Radians, in the order of `joints.SMPL24`.
  """
  a = dict(zip(ANGLES, np.radians(angles_deg).swapaxes(0, 1), strict=True))
  pose = np.zeros((len(angles_deg), len(joints.SMPL24), 3))
  for part, bones in _TRUNK_JOINTS.items():
    kinds = ("flexion", "twist", "bend")
    turn = np.stack([a[f"{part}_{kind}"][:, 0] for kind in kinds], axis=-1)
    for bone, share in bones.items():
      pose[:, joints.SMPL24.index(bone)] = share * turn
  for bone, turn in _limb_turns(a).items():
    for side, letter in enumerate("LR"):
      mirror = (1.0, -1.0, -1.0) if side else 1.0
      pose[:, joints.SMPL24.index(f"{letter}_{bone}")] = turn[:, side] * mirror
  return pose


_TRUNK_JOINTS = {
  "spine": {"Spine1": 0.4, "Spine2": 0.3, "Spine3": 0.3},
  "neck": {"Neck": 0.5, "Head": 0.5},
}


def _limb_turns(a: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Axis-angle of the limbs' joints as if both sides were the left: (n, 2, 3)."""
  zero = np.zeros_like(a["knee_flexion"])
  hip, shoulder = _ball_turns(a)
  elbow = np.stack([zero, -a["elbow_flexion"], zero], axis=-1)
  wrist = np.stack([zero, -a["wrist_deviation"], -a["wrist_flexion"]], axis=-1)
  # The forearm turns as a whole: half of it shows at the elbow, half at the wrist.
  half = np.stack([a["forearm_twist"] / 2, zero, zero], axis=-1)
  both = _product(_quaternion(np.stack([elbow, wrist])), _quaternion(half))
  elbow, wrist = _rotation_vector(both)
  return {
    "Hip": hip,
    "Knee": np.stack([a["knee_flexion"], zero, zero], axis=-1),
    "Ankle": np.stack([-a["ankle_flexion"], zero, -a["ankle_inversion"]], axis=-1),
    "Foot": np.stack([-a["toe_flexion"], zero, zero], axis=-1),
    "Collar": np.stack([zero, -a["collar_azimuth"], a["collar_elevation"]], axis=-1),
    "Shoulder": shoulder,
    "Elbow": elbow,
    "Wrist": wrist,
    "Hand": np.stack([zero, zero, -a["finger_flexion"]], axis=-1),
  }


def _ball_turns(a: dict[str, np.ndarray]) -> np.ndarray:
  """Axis-angle of hip and shoulder: twist about the bone, then the shortest swing."""
  flexion, out = a["hip_flexion"], a["hip_abduction"]
  up, ahead = a["shoulder_elevation"], a["shoulder_azimuth"]
  thigh = [np.sin(out), -np.cos(out) * np.cos(flexion), np.cos(out) * np.sin(flexion)]
  arm = [np.cos(up) * np.cos(ahead), np.sin(up), np.cos(up) * np.sin(ahead)]
  bone = np.stack([np.stack(thigh, axis=-1), np.stack(arm, axis=-1)])
  rest = np.broadcast_to(_BALL_BONES[:, None, None], bone.shape)
  swing = np.concatenate(
    [1.0 + np.sum(rest * bone, axis=-1, keepdims=True), np.cross(rest, bone)], axis=-1
  )
  twist = np.stack([a["hip_twist"], a["shoulder_twist"]])[..., None] * rest
  return _rotation_vector(_product(swing, _quaternion(twist)))


_BALL_BONES = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])  # thigh and arm at rest


def _quaternion(vector: np.ndarray) -> np.ndarray:
  """w, x, y, z of an axis-angle vector."""
  half = np.linalg.norm(vector, axis=-1, keepdims=True) / 2
  return np.concatenate([np.cos(half), np.sinc(half / np.pi) * vector / 2], axis=-1)


def _product(second: np.ndarray, first: np.ndarray) -> np.ndarray:
  """The quaternion that turns by `first`, then by `second`."""
  w, v = second[..., :1], second[..., 1:]
  u, x = first[..., :1], first[..., 1:]
  real = w * u - np.sum(v * x, axis=-1, keepdims=True)
  return np.concatenate([real, w * x + u * v + np.cross(v, x)], axis=-1)


def _rotation_vector(quaternion: np.ndarray) -> np.ndarray:
  """Axis-angle of quaternions of any length, angles in [0, pi]."""
  quaternion = quaternion * np.where(quaternion[..., :1] < 0, -1.0, 1.0)
  sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
  angle = 2 * np.arctan2(sine, quaternion[..., :1])
  return quaternion[..., 1:] * (angle / np.maximum(sine, 1e-12))


# Segments that may not touch, with their thickness. An arm may rest on the body.
_SEGMENTS = {
  "trunk": ("Pelvis", "Neck", 0.13),
  "head": ("Head", "Head", 0.13),
  "l_thigh": ("L_Hip", "L_Knee", 0.07),
  "r_thigh": ("R_Hip", "R_Knee", 0.07),
  "l_shin": ("L_Knee", "L_Ankle", 0.05),
  "r_shin": ("R_Knee", "R_Ankle", 0.05),
  "l_arm": ("L_Elbow", "L_Hand", 0.035),
  "r_arm": ("R_Elbow", "R_Hand", 0.035),
}
_APART = (
  *((arm, body) for arm in ("l_arm", "r_arm") for body in ("trunk", "head")),
  *((arm, leg) for arm in ("l_arm", "r_arm") for leg in ("l_thigh", "r_thigh")),
  *((arm, leg) for arm in ("l_arm", "r_arm") for leg in ("l_shin", "r_shin")),
  *(("l_arm", "r_arm"), ("l_shin", "r_shin"), ("l_shin", "r_thigh")),
  *(("r_shin", "l_thigh"),),
)


def clearance_m(
  poses: Float[np.ndarray, "n 24 3"], rest_joints_m: Float[np.ndarray, "24 3"]
) -> Float[np.ndarray, " n"]:
  """The smallest gap between limbs that should not cross; negative inside another.

  Args:
    poses: Axis-angle, radians.
    rest_joints_m: Joints of the rest pose.

  Returns:
    Metres between the surfaces of capsules around the bones.
  """
  places = forward_kinematics(poses, rest_joints_m)
  steps = np.linspace(0.0, 1.0, 6)[:, None]
  dots = {}
  for name, (start, end, _) in _SEGMENTS.items():
    ends = [places[:, joints.SMPL24.index(j)][:, None] for j in (start, end)]
    dots[name] = ends[0] + steps * (ends[1] - ends[0])
  first = np.stack([dots[a] for a, _ in _APART], axis=1)
  second = np.stack([dots[b] for _, b in _APART], axis=1)
  gap = np.linalg.norm(first[:, :, :, None] - second[:, :, None], axis=-1)
  thick = np.array([_SEGMENTS[a][2] + _SEGMENTS[b][2] for a, b in _APART])
  return (gap.min(axis=(2, 3)) - thick).min(axis=1)


def forward_kinematics(
  poses: Float[np.ndarray, "n 24 3"], rest_joints_m: Float[np.ndarray, "24 3"]
) -> Float[np.ndarray, "n 24 3"]:
  """Where the joints of SMPL's tree come to lie, metres."""
  turns = rotations.axis_angle_to_matrix(poses)
  world, places = [turns[:, 0]], [np.tile(rest_joints_m[0], (len(poses), 1))]
  for joint, parent in enumerate(joints.SMPL24_PARENTS[1:], start=1):
    bone = rest_joints_m[joint] - rest_joints_m[parent]
    places.append(places[parent] + world[parent] @ bone)
    world.append(world[parent] @ turns[:, joint])
  return np.stack(places, axis=1)
