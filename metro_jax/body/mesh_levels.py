"""Mesh levels, fine to coarse: selecting vertices down, interpolating up.

Level 0 is the full mesh. A coarser level keeps some vertices of the level before
it, so going down is a gather; going up, each vertex is a fixed point of a coarse
triangle (three indices, three barycentric weights).
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Array = Any  # np.ndarray or jax.Array; the result is of the same kind


class MeshLevels(NamedTuple):
  """The levels of one mesh; n levels, fine to coarse, n - 1 steps between them.

  Attributes:
    counts: Vertices a level.
    select: Per step, which vertices of the finer level the coarser one keeps.
    upsample_index: Per step and finer vertex, three or more vertices of the coarser
      level.
    upsample_weight: Their weights: at least 0 with sum 1 in levels that `build` made;
      in the original's files some are negative, and sums are only near 1.
    faces: Per level, triangles; levels below the first may be open.
  """

  counts: tuple[int, ...]
  select: tuple[Int[np.ndarray, " _"], ...]
  upsample_index: tuple[Int[np.ndarray, "_ _"], ...]
  upsample_weight: tuple[Float[np.ndarray, "_ _"], ...]
  faces: tuple[Int[np.ndarray, "_ 3"], ...]


def downsample(
  levels: MeshLevels, vertices: Float[Array, "*b v c"], steps: int
) -> Float[Array, "*b w c"]:
  """Keeps the vertices of the level `steps` below the full mesh.

  Args:
    levels: The mesh's levels.
    vertices: Something per vertex of level 0.
    steps: How many levels to go down; 0 keeps all.

  Returns:
    The same per vertex of level `steps`.

  Raises:
    ValueError: If there is no such level, or the vertices are not level 0.
  """
  _check_level(levels, steps, "downsample")
  if vertices.shape[-2] != levels.counts[0]:
    raise ValueError(
      f"downsample: expected {levels.counts[0]} vertices of level 0, "
      f"got {vertices.shape[-2]}"
    )
  for kept in levels.select[:steps]:
    vertices = vertices[..., kept, :]
  return vertices


def rows_of_levels(levels: MeshLevels) -> tuple[Int[np.ndarray, " _"], ...]:
  """Lists, per level from coarse to fine, which vertices of the full mesh it keeps."""
  rows = [np.arange(levels.counts[0], dtype=np.int32)]
  for kept in levels.select:
    rows.append(rows[-1][kept])
  return tuple(reversed(rows))


def upsample_matrix(levels: MeshLevels, step: int) -> Float[np.ndarray, "fine coarse"]:
  """The upsampling from level step + 1 to level step as a dense matrix.

  Raises:
    ValueError: If there is no such step.
  """
  _check_level(levels, step + 1, "upsample_matrix")
  _check_level(levels, step, "upsample_matrix")
  index, weight = levels.upsample_index[step], levels.upsample_weight[step]
  matrix = np.zeros((levels.counts[step], levels.counts[step + 1]), np.float32)
  np.add.at(matrix, (np.arange(len(index))[:, None], index), weight)
  return matrix


def choose(levels: MeshLevels, counts: Sequence[int]) -> MeshLevels:
  """Some of the levels; the steps over those left out become one.

  Args:
    levels: The mesh's levels.
    counts: Vertices of those to keep, fine to coarse; the full mesh comes first.

  Returns:
    Levels whose up- and downsampling are the products of the steps they replace; a
    vertex then has 3 corners for every step in one, some perhaps repeated.

  Raises:
    ValueError: If the mesh has no such levels in this order.
  """
  counts = tuple(counts)
  kept = [n for n, count in enumerate(levels.counts) if count in counts]
  if not kept or kept[0] != 0 or tuple(levels.counts[n] for n in kept) != counts:
    raise ValueError(
      f"mesh levels: expected {levels.counts[0]} and then any of {levels.counts[1:]} "
      f"from fine to coarse, got {counts}"
    )
  select, indices, weights = [], [], []
  for fine, coarse in itertools.pairwise(kept):
    rows, index = levels.select[fine], levels.upsample_index[fine]
    weight = levels.upsample_weight[fine]
    for step in range(fine + 1, coarse):
      rows = rows[levels.select[step]]
      weight = (weight[..., None] * levels.upsample_weight[step][index]).reshape(
        len(index), -1
      )
      index = levels.upsample_index[step][index].reshape(len(index), -1)
    select.append(rows)
    indices.append(index)
    weights.append(weight)
  faces = tuple(levels.faces[n] for n in kept)
  return MeshLevels(counts, tuple(select), tuple(indices), tuple(weights), faces)


def build(
  template: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  counts: Sequence[int],
) -> MeshLevels:
  """Coarser and coarser versions of any mesh.

  Edges collapse by quadric error onto one of their ends. A vertex that goes is
  replaced by the closest point of the coarser surface in the rest pose.

  Args:
    template: Vertices in a pose that keeps the limbs apart, metres.
    faces: Triangles.
    counts: Vertices a level, falling; the first is the number of vertices.

  Returns:
    The levels.

  Raises:
    ValueError: If the counts do not start at the mesh's own and fall, or no
      simplification has exactly that many vertices.
    ModuleNotFoundError: Without meshoptimizer (the extra `build`).
  """
  counts = tuple(int(count) for count in counts)
  falling = all(a > b > 2 for a, b in itertools.pairwise(counts))
  if not counts or counts[0] != len(template) or not falling:
    raise ValueError(
      f"mesh levels: expected falling counts from {len(template)}, got {counts}"
    )
  select, index, weight, all_faces = [], [], [], [faces.astype(np.int32)]
  vertices = template
  for count in counts[1:]:
    kept, coarse_faces = simplify(vertices, all_faces[-1], count)
    corners, shares = closest_on_surface(vertices, vertices[kept], coarse_faces)
    select.append(kept)
    index.append(corners)
    weight.append(shares)
    all_faces.append(coarse_faces)
    vertices = vertices[kept]
  return MeshLevels(
    counts, tuple(select), tuple(index), tuple(weight), tuple(all_faces)
  )


def simplify(
  vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], count: int
) -> tuple[Int[np.ndarray, " w"], Int[np.ndarray, "g 3"]]:
  """A simplification with exactly `count` of the vertices.

  Returns:
    The kept vertices in rising order, and triangles among them.

  Raises:
    ValueError: If no number of triangles leaves exactly that many vertices.
    ModuleNotFoundError: Without meshoptimizer (the extra `build`).
  """
  nearest = []
  # A closed mesh has 2 v - 4 triangles; an open or pinched one a few more or fewer.
  for offset in sorted(range(-200, 201), key=abs):
    triangles = collapse(vertices, faces, 2 * count - 4 + 2 * offset)
    kept = np.unique(triangles)
    if len(kept) == count:
      return kept.astype(np.int32), np.searchsorted(kept, triangles).astype(np.int32)
    nearest.append(len(kept))
  raise ValueError(
    f"mesh levels: expected a simplification to {count} vertices, got "
    f"{min(nearest)} to {max(nearest)} of {len(vertices)}"
  )


def collapse(
  vertices: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  count: int,
  lock_border: bool = False,
) -> Int[np.ndarray, "g 3"]:
  """Collapses edges of a mesh until about `count` triangles are left.

  Args:
    vertices: Vertices; those that stay do not move.
    faces: Triangles.
    count: Triangles wanted.
    lock_border: Keep open edges as they are.

  Returns:
    Triangles among the same vertices.

  Raises:
    ModuleNotFoundError: Without meshoptimizer (the extra `build`).
  """
  import meshoptimizer  # a build-time package

  indices = np.ascontiguousarray(faces, np.uint32).reshape(-1)
  out = np.empty_like(indices)
  n = meshoptimizer.simplify(
    out,
    indices,
    np.ascontiguousarray(vertices, np.float32),
    target_index_count=3 * max(count, 4),
    target_error=1e9,
    options=meshoptimizer.SIMPLIFY_LOCK_BORDER if lock_border else 0,
  )
  return out[:n].reshape(-1, 3).astype(np.int32)


def closest_on_surface(
  points: Float[np.ndarray, "p 3"],
  vertices: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
) -> tuple[Int[np.ndarray, "p 3"], Float[np.ndarray, "p 3"]]:
  """The closest point of a triangle mesh, as corners and barycentric weights.

  Args:
    points: Points, metres.
    vertices: The mesh's vertices, metres.
    faces: The mesh's triangles.

  Returns:
    Per point the three vertices of the closest triangle and their weights, at
    least 0 with sum 1.
  """
  corners = vertices[faces].astype(np.float64)
  found = np.zeros(len(points), np.int64)
  weights = np.zeros((len(points), 3))
  for start in range(0, len(points), 64):
    chunk = points[start : start + 64].astype(np.float64)
    shares = _closest_barycentric(chunk[:, None], corners[None])
    distance = ((shares[..., None] * corners).sum(2) - chunk[:, None]) ** 2
    best = distance.sum(-1).argmin(1)
    found[start : start + 64] = best
    weights[start : start + 64] = shares[np.arange(len(chunk)), best]
  return faces[found].astype(np.int32), weights.astype(np.float32)


def _closest_barycentric(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Weights of the closest point of each triangle (1, f, 3, 3) to points (p, 1, 3)."""
  a, b, c = np.moveaxis(triangles, -2, 0)
  inside = _plane_barycentric(points, a, b, c)
  candidates, distances = [], []
  for first, second in ((0, 1), (1, 2), (2, 0)):
    start, end = triangles[..., first, :], triangles[..., second, :]
    along = ((points - start) * (end - start)).sum(-1)
    along = np.clip(along / ((end - start) ** 2).sum(-1).clip(1e-30), 0.0, 1.0)
    share = np.zeros((*along.shape, 3))
    share[..., first], share[..., second] = 1.0 - along, along
    foot = start + along[..., None] * (end - start)
    candidates.append(share)
    distances.append(((points - foot) ** 2).sum(-1))
  nearest = np.argmin(distances, axis=0)[None, ..., None]
  edge = np.take_along_axis(np.stack(candidates), nearest, axis=0)[0]
  return np.where((inside >= 0).all(-1, keepdims=True), inside, edge)


def _plane_barycentric(points, a, b, c) -> np.ndarray:
  """Barycentric coordinates of the points' feet on the triangles' planes."""
  u, v, w = b - a, c - a, points - a
  uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
  wu, wv = (w * u).sum(-1), (w * v).sum(-1)
  area = uu * vv - uv * uv
  flat = area <= 1e-12 * uu * vv  # a sliver has no inside: its edges decide
  area = np.where(flat, 1.0, area)
  second = np.where(flat, -1.0, (vv * wu - uv * wv) / area)
  third = np.where(flat, -1.0, (uu * wv - uv * wu) / area)
  return np.stack([1.0 - second - third, second, third], axis=-1)


def _check_level(levels: MeshLevels, level: int, where: str) -> None:
  if not 0 <= level < len(levels.counts):
    raise ValueError(
      f"{where}: expected a level in 0..{len(levels.counts) - 1}, got {level}"
    )
