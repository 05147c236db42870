"""Errors of a batch against NumPy, with joints that are not labelled."""

import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.body import joints
from metro_jax.evaluation import measure, protocols
from metro_jax.training.losses import Targets

RNG = np.random.default_rng(11)
HIPS = [joints.J14.index("R_Hip"), joints.J14.index("L_Hip")]
HEAD = joints.J14.index("Head")
VERTICES = 9


def floats(*shape):
  return RNG.normal(size=shape).astype(np.float32)


TRUE_JOINTS, JOINTS = floats(4, 14, 3), floats(4, 14, 3)
TRUE_MESH, MESH = floats(4, VERTICES, 3), floats(4, VERTICES, 3)


def measured(confidence, true_joints=TRUE_JOINTS, predicted=JOINTS, root="hips"):
  count = len(true_joints)
  labels = np.concatenate([true_joints, confidence[..., None]], axis=-1)
  yes = jnp.ones(count, bool)
  targets = Targets(
    vertices=(jnp.asarray(TRUE_MESH[:count]),),
    joints_3d=jnp.asarray(labels, jnp.float32),
    joints_2d=jnp.zeros((count, labels.shape[1], 3)),
    has_mesh=yes.at[-1].set(False),
    has_joints_3d=yes,
    has_joints_2d=yes,
  )
  mesh, predicted = jnp.asarray(MESH[:count]), jnp.asarray(predicted)
  return measure.measure(mesh, predicted, targets, root)


def hidden(*places):
  confidence = np.ones((4, 14), np.float32)
  for example, joint in places:
    confidence[example, joint] = 0
  return confidence


def test_a_joint_without_a_label_is_left_out_of_its_examples_mean():
  # The stored place of such a joint is zeros, which must not count as a place.
  labels = TRUE_JOINTS.copy()
  labels[1, HEAD] = 0
  found = measured(hidden((1, HEAD)), labels)
  mine, true = JOINTS[1], labels[1]
  gaps = (mine - mine[HIPS].mean(0)) - (true - true[HIPS].mean(0))
  distances_mm = 1000 * np.linalg.norm(gaps, axis=-1)
  expected = np.delete(distances_mm, HEAD).mean()
  np.testing.assert_allclose(found.errors["mpjpe_mm"][1], expected, rtol=1e-5)
  per_joint = found.joint_errors_mm["mpjpe_mm"][1]
  assert np.isnan(per_joint[HEAD])
  np.testing.assert_allclose(per_joint[0], distances_mm[0], rtol=1e-5)
  assert np.isnan(found.joint_errors_mm["pa_mpjpe_mm"]).sum() == 1
  whole = measured(hidden())
  assert whole.errors["pa_mpjpe_mm"][1] != pytest.approx(
    float(found.errors["pa_mpjpe_mm"][1]), rel=1e-3
  )
  np.testing.assert_array_equal(
    whole.errors["pa_mpjpe_mm"][0], found.errors["pa_mpjpe_mm"][0]
  )


def test_without_a_hip_mpjpe_does_not_count_but_pa_mpjpe_does():
  found = measured(hidden((2, HIPS[0])))
  np.testing.assert_array_equal(found.counted["mpjpe_mm"], [True, True, False, True])
  np.testing.assert_array_equal(found.counted["pck_150mm"], [True, True, False, True])
  assert found.counted["pa_mpjpe_mm"].all() and found.counted["pa_pck_150mm"].all()
  assert np.isnan(found.joint_errors_mm["mpjpe_mm"][2]).all()


def test_two_joints_are_too_few_for_an_alignment():
  found = measured(hidden(*((3, joint) for joint in range(14) if joint not in HIPS)))
  np.testing.assert_array_equal(found.counted["pa_mpjpe_mm"], [True, True, True, False])
  assert found.counted["mpjpe_mm"].all()


def test_errors_of_meshes_count_where_there_is_a_mesh():
  found = measured(hidden())
  for name in ("mpvpe_mm", "pa_mpvpe_mm"):
    np.testing.assert_array_equal(found.counted[name], [True, True, True, False])
  expected = 1000 * np.linalg.norm(MESH - TRUE_MESH, axis=-1).mean(-1)
  np.testing.assert_allclose(found.errors["mpvpe_mm"], expected, rtol=1e-5)


def test_a_body_that_only_stands_elsewhere_and_is_larger_is_right_after_alignment():
  found = measured(hidden(), predicted=2 * TRUE_JOINTS + 0.3)
  np.testing.assert_allclose(found.errors["pa_mpjpe_mm"], 0, atol=1e-2)
  np.testing.assert_array_equal(found.errors["pa_pck_150mm"], 1)
  np.testing.assert_allclose(found.errors["pa_auc_150mm"], 30 / 31, rtol=1e-6)
  assert (found.errors["pck_150mm"] < 0.5).all()  # random joints lie metres apart


def test_bodies_and_hands_have_the_numbers_of_their_protocols():
  assert set(measured(hidden()).errors) == set(protocols.BODY_METRICS)
  wrist = measured(np.ones((4, 21), np.float32), *floats(2, 4, 21, 3), root="wrist")
  assert set(wrist.errors) == set(protocols.HAND_METRICS)
  assert wrist.joint_errors_mm["mpjpe_mm"].shape == (4, 21)
  np.testing.assert_allclose(wrist.joint_errors_mm["mpjpe_mm"][:, 0], 0, atol=1e-3)


def test_a_hands_f_scores_and_areas_are_of_aligned_points():
  labels = floats(4, 21, 3)
  found = measured(np.ones((4, 21), np.float32), labels, 3 * labels + 1, root="wrist")
  np.testing.assert_allclose(found.errors["pa_auc_50mm"], 1, atol=0.5 / 99 + 1e-6)
  assert (found.errors["pa_mesh_auc_50mm"] < 0.1).all()
  assert (found.errors["pa_f_5mm"] <= found.errors["pa_f_15mm"]).all()
