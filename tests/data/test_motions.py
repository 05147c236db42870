"""Poses of real motion: the clips' own limbs on our tree, and what is drawn of them."""

import json
import pathlib

import numpy as np
import pytest

from metro_jax.asset_builds import build_motions
from metro_jax.body import body_model, humanoid, joints, rotations
from metro_jax.data.builders.synthetic import (
  anatomy,
  exercises,
  motions,
  scene,
  stances,
)

SMPL = joints.SMPL24.index
# Frames of clips and where their limbs point (left, up, forward), computed from the
# joints and offsets of humanoid.urdf without this package.
FRAMES = json.loads(
  (pathlib.Path(__file__).parents[1] / "fixtures" / "motion_frames.json").read_text()
)
BENT_AT_REST_DEG = 4.8  # knees of the embedded body's template
LOW, HIGH = np.array(list(anatomy.LIMITS_DEG.values())).T[..., None]


@pytest.fixture(scope="module")
def stage():
  return scene.make_stage(humanoid.load())


@pytest.fixture(scope="module")
def poses(stage):
  rngs = (scene.example_rng(0, "train", i) for i in range(500))
  drawn = [motions.sample_pose(rng, stage.rest_joints_m) for rng in rngs]
  return np.array(drawn, np.float64).reshape(-1, 24, 3)


def places(frame, stage):
  angles, root = build_motions.retarget(np.array([frame], np.float64))
  pose = anatomy.angles_to_pose(angles)
  pose[:, 0] = root
  return anatomy.forward_kinematics(pose, stage.rest_joints_m)[0]


def pointing(where, start, end):
  bone = where[SMPL(end)] - where[SMPL(start)]
  return bone / np.linalg.norm(bone)


@pytest.mark.parametrize("known", FRAMES, ids=[f["clip"] for f in FRAMES])
def test_limbs_point_where_the_clips_own_skeleton_has_them(known, stage):
  where = places(known["frame"], stage)
  for end, expected in known["directions"].items():
    start = joints.SMPL24[joints.SMPL24_PARENTS[SMPL(end)]]
    off = np.degrees(np.arccos(min(1.0, pointing(where, start, end) @ expected)))
    assert off < (BENT_AT_REST_DEG if end.endswith(("Knee", "Ankle")) else 0.5), end


def test_a_turned_chest_and_neck_are_spread_over_the_spine(stage):
  frame = at_rest()
  # Half a right angle each about the clips' forward axis: towards the right.
  frame[8:12] = frame[12:16] = [np.cos(np.pi / 8), np.sin(np.pi / 8), 0, 0]
  where = places(frame, stage)
  hips = where[SMPL("L_Hip")] - where[SMPL("R_Hip")]
  np.testing.assert_allclose(hips / np.linalg.norm(hips), (1, 0, 0), atol=1e-3)
  shoulders = pointing(where, "R_Shoulder", "L_Shoulder")
  np.testing.assert_allclose(shoulders, (0.707, 0.707, 0), atol=0.01)
  pose = anatomy.angles_to_pose(build_motions.retarget(frame[None])[0])
  bends = np.degrees(pose[0, [SMPL(f"Spine{i}") for i in (1, 2, 3)], 2])
  np.testing.assert_allclose(bends, (18, 13.5, 13.5), atol=1e-6)


def test_an_arm_that_rises_takes_its_collar_along(stage):
  frame = at_rest()
  # The left arm hangs; 150 degrees about the forward axis bring it out and up.
  frame[39:43] = [np.cos(np.radians(75)), np.sin(np.radians(75)), 0, 0]
  angles, _ = build_motions.retarget(frame[None])
  collar = angles[0, anatomy.ANGLES.index("collar_elevation")]
  np.testing.assert_allclose(collar, (20, 0), atol=1e-6)
  arm = pointing(places(frame, stage), "L_Shoulder", "L_Elbow")
  np.testing.assert_allclose(arm, (0.5, 0.866, 0), atol=0.01)


def at_rest():
  """A frame whose joints do not turn: upright, arms hanging."""
  frame = np.zeros(44)
  for rows in (4, 8, 12, 16, 21, 25, 30, 35, 39):
    frame[rows] = 1.0
  return frame


def test_quaternions_of_any_length_mean_the_same(stage):
  frame = np.array(FRAMES[0]["frame"])
  longer = frame.copy()
  longer[25:29] *= 1.4
  np.testing.assert_allclose(places(longer, stage), places(frame, stage), atol=1e-9)


def test_another_file_is_no_wheel_of_clips(tmp_path):
  path = tmp_path / "other.whl"
  path.write_bytes(b"no archive")
  with pytest.raises(ValueError, match="expected a wheel"):
    build_motions.read_clips(path)


def test_the_library_holds_every_clip_inside_the_limits_of_joints():
  library = motions.load()
  assert set(library.clips) == set(range(len(library.names))) == set(range(20))
  assert (library.angles_deg >= LOW).all() and (library.angles_deg <= HIGH).all()
  assert motions.ASSET.stat().st_size < 200_000


def test_frames_that_few_others_are_near_are_drawn_more_often():
  library = motions.load()
  assert library.weights.sum() == pytest.approx(1)
  name = library.names.index
  walk, cartwheel = (
    library.weights[library.clips == name(f"humanoid3d_{clip}")].mean()
    for clip in ("walk", "cartwheel")
  )
  assert cartwheel > 2 * walk


def test_building_weighs_a_lonely_frame_three_times_the_median_at_most():
  features = np.zeros((30, 25, 3))
  features[:, :, 0] = np.arange(30)[:, None] % 10  # three times the same ten
  features[-1, :, 0] = 500
  weights = build_motions._rarity(features)
  assert weights.sum() == pytest.approx(1)
  assert weights[-1] == pytest.approx(3 * np.median(weights))
  assert weights[0] > weights[5]  # the end of the row against its middle


def test_building_drops_frames_that_repeat_others():
  features = np.zeros((4, 25, 3))
  features[:, :, 1] = np.array([0, 0.019, 0.021, 0.05])[:, None]
  np.testing.assert_array_equal(build_motions._distinct(features), [0, 2, 3])


def test_a_damaged_library_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="expected the asset"):
    motions.read(tmp_path / "none.npz")
  path = tmp_path / "half.npz"
  path.write_bytes(motions.ASSET.read_bytes()[:20_000])
  with pytest.raises(ValueError, match="motions: cannot read"):
    motions.read(path)


def test_a_clip_can_be_left_out():
  library = motions.load()
  left = library.without("humanoid3d_spin")
  assert library.names.index("humanoid3d_spin") not in left.clips
  assert left.weights.sum() == pytest.approx(1)
  assert len(left.roots) == len(left.angles_deg) < len(library.roots)


def test_drawn_poses_stay_inside_the_joint_limits(poses):
  turns = rotations.axis_angle_to_matrix(poses)
  for side, sign in (("L", 1), ("R", -1)):
    knee = np.degrees(poses[:, SMPL(f"{side}_Knee")])
    assert knee[:, 0].min() >= 0 and knee[:, 0].max() <= 145.01
    forearm = turns[:, SMPL(f"{side}_Elbow")] @ [sign, 0.0, 0.0]
    folded = np.degrees(np.arctan2(forearm[:, 2], sign * forearm[:, 0]))
    assert folded.min() > -0.01 and folded.max() < 145.01
    arm = turns[:, SMPL(f"{side}_Shoulder")] @ [sign, 0.0, 0.0]
    elevation = np.degrees(np.arcsin(arm[:, 1].clip(-1, 1)))
    assert elevation.min() > -82.01 and elevation.max() < 75.01


def test_few_drawn_poses_cross_their_own_limbs(poses, stage):
  free = anatomy.clearance_m(poses, stage.rest_joints_m)
  assert (free < motions.TOUCH_M - 1e-6).mean() < 0.02


def test_bodies_stand_lean_lie_and_hang_upside_down(poses):
  up = rotations.axis_angle_to_matrix(poses[:, 0])[:, 1, 1]
  tilt = np.degrees(np.arccos(up.clip(-1, 1)))
  assert 0.5 < (tilt < 30).mean() < 0.85
  assert (tilt > 60).mean() > 0.1
  assert (tilt > 120).mean() > 0.01


def test_left_and_right_are_alike(poses):
  for bone in ("Hip", "Knee", "Shoulder", "Elbow"):
    left, right = (poses[:, SMPL(f"{side}_{bone}")] for side in "LR")
    mirrored = right * [1, -1, -1]
    np.testing.assert_allclose(left.mean(axis=0), mirrored.mean(axis=0), atol=0.15)


def test_a_mirrored_pose_leans_to_the_other_side(stage):
  """A body that lies on one side lies on the other one as often."""
  angles, root = np.zeros((len(anatomy.ANGLES), 2)), np.array([0, 0, np.pi / 2])
  angles[anatomy.ANGLES.index("knee_flexion"), 0] = 90
  rng = np.random.default_rng(0)
  drawn = np.concatenate([motions._scattered(rng, angles, root) for _ in range(60)])
  left_bent = drawn[:, SMPL("L_Knee"), 0] > drawn[:, SMPL("R_Knee"), 0]
  assert 15 < left_bent.sum() < 45
  np.testing.assert_array_equal(drawn[:, 0, 2] > 0, left_bent)


def test_exercises_name_only_angles_that_exist_and_keep_to_the_limits():
  for name, stance in exercises.EXERCISES.items():
    assert {*stance.both, *stance.first, *stance.second} <= set(anatomy.ANGLES), name
    mean, _ = stances.mean_and_spread(stance)
    assert (mean >= LOW).all() and (mean <= HIGH).all(), name


def test_an_example_is_a_function_of_its_row_and_its_labels_pose_the_body(stage):
  settings = scene.Settings(3, 64, 0.0, 0.0, 1.0, poses="motions")
  example = scene.draw_example(stage, settings, "train", 5)
  again = scene.draw_example(stage, settings, "train", 5)
  for name, value in example.items():
    np.testing.assert_array_equal(again[name], value)
  before = scene.draw_example(stage, settings._replace(poses="stances"), "train", 5)
  assert not np.allclose(before["pose"], example["pose"])
  posed = body_model.pose_body(
    stage.body, example["pose"][None], example["shape"][None]
  )
  seen = stage.body.regressors["j24"] @ posed.vertices[0]
  np.testing.assert_allclose(example["joints_3d_m"][:, :3], seen, atol=1e-5)
