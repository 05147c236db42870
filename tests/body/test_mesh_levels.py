"""Mesh levels: gathers down, barycentric up, and built ones that are exact."""

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from metro_jax.body import mesh_levels

# Five points; the first step drops point 1, the second the first of what is left.
LEVELS = mesh_levels.MeshLevels(
  counts=(5, 4, 3),
  select=(np.array([0, 2, 3, 4], np.int32), np.array([1, 2, 3], np.int32)),
  upsample_index=(
    np.array([[0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]], np.int32),
    np.array([[0, 1, 2], [0, 1, 2], [1, 0, 2], [2, 0, 1]], np.int32),
  ),
  upsample_weight=(
    np.array([[1, 0, 0], [0.25, 0.75, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32),
    np.array([[0.5, 0.5, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]], np.float32),
  ),
  faces=tuple(np.array([[0, 1, 2]], np.int32) for _ in range(3)),
)
VALUES = np.array([[[10.0], [20.0], [30.0], [40.0], [50.0]]])


@pytest.mark.parametrize("xp", [np, jnp])
def test_downsampling_keeps_the_selected_vertices_step_after_step(xp):
  values = xp.asarray(VALUES)
  one = mesh_levels.downsample(LEVELS, values, 1)
  two = mesh_levels.downsample(LEVELS, values, 2)
  assert one[0, :, 0].tolist() == [10, 30, 40, 50]
  assert two[0, :, 0].tolist() == [30, 40, 50]
  assert isinstance(two, type(values))


def test_upsampling_interpolates_step_after_step():
  middle = mesh_levels.upsample_matrix(LEVELS, 1) @ [30, 40, 50]
  full = mesh_levels.upsample_matrix(LEVELS, 0) @ middle
  # By hand: point 0 = (30 + 40) / 2; point 1 = 0.25 * 35 + 0.75 * 30.
  assert middle.tolist() == [35, 30, 40, 50]
  assert full.tolist() == [35, 31.25, 30, 40, 50]


def test_zero_steps_change_nothing():
  assert mesh_levels.downsample(LEVELS, VALUES, 0) is VALUES


def test_a_repeated_corner_counts_twice_in_the_dense_matrix():
  index = (np.array([[1, 1, 0]] * 5, np.int32), LEVELS.upsample_index[1])
  levels = LEVELS._replace(upsample_index=index)
  weight = levels.upsample_weight[0]
  matrix = mesh_levels.upsample_matrix(levels, 0)
  np.testing.assert_allclose(matrix[:, 1], weight[:, 0] + weight[:, 1])


def test_choosing_the_finest_levels_leaves_their_steps_alone():
  shorter = mesh_levels.choose(LEVELS, (5, 4))
  assert shorter.counts == (5, 4)
  assert [len(part) for part in shorter[1:]] == [1, 1, 1, 2]
  assert mesh_levels.choose(LEVELS, [5]).select == ()


def test_a_step_over_a_level_is_the_product_of_its_steps():
  shorter = mesh_levels.choose(LEVELS, (5, 3))
  down = mesh_levels.downsample(LEVELS, VALUES, 2)
  np.testing.assert_array_equal(mesh_levels.downsample(shorter, VALUES, 1), down)
  product = mesh_levels.upsample_matrix(LEVELS, 0) @ mesh_levels.upsample_matrix(
    LEVELS, 1
  )
  matrix = mesh_levels.upsample_matrix(shorter, 0)
  np.testing.assert_allclose(matrix, product, atol=1e-6)
  assert len(shorter.faces) == 2


@pytest.mark.parametrize("counts", [(4, 3), (), (5, 3, 4), (5, 4, 3, 2), (5, 5)])
def test_levels_that_do_not_exist_are_refused_with_those_that_do(counts):
  with pytest.raises(ValueError, match=r"expected 5 and then any of \(4, 3\)"):
    mesh_levels.choose(LEVELS, counts)


def test_wrong_levels_and_wrong_meshes_are_refused():
  with pytest.raises(ValueError, match=r"level in 0\.\.2, got 3"):
    mesh_levels.downsample(LEVELS, VALUES, 3)
  with pytest.raises(ValueError, match="expected 5 vertices of level 0, got 4"):
    mesh_levels.downsample(LEVELS, VALUES[:, :4], 1)
  with pytest.raises(ValueError, match="upsample_matrix"):
    mesh_levels.upsample_matrix(LEVELS, 2)


TRIANGLE = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])


@pytest.mark.parametrize(
  ("point", "closest"),
  [
    ((1, 1, 3), (1, 1, 0)),  # above the inside
    ((2, -1, 1), (2, 0, 0)),  # beyond an edge
    ((4, 4, 0), (2, 2, 0)),  # beyond the long edge
    ((-1, -2, 0), (0, 0, 0)),  # beyond a corner
    ((9, -1, 2), (4, 0, 0)),  # beyond a sharp corner
  ],
)
def test_the_closest_point_of_a_triangle(point, closest):
  index, weight = mesh_levels.closest_on_surface(
    np.array([point], float), TRIANGLE, np.array([[0, 1, 2]])
  )
  np.testing.assert_allclose(weight[0] @ TRIANGLE[index[0]], closest, atol=1e-6)
  assert weight.min() >= 0


def test_a_triangle_without_area_is_no_trap():
  sliver = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
  index, weight = mesh_levels.closest_on_surface(
    np.array([[1.5, 1.0, 0.0]]), sliver, np.array([[0, 1, 2]])
  )
  np.testing.assert_allclose(weight[0] @ sliver[index[0]], [1.5, 0, 0], atol=1e-6)


def test_building_keeps_vertices_and_stays_on_the_surface():
  pytest.importorskip("meshoptimizer", reason="the extra `build` is not installed")
  sphere = trimesh.creation.icosphere(subdivisions=3)
  levels = mesh_levels.build(sphere.vertices, sphere.faces, (642, 200, 50))
  assert levels.counts == (642, 200, 50)
  assert [len(np.unique(faces)) for faces in levels.faces] == [642, 200, 50]
  coarse = mesh_levels.downsample(levels, sphere.vertices[None], 2)
  np.testing.assert_allclose(np.linalg.norm(coarse[0], axis=1), 1.0, atol=1e-6)
  middle = mesh_levels.upsample_matrix(levels, 1) @ coarse[0]
  back = mesh_levels.upsample_matrix(levels, 0) @ middle
  # A sphere through 50 points: its facets reach about 0.9 of the radius.
  assert np.linalg.norm(back - sphere.vertices, axis=1).max() < 0.3
  np.testing.assert_allclose(middle[levels.select[1]], coarse[0], atol=1e-6)


@pytest.mark.parametrize("counts", [(), (641, 50), (642, 642), (642, 50, 60)])
def test_building_refuses_counts_that_do_not_fall_from_the_mesh(counts):
  sphere = trimesh.creation.icosphere(subdivisions=3)
  with pytest.raises(ValueError, match="expected falling counts from 642"):
    mesh_levels.build(sphere.vertices, sphere.faces, counts)
