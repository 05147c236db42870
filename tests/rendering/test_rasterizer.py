"""The z-buffer: against triangles worked by hand and a loop over pixels."""

import pathlib
import runpy

import numpy as np
import pytest

from metro_jax.rendering import rasterizer

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
rasterize = runpy.run_path(str(FIXTURES / "rasterized.py"))["rasterize"]
# Seen from outside with y down: the corners turn anticlockwise on the screen.
FACE = np.array([[0, 2, 1]], np.int32)


def brute_force(points, faces, height, width, cull):
  """Every pixel against every face, one at a time, solving for the barycentrics."""
  face = np.full((height, width), -1)
  depth = np.full((height, width), np.inf)
  for row in range(height):
    for column in range(width):
      for number, corners in enumerate(points[faces].astype(np.float64)):
        a, b, c = corners
        matrix = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
        area = np.linalg.det(matrix)
        if area == 0 or (cull and area > 0):
          continue
        weights = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1.0])
        here = weights @ corners[:, 2]
        if weights.min() >= 0 and here < depth[row, column]:
          face[row, column], depth[row, column] = number, here
  return face, depth


def random_mesh(seed, faces=40, side=12):
  rng = np.random.default_rng(seed)
  points = rng.uniform(-3, side + 3, (3 * faces, 3)).astype(np.float32)
  return points, np.arange(3 * faces, dtype=np.int32).reshape(-1, 3)


@pytest.mark.parametrize("cull", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_pixel_sees_the_face_that_a_loop_finds(seed, cull):
  points, faces = random_mesh(seed)
  drawn = rasterize(points, faces, 9, 12, cull)
  face, depth = brute_force(points, faces, 9, 12, cull)
  np.testing.assert_array_equal(drawn.face, face)
  np.testing.assert_allclose(drawn.depth, depth, rtol=1e-5)


def test_a_pixel_is_covered_when_its_centre_is():
  # Right angle at the origin, legs of 3: centres with x + y <= 3 are (.5, 1.5, 2.5)
  # on the diagonal, which belongs to the triangle.
  points = np.array([[0, 0, 1], [3, 0, 1], [0, 3, 1]], np.float32)
  drawn = rasterize(points, FACE, 4, 4)
  expected = [[0, 0, 0, -1], [0, 0, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]
  np.testing.assert_array_equal(drawn.face, expected)


def test_barycentrics_and_depth_are_linear_on_the_screen():
  points = np.array([[0, 0, 1], [4, 0, 5], [0, 4, 9]], np.float32)
  drawn = rasterize(points, FACE, 4, 4)
  # At the centre (1.5, 0.5): corner 1 has 1.5 / 4, corner 2 has 0.5 / 4.
  weights = dict(zip(FACE[0], drawn.barycentric[0, 1], strict=True))
  assert weights == pytest.approx({0: 0.5, 1: 0.375, 2: 0.125})
  assert drawn.depth[0, 1] == pytest.approx(0.5 * 1 + 0.375 * 5 + 0.125 * 9)
  assert drawn.depth[3, 3] == np.inf and drawn.face[3, 3] == -1


def test_the_nearer_triangle_hides_the_farther_whatever_their_order():
  points = np.array(
    [[0, 0, 2], [8, 0, 2], [0, 8, 2], [0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float32
  )
  faces = np.array([[0, 2, 1], [3, 5, 4]], np.int32)
  for order in ([0, 1], [1, 0]):
    drawn = rasterize(points, faces[order], 8, 8)
    seen = np.array(order)[drawn.face]
    assert seen[0, 0] == 1 and seen[0, 6] == 0


def test_faces_seen_from_inside_are_culled_only_on_request():
  points = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float32)
  behind = FACE[:, ::-1]
  assert (rasterize(points, behind, 4, 4).face == -1).all()
  assert rasterize(points, behind, 4, 4, False).face[0, 0] == 0


def test_neighbouring_triangles_leave_no_gap():
  rng = np.random.default_rng(3)
  grid = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), -1)
  grid[1:-1, 1:-1] += rng.uniform(-0.3, 0.3, (7, 7, 2))
  points = np.concatenate([grid * 4, np.ones((9, 9, 1))], -1).reshape(-1, 3)
  corner = np.arange(81).reshape(9, 9)
  a, b, c, d = (corner[i : i + 8, j : j + 8].ravel() for i in (0, 1) for j in (0, 1))
  faces = np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])
  assert (rasterize(points, faces, 32, 32).face >= 0).all()


@pytest.mark.parametrize("off", [(-50, 0), (50, 0), (0, -50), (0, 50)])
def test_what_lies_outside_of_the_picture_is_not_drawn(off):
  points = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float32)
  points[:, :2] += off
  assert (rasterize(points, FACE, 6, 6).face == -1).all()


def test_an_empty_mesh_and_a_flat_triangle_draw_nothing():
  points = np.array([[0, 0, 1], [2, 2, 1], [4, 4, 1]], np.float32)
  assert len(rasterizer.sample_pixels(points, FACE, 4, 4, False).pixel) == 0
  none = np.zeros((0, 3), np.int32)
  assert len(rasterizer.sample_pixels(points, none, 4, 4).pixel) == 0


def test_impossible_input_is_named():
  points = np.zeros((3, 3), np.float32)
  with pytest.raises(ValueError, match=r"over 3 points, got indices 0\.\.7"):
    rasterize(points, np.array([[0, 1, 7]], np.int32), 4, 4)
  with pytest.raises(ValueError, match="picture with pixels, got 0x4"):
    rasterize(points, FACE, 0, 4)


def test_attributes_are_blended_by_the_corners_weights():
  points = np.array([[0, 0, 1], [4, 0, 1], [0, 4, 1]], np.float32)
  samples = rasterizer.sample_pixels(points, FACE, 4, 4)
  # The attribute is the place itself: every sample must read its own centre.
  place = rasterizer.interpolate(samples, FACE, points[:, :2])
  centre = np.stack([samples.pixel % 4, samples.pixel // 4], 1) + 0.5
  np.testing.assert_allclose(place, centre, atol=1e-6)


def test_normals_of_an_octahedron_point_from_its_middle():
  axes = np.concatenate([np.eye(3), -np.eye(3)])
  upper = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]], np.int32)
  lower = np.where(upper == 2, 5, upper)[:, ::-1]
  faces = np.concatenate([upper, lower])
  np.testing.assert_allclose(rasterizer.vertex_normals(axes, faces), axes, atol=1e-6)


def test_lambert_light():
  normals = np.array([[0, 0, -2], [0, -1, 0], [0, 0, 1]], np.float32)
  light = np.array([0, -0.6, -0.8], np.float32)
  bright = rasterizer.lambert(normals, light, ambient=0.5)[:, 0]
  assert bright == pytest.approx([0.5 + 0.5 * 0.8, 0.5 + 0.5 * 0.6, 0.5])


def test_coverage_is_the_share_of_the_pixel_that_is_covered():
  # A wall facing the camera over the left 1.5 of 4 columns.
  points = np.array([[0, 0, 0], [1.5, 0, 0], [0, 4, 0], [1.5, 4, 0]], np.float32)
  faces = np.array([[0, 2, 1], [1, 2, 3]], np.int32)
  samples = rasterizer.sample_pixels(points * 2, faces, 8, 8)
  colors = np.broadcast_to(np.array([1.0, 0.5, 0.0]), (len(samples.pixel), 3))
  picture = rasterizer.resolve(samples, colors, 8, 8, supersample=2)
  assert picture.shape == (4, 4, 4)
  assert picture[0, :, 3].tolist() == [1.0, 0.5, 0.0, 0.0]
  assert picture[0, 0, :3].tolist() == [1.0, 0.5, 0.0]
  assert picture[0, 1, :3].tolist() == [0.5, 0.25, 0.0]  # times coverage
