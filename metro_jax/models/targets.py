"""Labels in the network's terms: posed meshes of every level, and its joints."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from metro_jax.body import body_model, hand, joints
from metro_jax.data.batch import Batch
from metro_jax.models.setup import Geometry

Array = Any  # np.ndarray or jax.Array
# What 3D joints are compared from, as rows of the network's joints: J14 or HAND21.
ROOTS = {
  "hips": joints.index(joints.J14, ("R_Hip", "L_Hip")),
  "wrist": joints.index(joints.HAND21, ("Wrist",)),
}


class Targets(flax.struct.PyTreeNode):
  """What a batch says the answer is.

  Labels that are missing, whether by an example's flag or by a joint's confidence of
  0, may be any numbers, NaN included.

  Attributes:
    vertices: Per mesh level, coarse to fine, metres, camera frame, at the origin the
      H36M pelvis of the full mesh, or a hand's wrist.
    joints_3d: The J14, or the hand's 21, in metres, any origin, and their confidence.
    joints_2d: The same in crop coordinates [-1, 1] and their confidence.
    has_mesh: Which examples have vertices.
    has_joints_3d: Which have 3D joints.
    has_joints_2d: Which have 2D joints.
  """

  vertices: tuple[Float[Array, "*b _ 3"], ...]
  joints_3d: Float[Array, "*b j 4"]
  joints_2d: Float[Array, "*b j 3"]
  has_mesh: Bool[Array, "*b"]
  has_joints_3d: Bool[Array, "*b"]
  has_joints_2d: Bool[Array, "*b"]


def make_targets(
  batch: Batch, geometry: Geometry, joints_of_mesh: bool = False
) -> Targets:
  """Poses the labelled meshes of a batch and picks the network's joints.

  Args:
    batch: One device's examples.
    geometry: The body's arrays.
    joints_of_mesh: Whether 3D joints are those of the mesh where there is one.

  Returns:
    Meshes of every level with the H36M pelvis of the full mesh, or the hand's wrist,
    at the origin; an example that is not `valid` has no label and no 2D confidence.
  """
  body = geometry.body
  with jax.default_matmul_precision("highest"):
    posed = _posed(batch, geometry)
  vertices, joints_3d, joints_2d = posed.vertices, batch.joints_3d_m, batch.joints_2d
  if body.is_hand:
    of_mesh = hand.joints21(posed)
    root = of_mesh[:, joints.WRIST : joints.WRIST + 1]
  else:
    of_mesh = body_model.regress_joints(body.mesh_regressor, vertices)
    root = body_model.regress_joints(body.root_regressor, vertices)
    joints_3d = joints_3d[:, joints.J14_FROM_J24]
    joints_2d = joints_2d[:, joints.J14_FROM_J24]
  if joints_of_mesh:
    certain = jnp.pad(of_mesh, ((0, 0), (0, 0), (0, 1)), constant_values=1)
    joints_3d = jnp.where(batch.has_mesh[:, None, None], certain, joints_3d)
  vertices = vertices - root
  return Targets(
    vertices=tuple(vertices[:, rows] for rows in geometry.level_rows),
    joints_3d=joints_3d,
    joints_2d=joints_2d * batch.valid[:, None, None],
    has_mesh=batch.has_mesh & batch.valid,
    has_joints_3d=batch.has_joints_3d & batch.valid,
    has_joints_2d=batch.has_joints_2d & batch.valid,
  )


def _posed(batch: Batch, geometry: Geometry) -> body_model.PosedBody:
  """The labelled meshes, each of its own gender where the geometry has them."""
  posed = body_model.pose_body(geometry.body, batch.pose, batch.shape)
  for gender, body in enumerate(geometry.gendered, 1):
    other = body_model.pose_body(body, batch.pose, batch.shape)
    chosen = (batch.gender == gender)[:, None, None]
    posed = jax.tree.map(lambda a, b: jnp.where(chosen, b, a), posed, other)  # noqa: B023
  return posed


def from_root(points: Float[Array, "b j 3"], root: str) -> Float[Array, "b j 3"]:
  """Puts the middle of the root's joints at the origin; `root` is a key of `ROOTS`."""
  return points - points[:, ROOTS[root]].mean(axis=1, keepdims=True)
