"""Degradations: each does what its name says, and all follow from their generator."""

import cv2
import numpy as np
import pytest

from metro_jax.data import degradation

JOINTS = np.array([[-0.5, -0.6], [0.5, -0.6], [0.0, 0.0], [-0.4, 0.7], [0.4, 0.7]])


@pytest.fixture
def image():
  rng = np.random.default_rng(0)
  coarse = rng.integers(30, 226, (12, 12, 3), np.uint8)
  return cv2.resize(coarse, (96, 96), interpolation=cv2.INTER_NEAREST)


def rng(n=0):
  return np.random.default_rng(n)


def sharpness(image):
  return float(np.abs(np.diff(image.astype(float), axis=1)).max())


def test_every_change_keeps_the_size_and_its_argument(image):
  before = image.copy()
  for change in (*degradation.SHARPNESS, *degradation.COLORS):
    for n in range(5):
      made = change(rng(n), image)
      assert made.shape == image.shape and made.dtype == np.uint8
      np.testing.assert_array_equal(image, before)


def test_blurs_lower_steps_and_leave_a_plain_picture_alone(image):
  plain = np.full_like(image, 77)
  for change in (degradation.reduce, degradation.blur, degradation.blur_motion):
    np.testing.assert_array_equal(change(rng(1), plain), plain)
  for change in (degradation.blur, degradation.blur_motion):
    assert sharpness(change(rng(3), image)) < sharpness(image)


def test_grey_has_equal_channels_of_the_standard_weights(image):
  grey = degradation.to_grey(rng(), image)
  weighted = image @ [0.299, 0.587, 0.114]
  np.testing.assert_allclose(grey[..., 0], weighted, atol=0.6)
  assert (grey == grey[..., :1]).all()


def test_posterise_keeps_few_levels(image):
  levels = {len(np.unique(degradation.posterise(rng(n), image))) for n in range(30)}
  assert max(levels) <= 32 and min(levels) <= 8


def test_noise_has_the_deviation_that_it_says():
  plain = np.full((64, 64, 3), 128, np.uint8)
  for n in range(20):
    deviation = degradation.add_noise(rng(n), plain).astype(float).std()
    assert 2.5 < deviation < 26


def test_a_gamma_keeps_black_and_white():
  ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
  for n in range(10):
    np.testing.assert_array_equal(degradation.change_gamma(rng(n), ends), ends)


def test_a_cut_blackens_one_side_and_hides_at_most_four_tenths_of_the_extent(image):
  joints_px = (JOINTS + 1) * 48
  extent = np.ptp(joints_px, axis=0)
  for n in range(40):
    made = degradation.cut(rng(n), image, joints_px)
    black = (made == 0).all(axis=2)
    rows, columns = black.all(axis=1), black.all(axis=0)
    assert rows.any() != columns.any()
    lost, axis = (rows, 1) if rows.any() else (columns, 0)
    low, high = joints_px[:, axis].min(), joints_px[:, axis].max()
    hidden = lost[int(low) : int(high)].sum()
    assert 0 < hidden <= 0.4 * extent[axis] + 1
    np.testing.assert_array_equal(made[~black], image[~black])


def test_a_cover_changes_little_and_lies_at_joints(image):
  joints_px = (JOINTS + 1) * 48
  for n in range(40):
    made = degradation.cover(rng(n), image, joints_px)
    changed = np.argwhere((made != image).any(axis=2))
    assert len(changed) < 0.15 * 96 * 96
    if len(changed):
      gaps = np.linalg.norm(changed[:, None, ::-1] - joints_px, axis=2).min(axis=1)
      assert gaps.max() < 0.3 * 96


def test_the_result_follows_from_the_generator_and_strength_0_changes_nothing(image):
  made = [degradation.degrade(rng(5), image, JOINTS) for _ in range(2)]
  np.testing.assert_array_equal(*made)
  for n in range(20):
    same = degradation.degrade(rng(n), image, JOINTS, 0.0)
    np.testing.assert_array_equal(same, image)
  changed = [degradation.degrade(rng(n), image, JOINTS) for n in range(60)]
  assert sum(not np.array_equal(one, image) for one in changed) > 45
