"""Undoing a left-right mirror of a mesh, vertex by vertex.

A mirrored body has its left where its right was. To compare it with the body itself
each vertex must be found on the other side. Where the template's vertices are
symmetric that is an exchange of vertices; where only its surface is, as the embedded
body's, it is a point of the triangle across.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import mesh_levels
from metro_jax.body.body_model import BodyModel

Array = Any  # np.ndarray or jax.Array; the result is of the same kind
TOLERANCE_MM = 1.0  # mean distance of the mirrored template's surface from its vertices
_CELL_M = 0.1
_REACH_M = 0.05
_FLIP = (-1.0, 1.0, 1.0)


class Mirror(NamedTuple):
  """Where each vertex lies across: three vertices and their weights, a row each."""

  corners: Int[Array, "v 3"]
  weights: Float[Array, "v 3"]


def find(body: BodyModel) -> Mirror:
  """Finds each template vertex's place on the mirrored template's surface.

  Args:
    body: With NumPy arrays, its rest pose symmetric about x = 0.

  Raises:
    ValueError: If the template's mean distance from its mirror image is above
      `TOLERANCE_MM`: it has no other side.
  """
  template = np.asarray(body.template, np.float64)
  mirrored = template * _FLIP
  corners, weights = _closest(template, mirrored, np.asarray(body.faces))
  gap = (weights[..., None] * mirrored[corners]).sum(1) - template
  gap_mm = 1000 * float(np.linalg.norm(gap, axis=-1).mean())
  if gap_mm > TOLERANCE_MM:
    raise ValueError(
      f"config.eval.tta_flip: expected a body that is symmetric within {TOLERANCE_MM} "
      f"mm, got {body.name}, {gap_mm:.1f} mm from its mirror image; set it to False"
    )
  return Mirror(corners, weights)


def unmirrored(mirror: Mirror, vertices: Float[Array, "*b v 3"]) -> Array:
  """Meshes of mirrored pictures, mirrored back.

  Args:
    mirror: Of the body.
    vertices: As predicted from mirrored pictures; x right.

  Returns:
    The same vertices as the unmirrored picture's.
  """
  flip = np.array(_FLIP, vertices.dtype)
  across = vertices[..., mirror.corners, :] * flip
  return (across * mirror.weights[..., None]).sum(-2)


def _closest(
  points: np.ndarray, vertices: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """`mesh_levels.closest_on_surface`, cell by cell: each looks at the faces near it."""
  corners = np.zeros((len(points), 3), np.int32)
  weights = np.zeros((len(points), 3), np.float32)
  low, high = vertices[faces].min(1), vertices[faces].max(1)
  cells, member = np.unique(np.floor(points / _CELL_M), axis=0, return_inverse=True)
  for cell in range(len(cells)):
    rows = np.flatnonzero(member.ravel() == cell)
    first, last = points[rows].min(0) - _REACH_M, points[rows].max(0) + _REACH_M
    near = ((low <= last) & (high >= first)).all(1)
    some = faces[near] if near.any() else faces
    corners[rows], weights[rows] = mesh_levels.closest_on_surface(
      points[rows], vertices, some
    )
  return corners, weights
