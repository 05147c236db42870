"""Sampled poses: inside human limits, symmetric, and with bones where names say."""

import numpy as np
import pytest

from metro_jax.body import joints, rotations
from metro_jax.data.builders.synthetic import anatomy, lenses, stances

SMPL = joints.SMPL24.index
# A stick figure of T-pose joints, metres; y up, x to the left, z forward.
REST_M = np.array(
  [
    [0, 0, 0, 0.09, -0.05, 0, -0.09, -0.05, 0, 0, 0.11, 0],
    [0.09, -0.43, 0, -0.09, -0.43, 0, 0, 0.24, 0, 0.09, -0.84, 0],
    [-0.09, -0.84, 0, 0, 0.3, 0, 0.09, -0.9, 0.12, -0.09, -0.9, 0.12],
    [0, 0.5, 0, 0.08, 0.42, 0, -0.08, 0.42, 0, 0, 0.6, 0],
    [0.18, 0.45, 0, -0.18, 0.45, 0, 0.44, 0.45, 0, -0.44, 0.45, 0],
    [0.68, 0.45, 0, -0.68, 0.45, 0, 0.76, 0.45, 0, -0.76, 0.45, 0],
  ],
  np.float32,
).reshape(24, 3)


def bent(**degrees):
  """Joints of the rest pose with the given angles on both sides, or (left, right)."""
  angles = np.zeros((1, len(anatomy.ANGLES), 2))
  for name, value in degrees.items():
    angles[0, anatomy.ANGLES.index(name)] = value
  return anatomy.forward_kinematics(anatomy.angles_to_pose(angles), REST_M)[0]


def direction(places, start, end):
  bone = places[SMPL(end)] - places[SMPL(start)]
  return bone / np.linalg.norm(bone)


@pytest.mark.parametrize(
  ("angles", "bone", "expected"),
  [
    ({"knee_flexion": 90}, ("L_Knee", "L_Ankle"), (0, 0, -1)),
    ({"hip_flexion": 90}, ("L_Hip", "L_Knee"), (0, 0, 1)),
    ({"hip_abduction": 90}, ("L_Hip", "L_Knee"), (1, 0, 0)),
    ({"hip_abduction": 90}, ("R_Hip", "R_Knee"), (-1, 0, 0)),
    ({"shoulder_elevation": -80}, ("L_Shoulder", "L_Elbow"), (0.17, -0.98, 0)),
    ({"shoulder_elevation": 80}, ("R_Shoulder", "R_Elbow"), (-0.17, 0.98, 0)),
    ({"shoulder_azimuth": 90}, ("L_Shoulder", "L_Elbow"), (0, 0, 1)),
    ({"shoulder_azimuth": 90}, ("R_Shoulder", "R_Elbow"), (0, 0, 1)),
    ({"elbow_flexion": 90}, ("L_Elbow", "L_Wrist"), (0, 0, 1)),
    ({"elbow_flexion": 90}, ("R_Elbow", "R_Wrist"), (0, 0, 1)),
    ({"spine_flexion": 90}, ("Spine3", "Neck"), (0, 0, 1)),
    ({"spine_bend": 90}, ("Spine3", "Neck"), (-1, 0, 0)),
  ],
)
def test_a_named_angle_moves_the_bone_that_its_name_says(angles, bone, expected):
  np.testing.assert_allclose(direction(bent(**angles), *bone), expected, atol=0.01)


def test_a_bent_elbow_under_a_hanging_arm_points_forward():
  places = bent(shoulder_elevation=-89.9, elbow_flexion=90)
  for side in "LR":
    forearm = direction(places, f"{side}_Elbow", f"{side}_Wrist")
    np.testing.assert_allclose(forearm, (0, 0, 1), atol=0.01)


def test_inward_twist_brings_both_feet_and_forearms_to_the_middle():
  places = bent(hip_twist=30, shoulder_elevation=-89.9, shoulder_twist=90)
  assert direction(places, "L_Ankle", "L_Foot")[0] < -0.3
  assert direction(places, "R_Ankle", "R_Foot")[0] > 0.3
  places = bent(shoulder_elevation=-89.9, shoulder_twist=90, elbow_flexion=90)
  assert direction(places, "L_Elbow", "L_Wrist")[0] < -0.9
  assert direction(places, "R_Elbow", "R_Wrist")[0] > 0.9


@pytest.fixture(scope="module")
def poses():
  rng = np.random.default_rng(0)
  drawn = [stances.sample_pose(rng, REST_M) for _ in range(400)]
  return np.array(drawn).reshape(-1, 24, 3)


def test_sampled_poses_stay_inside_the_joint_limits(poses):
  """Measured from the bones of the posed stick figure, not from the angles drawn."""
  turns = rotations.axis_angle_to_matrix(poses.astype(np.float64))
  for side, sign in (("L", 1), ("R", -1)):
    knee = np.degrees(poses[:, SMPL(f"{side}_Knee")])
    assert knee[:, 0].min() >= 0 and knee[:, 0].max() <= 145.01
    assert np.abs(knee[:, 1:]).max() < 1e-3
    # The forearm in the upper arm's frame never bends backward.
    forearm = turns[:, SMPL(f"{side}_Elbow")] @ [sign, 0.0, 0.0]
    folded = np.degrees(np.arctan2(forearm[:, 2], sign * forearm[:, 0]))
    assert folded.min() > -0.01 and folded.max() < 145.01
    thigh = turns[:, SMPL(f"{side}_Hip")] @ [0.0, -1.0, 0.0]
    flexion = np.degrees(np.arctan2(thigh[:, 2], -thigh[:, 1]))
    abduction = np.degrees(np.arcsin((sign * thigh[:, 0]).clip(-1, 1)))
    assert flexion.min() > -20.01 and flexion.max() < 120.01
    assert abduction.min() > -15.01 and abduction.max() < 50.01
    arm = turns[:, SMPL(f"{side}_Shoulder")] @ [sign, 0.0, 0.0]
    elevation = np.degrees(np.arcsin(arm[:, 1].clip(-1, 1)))
    assert elevation.min() > -82.01 and elevation.max() < 75.01
    azimuth = np.degrees(np.arctan2(arm[:, 2], sign * arm[:, 0]))
    assert azimuth.min() > -80.01 and azimuth.max() < 125.01


def test_every_stance_keeps_to_the_limits():
  rng = np.random.default_rng(1)
  low, high = np.array(list(anatomy.LIMITS_DEG.values())).T
  for name in stances.STANCES:
    angles = stances.sample_angles(rng, name, 60)
    assert (angles >= low[:, None]).all() and (angles <= high[:, None]).all(), name


def test_stances_name_only_angles_that_exist():
  for stance in stances.STANCES.values():
    assert {*stance.both, *stance.first, *stance.second} <= set(anatomy.ANGLES)


def test_left_and_right_have_the_same_statistics():
  rng = np.random.default_rng(2)
  angles = np.concatenate(
    [stances.sample_angles(rng, name, 2000) for name in ("walking", "reaching")]
  )
  left, right = angles.mean(axis=0).T
  np.testing.assert_allclose(left, right, atol=2.0)
  for name in ("spine_bend", "spine_twist", "neck_twist"):
    assert abs(left[anatomy.ANGLES.index(name)]) < 1.0


def test_poses_are_varied(poses):
  assert np.degrees(poses.std(axis=0))[SMPL("L_Knee"), 0] > 25
  assert np.degrees(poses.std(axis=0))[SMPL("R_Shoulder")].min() > 12


def test_few_sampled_poses_cross_their_own_limbs(poses):
  assert (anatomy.clearance_m(poses.astype(np.float64), REST_M) < 0).mean() < 0.03


def test_clearance_sees_an_arm_through_the_trunk():
  angles = np.zeros((2, len(anatomy.ANGLES), 2))
  angles[:, anatomy.ANGLES.index("shoulder_elevation")] = -60
  angles[1, anatomy.ANGLES.index("shoulder_azimuth"), 0] = 170
  clear, crossed = anatomy.clearance_m(anatomy.angles_to_pose(angles), REST_M)
  assert clear > 0 > crossed


def test_the_root_turns_the_body_upright_into_the_camera_at_any_heading():
  rng = np.random.default_rng(3)
  roots = np.array(
    [
      stances.turn_root(
        np.zeros(3), rng.uniform(-np.pi, np.pi), *lenses.sample_tilt(rng)
      )
      for _ in range(500)
    ]
  )
  turns = rotations.axis_angle_to_matrix(roots)
  up, chest = turns @ [0.0, 1.0, 0.0], turns @ [0.0, 0.0, 1.0]
  assert up[:, 1].max() < -0.6  # the picture's y points down
  heading = np.degrees(np.arctan2(chest[:, 0], -chest[:, 2]))
  filled = np.histogram(heading, bins=8, range=(-180, 180))[0]
  assert filled.min() > 30
