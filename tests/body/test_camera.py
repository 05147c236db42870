"""The weak-perspective camera, worked out by hand."""

import numpy as np

from metro_jax.body import camera


def test_projection_shifts_in_metres_then_scales():
  points = np.array([[[1.0, 2.0, 9.0], [0.0, 0.0, -1.0]]])
  got = camera.weak_perspective(points, np.array([[0.5, 0.1, -1.0]]))
  np.testing.assert_allclose(got, [[[0.55, 0.5], [0.05, -0.5]]])


def test_crop_corners_are_the_corners_of_the_box():
  corners = np.array([[[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]])
  got = camera.crop_to_pixels(corners, np.array([[50.0, 80.0]]), np.array([40.0]))
  np.testing.assert_allclose(got, [[[30, 60], [70, 100], [50, 80]]])


def test_the_pinhole_sees_the_body_where_the_weak_perspective_put_it():
  weak = np.array([[0.8, 0.2, -0.1]])
  center, box = np.array([[300.0, 150.0]]), np.array([200.0])
  shift = camera.perspective_translation(weak, center, box, (640, 480), 5000.0)
  points = np.array([[[0.3, -0.5, 0.0]]])  # in the plane of the body's origin
  moved = points + shift[:, None]
  pinhole = 5000.0 * moved[..., :2] / moved[..., 2:] + np.array([320.0, 240.0])
  expected = camera.crop_to_pixels(camera.weak_perspective(points, weak), center, box)
  np.testing.assert_allclose(pinhole, expected)
