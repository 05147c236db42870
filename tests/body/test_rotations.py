"""Rotations against the exponential series and against each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.body import rotations


def exponential(axis_angle: np.ndarray) -> np.ndarray:
  """exp of the cross-product matrix, by its power series."""
  x, y, z = axis_angle
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  terms = (np.linalg.matrix_power(cross, n) / math.factorial(n) for n in range(40))
  return sum(terms)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 3.0])
def test_matrices_are_the_exponential_of_the_cross_product(scale):
  vectors = scale * np.random.default_rng(0).standard_normal((20, 3))
  expected = np.stack([exponential(v) for v in vectors])
  # The released code's shift of 1e-8 in the norm bounds the agreement.
  got = rotations.axis_angle_to_matrix(vectors)
  np.testing.assert_allclose(got, expected, atol=5e-8)


def test_the_zero_vector_gives_the_identity_and_a_finite_gradient():
  def corner(vector):
    return rotations.axis_angle_to_matrix(vector)[0, 1]

  zero = jnp.zeros(3)
  np.testing.assert_allclose(rotations.axis_angle_to_matrix(zero), np.eye(3), atol=1e-7)
  # d R_01 / d z = -1 at the identity.
  np.testing.assert_allclose(jax.grad(corner)(zero), [0, 0, -1], atol=1e-6)


def test_axis_angles_come_back_from_their_matrices():
  rng = np.random.default_rng(1)
  axes = rng.standard_normal((200, 3))
  axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
  vectors = axes * rng.uniform(0, np.pi - 1e-3, (200, 1))
  back = rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(vectors))
  np.testing.assert_allclose(back, vectors, atol=1e-7)


@pytest.mark.parametrize("axis", np.eye(3), ids=["x", "y", "z"])
def test_half_turns_come_back_exactly(axis):
  half_turn = 2 * np.outer(axis, axis) - np.eye(3)
  np.testing.assert_allclose(
    rotations.matrix_to_axis_angle(half_turn), np.pi * axis, atol=1e-12
  )


def test_the_nearest_rotation_is_the_turn_of_points_and_no_mirror():
  points = np.random.default_rng(0).normal(size=(20, 3))
  turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
  covariance = ((points @ turn.T).T @ points)[None]
  np.testing.assert_allclose(
    rotations.nearest_rotation(covariance)[0], turn, atol=1e-12
  )
  mirrored = covariance * np.array([-1.0, 1.0, 1.0])[:, None]
  found = rotations.nearest_rotation(mirrored)[0]
  assert np.linalg.det(found) == pytest.approx(1.0)
  found = rotations.nearest_rotation(mirrored, proper=False)[0]
  np.testing.assert_allclose(found, turn * [[-1], [1], [1]], atol=1e-12)
