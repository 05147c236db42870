import numpy as np

from metro_jax.rendering import vertex_colors

# Two squares of 2 x 2 quads, one 0.3 m behind the other, both facing the camera.
SIDE = 3


def square(depth_m):
  x, y = np.meshgrid(np.linspace(0, 0.2, SIDE), np.linspace(0, 0.2, SIDE))
  return np.stack([x.ravel(), y.ravel(), np.full(x.size, depth_m)], axis=1)


QUADS = [
  (a, a + 1, a + SIDE + 1, a + SIDE)
  for a in range(SIDE * SIDE - SIDE)
  if a % SIDE < SIDE - 1
]
FACES = np.array([t for a, b, c, d in QUADS for t in ((a, c, b), (a, d, c))])


def test_a_vertex_has_the_color_of_its_place_in_the_photograph():
  image = np.zeros((100, 100, 3), np.uint8)
  image[:, :, 0] = np.arange(100) * 2  # red grows to the right
  image[:, :, 1] = np.arange(100)[:, None]
  points_px = np.array([[20.5, 30.5], [21.0, 30.5], [20.5, 40.5]])
  vertices_m = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]])
  faces = np.array([[0, 2, 1]])
  found = vertex_colors.from_photograph(image, points_px, vertices_m, faces)
  np.testing.assert_array_equal(found, [[40, 30, 0], [41, 30, 0], [40, 40, 0]])


def test_what_is_hidden_looks_away_or_is_outside_is_not_seen():
  vertices_m = np.concatenate([square(0.0), square(0.3)])
  points_px = 100 * vertices_m[:, :2] + 5
  points_px[9:, 0] += 10  # half of the back square looks out on the right
  faces = np.concatenate([FACES, FACES + 9])
  seen = vertex_colors.visible(points_px, vertices_m, faces, (26, 36))
  assert seen[:9].all()
  np.testing.assert_array_equal(seen[9:].reshape(3, 3), [[False, False, True]] * 3)
  assert not vertex_colors.visible(points_px, vertices_m, faces, (26, 30))[11]
  assert not vertex_colors.visible(
    points_px, vertices_m, faces[:, ::-1], (26, 36)
  ).any()


def test_colors_spread_over_the_mesh_to_what_is_not_seen():
  vertices_m = np.concatenate([square(0.0), square(0.3)])
  points_px = 100 * vertices_m[:, :2] + 5
  points_px[9:] = points_px[:9]
  image = np.full((40, 40, 3), (200, 100, 50), np.uint8)
  image[:, :5] = 0
  points_px[::3, 0] = -3  # the left column of each is outside of the picture
  faces = np.concatenate([FACES, FACES + 9])
  found = vertex_colors.from_photograph(image, points_px, vertices_m, faces)
  # The back square has no seen neighbour: the mean of all.
  np.testing.assert_array_equal(found, [[200, 100, 50]] * 18)
