"""The embedded body: SMPL's format, a sane human, an asset that is checked."""

import numpy as np
import pytest
import trimesh

from metro_jax.body import body_model, humanoid, joints, mesh_levels

BODY = humanoid.load()
LEVELS = humanoid.load_levels()
PARTS = humanoid.load_parts()
SMPL = {name: i for i, name in enumerate(joints.SMPL24)}


def _posed(shape_seed: int, pose_deviation: float, n: int = 4):
  rng = np.random.default_rng(shape_seed)
  pose = rng.normal(0.0, pose_deviation, (n, 72)).astype(np.float32)
  shape = rng.normal(0.0, 1.0, (n, 10)).astype(np.float32)
  return body_model.pose_body(BODY, pose, shape)


def _rest(names, regressor):
  at = np.asarray(regressor, np.float64) @ BODY.template
  return dict(zip(names, at, strict=True))


def _height_m(shape):
  shape = np.array([shape], np.float32)
  moved = BODY.template + np.einsum("vcs,bs->bvc", BODY.shape_directions, shape)
  return np.ptp(moved[0, :, 1])


def test_the_numbers_are_smpls():
  assert BODY.template.shape == (6890, 3)
  assert BODY.faces.shape == (13776, 3)
  assert BODY.shape_directions.shape == (6890, 3, 10)
  assert BODY.joint_regressor.shape == (24, 6890)
  assert BODY.regressors["h36m"].shape == (17, 6890)
  assert BODY.regressors["j24"].shape == (24, 6890)
  assert BODY.parents == joints.SMPL24_PARENTS
  assert BODY.pose_directions is None


def test_the_skin_is_one_closed_surface_facing_outwards():
  mesh = trimesh.Trimesh(BODY.template, BODY.faces, process=False)
  assert mesh.is_watertight
  assert mesh.is_winding_consistent
  assert mesh.euler_number == 2  # one piece, no handles
  assert 0.05 < mesh.volume < 0.09  # people weigh 50 to 90 kg, at 1 kg a litre


def test_skin_weights_are_shares_of_at_most_four_joints():
  np.testing.assert_allclose(BODY.skin_weights.sum(1), 1.0, atol=1e-6)
  assert BODY.skin_weights.min() >= 0
  assert (BODY.skin_weights > 0).sum(1).max() <= 4


@pytest.mark.parametrize("name", ["joint_regressor", "h36m", "j24"])
def test_regressors_are_shares(name):
  rows = BODY.regressors.get(name, BODY.joint_regressor)
  np.testing.assert_allclose(rows.sum(1, dtype=np.float64), 1.0, atol=1e-6)
  assert rows.min() >= 0


def test_labels_and_regressed_joints_are_the_same_points():
  np.testing.assert_array_equal(
    BODY.regressors["j24"][joints.J14_FROM_J24],
    BODY.regressors["h36m"][joints.J14_FROM_H36M],
  )


def test_it_rests_in_smpls_t_pose():
  at = _rest(joints.SMPL24, BODY.joint_regressor)
  for side, out in (("L", 1.0), ("R", -1.0)):
    shoulder, wrist, hand = (at[f"{side}_{n}"] for n in ("Shoulder", "Wrist", "Hand"))
    assert out * (wrist - shoulder)[0] > 0.4  # x to the body's left
    np.testing.assert_allclose((wrist - shoulder)[1:], 0.0, atol=0.005)
    np.testing.assert_allclose((hand - wrist)[1:], 0.0, atol=0.005)
    hip, ankle, toes = (at[f"{side}_{n}"] for n in ("Hip", "Ankle", "Foot"))
    assert (hip - ankle)[1] > 0.7  # y up
    assert abs(hip[0] - ankle[0]) < 0.005
    assert (toes - ankle)[2] > 0.05  # z forward
  np.testing.assert_allclose(at["Pelvis"], 0.0, atol=0.02)


def test_palms_face_down_and_thumbs_forward():
  hand = BODY.template[(PARTS.labels == PARTS.names.index("hand"))]
  left = hand[hand[:, 0] > 0]
  fingers = left[left[:, 0] > left[:, 0].mean()]
  thumb = left[left[:, 2].argmax()]
  assert thumb[0] < fingers[:, 0].mean()  # what reaches furthest forward is the thumb
  assert np.ptp(fingers[:, 2]) > 2 * np.ptp(fingers[:, 1])  # and the hand lies flat


def test_elbows_bend_forward_and_knees_backward_as_in_smpl():
  pose = np.zeros((1, 24, 3), np.float32)
  pose[0, SMPL["L_Elbow"], 1], pose[0, SMPL["R_Elbow"], 1] = -1.0, 1.0
  pose[0, SMPL["L_Knee"], 0] = 1.0
  at = body_model.pose_body(BODY, pose.reshape(1, 72), np.zeros((1, 10), np.float32))
  at = at.joints[0]
  for side in "LR":
    assert at[SMPL[f"{side}_Wrist"], 2] > at[SMPL[f"{side}_Elbow"], 2] + 0.1
  assert at[SMPL["L_Ankle"], 2] < at[SMPL["L_Knee"], 2] - 0.1


def test_left_and_right_joints_mirror_each_other():
  for names, rows in (
    (joints.SMPL24, BODY.joint_regressor),
    (joints.J24, BODY.regressors["j24"]),
    (joints.H36M17, BODY.regressors["h36m"]),
  ):
    at = rows @ BODY.template
    mirrored = at[joints.flip_permutation(names)] * [-1, 1, 1]
    np.testing.assert_allclose(mirrored, at, atol=0.002)


def test_every_shape_is_left_right_symmetric():
  flip = joints.flip_permutation(joints.SMPL24)
  moves = np.einsum("kv,vcs->skc", BODY.joint_regressor, BODY.shape_directions)
  mirrored = moves[:, flip] * np.array([-1, 1, 1])
  np.testing.assert_allclose(mirrored, moves, atol=0.001)


def test_the_face_is_where_a_face_is():
  at = _rest(joints.J24, BODY.regressors["j24"])
  crown = BODY.template[BODY.template[:, 1].argmax()]
  assert np.linalg.norm(at["Top_of_Head"] - crown) < 0.02
  head = BODY.template[np.isin(PARTS.labels, [0, 1, 2])]
  assert abs(at["Nose"][2] - head[:, 2].max()) < 0.01  # nothing is further forward
  for side, out in (("L", 1.0), ("R", -1.0)):
    assert 0.02 < out * at[f"{side}_Eye"][0] < 0.05
    assert 0.06 < out * at[f"{side}_Ear"][0] < 0.10
    assert at[f"{side}_Ear"][2] < at[f"{side}_Eye"][2] - 0.05
  heights = [at[n][1] for n in ("Top_of_Head", "Head", "L_Eye", "Nose", "Jaw", "Neck")]
  assert heights == sorted(heights, reverse=True)


def test_the_spine_is_in_order():
  at = _rest(joints.J24, BODY.regressors["j24"])
  heights = [at[n][1] for n in ("Pelvis", "Spine", "Thorax", "Neck", "Jaw")]
  assert heights == sorted(heights)


def test_bodies_are_as_tall_as_people():
  assert abs(_height_m(np.zeros(10)) - 1.69) < 0.02  # between 1.63 m and 1.76 m
  shapes = np.random.default_rng(0).normal(size=(60, 10))
  heights = np.array([_height_m(shape) for shape in shapes])
  assert 0.06 < heights.std() < 0.14
  assert heights.min() > 1.35
  assert heights.max() < 2.10


def test_components_fall_in_size_are_independent_and_make_taller():
  flat = BODY.shape_directions.reshape(-1, 10).astype(np.float64)
  gram = flat.T @ flat
  sizes = np.sqrt(np.diag(gram))
  assert np.all(np.diff(sizes) < 0)
  off = gram / np.outer(sizes, sizes) - np.eye(10)
  assert np.abs(off).max() < 1e-3
  for i in range(10):
    assert _height_m(np.eye(10)[i]) >= _height_m(np.zeros(10)) - 0.002


def test_regressed_joints_follow_the_kinematic_ones_into_poses():
  body = _posed(shape_seed=1, pose_deviation=0.25)
  found = body_model.regress_joints(BODY.joint_regressor, body.vertices)
  error_m = np.linalg.norm(found - body.joints, axis=-1).mean(0)
  assert error_m.max() < 0.02
  assert error_m.mean() < 0.005


def test_limbs_do_not_collapse_when_the_wrist_twists():
  pose = np.zeros((1, 24, 3), np.float32)
  pose[0, SMPL["L_Wrist"], 0] = 1.0
  pose[0, SMPL["L_Elbow"], 1] = -1.5
  still = body_model.pose_body(
    BODY, np.zeros((1, 72), np.float32), np.zeros((1, 10), np.float32)
  )
  moved = body_model.pose_body(BODY, pose.reshape(1, 72), np.zeros((1, 10), np.float32))
  volumes = [
    trimesh.Trimesh(p.vertices[0], BODY.faces, process=False).volume
    for p in (still, moved)
  ]
  arm_litres = 1e3 * 0.003  # about what an arm holds
  assert abs(volumes[0] - volumes[1]) * 1e3 < 0.1 * arm_litres


def test_levels_are_gathers_of_the_full_mesh():
  assert LEVELS.counts == (6890, 1723, 431, 108)
  for step, (fine, coarse) in enumerate(
    zip(LEVELS.counts[:-1], LEVELS.counts[1:], strict=True)
  ):
    assert len(set(LEVELS.select[step].tolist())) == coarse
    assert LEVELS.select[step].max() < fine
    assert LEVELS.upsample_index[step].shape == (fine, 3)
    assert LEVELS.upsample_index[step].max() < coarse
    np.testing.assert_allclose(LEVELS.upsample_weight[step].sum(1), 1.0, atol=1e-6)
    kept = mesh_levels.upsample_matrix(LEVELS, step)[LEVELS.select[step]]
    np.testing.assert_allclose(kept, np.eye(coarse), atol=1e-3)


@pytest.mark.parametrize(("level", "mean_mm"), [(1, 3), (2, 8), (3, 25)])
def test_levels_stand_for_posed_bodies(level, mean_mm):
  vertices = _posed(shape_seed=2, pose_deviation=0.25).vertices
  coarse = mesh_levels.downsample(LEVELS, vertices, level)
  back = coarse
  for step in reversed(range(level)):
    back = mesh_levels.upsample_matrix(LEVELS, step) @ back
  assert 1e3 * np.linalg.norm(back - vertices, axis=-1).mean() < mean_mm


def test_parts_name_the_flesh_around_the_joints():
  expected = {
    **{"Head": "head", "Elbow": "lower_arm", "Wrist": "hand", "Hand": "hand"},
    **{"Knee": "lower_leg", "Ankle": "foot", "Foot": "foot", "Spine2": "torso"},
  }
  assert set(PARTS.labels.tolist()) == set(range(len(PARTS.names)))
  for joint, part in expected.items():
    for name in (joint, f"L_{joint}", f"R_{joint}"):
      if name in SMPL:
        moved = BODY.skin_weights[:, SMPL[name]] > 0.7
        inside = PARTS.labels[moved] == PARTS.names.index(part)
        if part == "head":
          inside = np.isin(PARTS.labels[moved], [0, 1, 2])
        assert inside.mean() > 0.8, (name, part)


def test_parts_have_two_equal_sides():
  left = BODY.template[:, 0] > 0.005
  right = BODY.template[:, 0] < -0.005
  for i, name in enumerate(PARTS.names):
    n_left, n_right = (np.sum(side & (PARTS.labels == i)) for side in (left, right))
    assert abs(n_left - n_right) <= 0.1 * (n_left + n_right) + 1, name


def test_all_callers_share_a_body_that_nobody_can_change():
  assert humanoid.load() is BODY
  with pytest.raises(ValueError, match="read-only"):
    BODY.template[0] = 0
  assert BODY.template.dtype == np.float32


def test_the_file_is_small():
  assert humanoid.ASSET.stat().st_size < 1_000_000


def test_packing_rounds_no_more_than_it_says():
  rng = np.random.default_rng(0)
  v = 5
  template = rng.uniform(-1, 1, (v, 3))
  directions = rng.uniform(-0.1, 0.1, (v, 3, 10))
  weights = np.zeros((v, 24))
  weights[:, [3, 7]] = [0.3, 0.7]
  names = (*joints.SMPL24, *humanoid.LANDMARKS)
  stored = humanoid.pack(
    template,
    directions,
    np.array([[0, 1, 2]]),
    weights,
    {name: np.full(v, 0.2) for name in names},
    mesh_levels.MeshLevels((v,), (), (), (), (np.array([[0, 1, 2]]),)),
    np.zeros(v, int),
  )
  assert np.abs(stored["template"] * 5e-5 - template).max() <= 2.5e-5 + 1e-9
  assert np.abs(stored["shape_directions"] * 2e-5 - directions).max() <= 1e-5 + 1e-9
  assert stored["skin_index"][:, :2].tolist() == [[7, 3]] * v
  assert np.abs(stored["skin_weight"][:, :2] / 255 - [0.7, 0.3]).max() <= 0.5 / 255


@pytest.fixture
def damaged(tmp_path, monkeypatch):
  """Replaces arrays of the asset (None removes one) and loads the result."""

  whole = humanoid.ASSET

  def load_with(**changes):
    with np.load(whole, allow_pickle=False) as file:
      arrays = {k: v for k, v in {**file, **changes}.items() if v is not None}
    np.savez(tmp_path / "damaged.npz", **arrays)
    monkeypatch.setattr(humanoid, "ASSET", tmp_path / "damaged.npz")
    return humanoid.load.__wrapped__()

  return load_with


def test_a_missing_array_is_named(damaged):
  with pytest.raises(ValueError, match=r"expected skin_index as uint8 .* got none"):
    damaged(skin_index=None)


def test_an_array_of_another_type_or_shape_is_named(damaged):
  with pytest.raises(ValueError, match=r"expected template as int16 .* got float32"):
    damaged(template=np.zeros((6890, 3), np.float32))
  with pytest.raises(ValueError, match=r"faces as uint16 .* got uint16 \(9, 4\)"):
    damaged(faces=np.zeros((9, 4), np.uint16))


def test_an_index_out_of_range_is_named(damaged):
  with pytest.raises(ValueError, match="expected faces below 6890, got 6890"):
    damaged(faces=np.full((13776, 3), 6890, np.uint16))


def test_arrays_of_another_mesh_are_named(damaged):
  with pytest.raises(ValueError, match="expected 6890 rows of template, got 9"):
    damaged(template=np.zeros((9, 3), np.int16))


def test_pickled_objects_are_refused(damaged):
  with pytest.raises(ValueError, match="cannot read"):
    damaged(parts=np.array([{"not": "numbers"}], object))


def test_a_missing_file_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(humanoid, "ASSET", tmp_path / "none.npz")
  with pytest.raises(FileNotFoundError, match=r"none\.npz, got none"):
    humanoid.load.__wrapped__()


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_a_file_cut_off_or_with_one_byte_changed_is_named(
  damage, tmp_path, monkeypatch
):
  content = bytearray(humanoid.ASSET.read_bytes())
  content[5000] ^= 1
  path = tmp_path / "broken.npz"
  path.write_bytes({"cut": content[:9000], "flip": content, "text": b"hi"}[damage])
  monkeypatch.setattr(humanoid, "ASSET", path)
  with pytest.raises(ValueError, match=r"cannot read .*broken\.npz"):
    humanoid.load_levels.__wrapped__()
