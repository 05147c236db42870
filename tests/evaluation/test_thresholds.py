"""Expected values are computed by hand; see the comments."""

import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.evaluation import thresholds


def one(*distances_mm):
  return jnp.array([distances_mm], jnp.float32)


def test_pck_counts_what_is_closer_than_150_mm_not_what_is_at_it():
  got = thresholds.pck(one(0.0, 100.0, 149.9, 150.0, 200.0))
  np.testing.assert_allclose(got, [3 / 5], rtol=1e-6)


def test_pck_leaves_out_unknown_joints_even_nan():
  distances = jnp.array([[10.0, jnp.nan, 300.0], [500.0, 10.0, 10.0]])
  known = jnp.array([[True, False, True], [False, True, True]])
  np.testing.assert_allclose(thresholds.pck(distances, known), [0.5, 1.0])


@pytest.mark.parametrize(
  ("distance_mm", "reached"),  # of the 31 thresholds 0, 5, ..., 150
  [(0.0, 30), (5.0, 29), (72.0, 16), (75.0, 15), (149.0, 1), (150.0, 0), (900.0, 0)],
)
def test_the_3d_auc_is_the_mean_over_31_thresholds(distance_mm, reached):
  got = thresholds.pck_auc(one(distance_mm))
  np.testing.assert_allclose(got, [reached / 31], rtol=1e-6)


@pytest.mark.parametrize(
  ("distances_mm", "area"),
  [
    ((0.0,), 1.0),
    ((25.0,), 0.5),  # from the 51st of 100 values: 49 1/2 of 99 steps
    ((0.2,), 98.5 / 99),  # the first value after 0 is 0.505
    ((50.0,), 0.5 / 99),  # only the last value, which has half a step
    ((50.1,), 0.0),
    ((0.0, 25.0, 70.0, 80.0), 0.375),
  ],
)
def test_the_hand_auc_is_the_area_under_the_share_within_50_mm(distances_mm, area):
  got = thresholds.hand_auc(one(*distances_mm))
  np.testing.assert_allclose(got, [area], rtol=1e-5, atol=1e-7)


def test_f_scores_by_hand():
  predicted = jnp.array([[[0.0, 0, 0], [1, 0, 0]]])
  target = jnp.array([[[0.003, 0, 0], [1.010, 0, 0], [5, 0, 0], [6, 0, 0]]])
  # 5 mm: 1 of 2 predicted, 1 of 4 true; 15 mm: 2 of 2 and 2 of 4.
  np.testing.assert_allclose(
    thresholds.f_scores(predicted, target), [[1 / 3, 2 / 3]], rtol=1e-6
  )


def test_f_scores_of_equal_meshes_are_1_and_of_distant_ones_0():
  points = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 3)), jnp.float32)
  got = thresholds.f_scores(points, points.at[1].add(100.0))
  np.testing.assert_array_equal(got, [[1, 1], [0, 0]])


def test_f_scores_match_nearest_points_not_corresponding_ones():
  points = jnp.asarray(np.random.default_rng(1).normal(size=(1, 30, 3)), jnp.float32)
  np.testing.assert_array_equal(thresholds.f_scores(points, points[:, ::-1]), [[1, 1]])
