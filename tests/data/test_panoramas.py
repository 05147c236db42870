"""Photographed places: directions, light by quadrature, and one horizon for all."""

import numpy as np
import pytest

from metro_jax.asset_builds import build_panoramas
from metro_jax.data.builders.synthetic import lenses, panoramas


def test_pixels_cover_the_sphere():
  area = panoramas.solid_angles(64, 128)
  assert area.sum() == pytest.approx(4 * np.pi)
  directions = panoramas.directions(64, 128)
  np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1)
  np.testing.assert_allclose(directions[0, 0][1], 1, atol=1e-3)  # the first row is up
  np.testing.assert_allclose(directions[32, 64], [0.0245, -0.0245, 1], atol=1e-3)


def test_harmonics_are_orthonormal():
  basis = panoramas.harmonics(panoramas.directions(64, 128).reshape(-1, 3))
  area = panoramas.solid_angles(64, 128).reshape(-1, 1)
  np.testing.assert_allclose(basis.T @ (basis * area), np.eye(9), atol=2e-3)


def test_irradiance_is_the_cosine_weighted_mean_of_a_smooth_sky():
  directions = panoramas.directions(64, 128)
  radiance = 1 + 0.8 * directions[..., 1:2] + 0.3 * directions[..., :1]
  radiance = np.repeat(radiance, 3, axis=-1).astype(np.float32)
  place = panoramas.Place(
    np.zeros((2, 4, 3), np.uint8), build_panoramas.to_irradiance(radiance)
  )
  normals = np.array([[0, 1, 0], [0, -1, 0], [1, 0, 0], [0.6, 0, 0.8]], np.float32)
  flat = directions.reshape(-1, 3)
  facing = (flat @ normals.T).clip(0, None) * panoramas.solid_angles(64, 128).reshape(
    -1, 1
  )
  wanted = facing.T @ radiance.reshape(-1, 3) / np.pi
  found = panoramas.irradiance(place, np.eye(3, dtype=np.float32), normals)
  np.testing.assert_allclose(found, wanted, rtol=0.01)


def test_a_view_sees_the_horizon_where_the_tilt_puts_it():
  rows = np.zeros((256, 512, 3), np.uint8)
  rows[:128] = 255  # sky
  place = panoramas.Place(rows, np.zeros((9, 3), np.float32))
  down = lenses.Tilt(np.radians(10), 0.0).to_camera()
  seen = panoramas.view(place, down, 0.5, 200)
  # 10 degrees up from the axis: tan(10) / 0.5 of half the picture above its middle.
  horizon = 100 * (1 - np.tan(np.radians(10)) / 0.5)
  assert (seen[: int(horizon) - 2] == 255).all()
  assert (seen[int(horizon) + 3 :] == 0).all()


def test_the_asset_holds_eighteen_places_lit_to_one():
  places = panoramas.load()
  assert len(places) == 18
  for place in places:
    assert place.picture.shape == (256, 512, 3)
    assert 20 < place.picture.mean() < 235
    mean = place.irradiance[0].mean() * 0.282095
    assert mean == pytest.approx(1, abs=1e-3)
