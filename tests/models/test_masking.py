"""Mask modelling draws what the paper says."""

import jax
import numpy as np

from metro_jax.models import masking

JOINTS, VERTICES, FRACTION = 14, 431, 0.3


def draw(seed: int, batch: int = 2000) -> np.ndarray:
  key = jax.random.key(seed)
  sample = jax.jit(masking.sample_mask, static_argnums=(1, 2, 3, 4))
  return np.asarray(sample(key, batch, JOINTS, VERTICES, FRACTION))


def test_counts_are_the_floor_of_a_uniform_share_for_joints_and_vertices():
  mask = draw(0)
  joints, vertices = mask[:, :JOINTS].sum(1), mask[:, JOINTS:].sum(1)
  # floor(u * 4.2): 0 to 3 with probability 1 / 4.2 each, 4 with the rest.
  shares = np.bincount(joints, minlength=6) / len(mask)
  np.testing.assert_allclose(shares, [*[1 / 4.2] * 4, 0.2 / 4.2, 0], atol=0.03)
  assert vertices.max() in (128, 129)  # floor(0.3 * 431) at most
  np.testing.assert_allclose(vertices.mean(), 0.5 * 0.3 * 431 - 0.5, rtol=0.05)
  assert abs(np.corrcoef(joints, vertices)[0, 1]) < 0.1


def test_every_position_is_equally_likely_and_examples_differ():
  mask = draw(1)
  np.testing.assert_allclose(mask[:, JOINTS:].mean(0), 0.149, atol=0.04)
  assert len(np.unique(mask, axis=0)) > 0.99 * len(mask)


def test_the_key_decides():
  np.testing.assert_array_equal(draw(2, 8), draw(2, 8))
  assert (draw(2, 8) != draw(3, 8)).any()


def test_a_fraction_of_zero_masks_nothing():
  mask = masking.sample_mask(jax.random.key(0), 4, JOINTS, VERTICES, 0.0)
  assert mask.shape == (4, JOINTS + VERTICES)
  assert not mask.any()
