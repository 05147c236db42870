"""Lenses against a pinhole camera written as matrices."""

import numpy as np
import pytest

from metro_jax.data.builders.synthetic import lenses


@pytest.fixture
def points_m():
  return np.random.default_rng(1).normal(0, 0.4, (200, 3))


def test_a_pinhole_sees_what_its_matrix_says(points_m):
  s, tx, ty, d = 0.9, 0.05, -0.1, 3.0
  pinhole = lenses.Pinhole(np.array([s, tx, ty]), d)
  # K [I | t] with the focal length s d, the eye d before the origin and moved aside.
  matrix = np.diag([s * d, s * d, 1.0]) @ np.c_[np.eye(3), [tx, ty, d]]
  homogeneous = np.c_[points_m, np.ones(len(points_m))] @ matrix.T
  seen = homogeneous[:, :2] / homogeneous[:, 2:]
  np.testing.assert_allclose(pinhole.project(points_m), seen, atol=1e-12)


def test_far_away_a_pinhole_is_a_weak_perspective(points_m):
  weak = np.array([0.9, 0.05, -0.1])
  seen = lenses.Pinhole(weak, 1e7).project(points_m)
  np.testing.assert_allclose(seen, 0.9 * (points_m[:, :2] + weak[1:]), atol=1e-6)
  np.testing.assert_allclose(lenses.fit_weak(points_m, seen), weak, atol=1e-5)


def test_the_fitted_camera_is_the_least_squares_one(points_m):
  pinhole = lenses.Pinhole(np.array([0.9, 0.05, -0.1]), 2.0)
  seen = pinhole.project(points_m)
  # x2d = s X + s t is linear in s, s tx and s ty.
  ones, zeros = np.ones(len(points_m)), np.zeros(len(points_m))
  columns = np.r_[
    np.c_[points_m[:, 0], ones, zeros], np.c_[points_m[:, 1], zeros, ones]
  ]
  s, sx, sy = np.linalg.lstsq(columns, np.r_[seen[:, 0], seen[:, 1]])[0]
  fitted = lenses.fit_weak(points_m, seen)
  np.testing.assert_allclose(fitted, [s, sx / s, sy / s], rtol=1e-5)


def test_a_body_fills_its_share_of_the_frame():
  body_m = np.array([[0.0, -0.9, 0.0], [0.0, 0.9, 0.0]])
  # 1.8 m on 36 mm x 0.5 through 50 mm: 1.8 x 50 / 18 = 5 m.
  assert lenses.depth_m(lenses.Lens(50.0, 0.5), body_m) == pytest.approx(5.0)
  near = lenses.depth_m(lenses.Lens(24.0, 1.0), body_m - [0, 0, 1.5])
  assert near == pytest.approx(1.8)  # 0.3 m before a nose at z = -1.5


def test_a_tilt_looks_down_and_rolls_and_is_found_again():
  for pitch, roll in ((0.0, 0.0), (0.6, -0.2), (-0.4, 0.9)):
    to_camera = lenses.Tilt(pitch, roll).to_camera()
    np.testing.assert_allclose(to_camera @ to_camera.T, np.eye(3), atol=1e-7)
    assert np.linalg.det(to_camera) == pytest.approx(1)
    assert lenses.Tilt.of(to_camera) == pytest.approx((pitch, roll), abs=1e-6)
  up = lenses.Tilt(np.radians(30), 0.0).to_camera()[:, 1]
  # From 30 degrees above, up points up in the picture and towards the camera.
  np.testing.assert_allclose(up, [0, -np.cos(np.pi / 6), -0.5], atol=1e-6)


def test_wide_tilts_reach_from_below_to_above():
  drawn = np.random.default_rng(0)
  pitches = np.degrees([lenses.sample_tilt(drawn, True).pitch_rad for _ in range(500)])
  assert pitches.min() < -25 and pitches.max() > 60
  assert -5 < np.median(pitches) < 25
