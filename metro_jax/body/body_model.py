"""The articulated mesh: shape and pose in, vertices and joints out.

One class serves the embedded human, SMPL and MANO: they differ only in data.
"""

from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import joints, rotations

Array = Any  # np.ndarray or jax.Array; the result is of the same kind


class BodyModel(flax.struct.PyTreeNode):
  """A body's data, as a pytree: k joints, v vertices, f faces, s shape components.

  The rest frame is SMPL's: y up, x to the body's left, z out of the chest; metres.
  Arrays may have leading axes, as where a copy for every device is stacked.

  Attributes:
    template: Vertices of the mean shape in the rest pose.
    shape_directions: Vertex displacement for one unit of each shape component.
    pose_directions: Displacement for each entry of R_j - I of the joints but the
      root, row-major; None where the body has none.
    joint_regressor: Rest joints from rest vertices.
    skin_weights: Share of each joint's motion in each vertex; rows sum to 1.
    regressors: Further joint sets from posed vertices: "h36m" (17) and "j24" (24)
      of a body, "hand21" of a hand.
    faces: Vertex indices, counter-clockwise seen from outside.
    parents: Parent of each joint, before its children; -1 for the root.
    name: What the body is called in messages and files.
    pose_mean: Added to every pose, axis-angle; None where poses are whole.
  """

  template: Float[Array, "*d v 3"]
  shape_directions: Float[Array, "*d v 3 s"]
  pose_directions: Float[Array, "*d v 3 p"] | None
  joint_regressor: Float[Array, "*d k v"]
  skin_weights: Float[Array, "*d v k"]
  regressors: dict[str, Float[Array, "*d _ v"]]
  faces: Int[Array, "*d f 3"]
  parents: tuple[int, ...] = flax.struct.field(pytree_node=False)
  name: str = flax.struct.field(pytree_node=False)
  pose_mean: Float[Array, "*d q"] | None = None

  @property
  def is_hand(self) -> bool:
    """Whether it is MANO's kind: 21 joints, the wrist as origin."""
    return "hand21" in self.regressors

  @property
  def joint_names(self) -> tuple[str, ...]:
    """The joints that a network gives of it: J14, or a hand's 21."""
    return joints.HAND21 if self.is_hand else joints.J14

  @property
  def mesh_regressor(self) -> Float[Array, "j v"]:
    """Those joints from its posed vertices."""
    if self.is_hand:
      return self.regressors["hand21"]
    return self.regressors["h36m"][joints.J14_FROM_H36M]

  @property
  def root_regressor(self) -> Float[Array, "1 v"]:
    """The origin of its meshes: the H36M pelvis, or a hand's wrist."""
    if self.is_hand:
      return self.regressors["hand21"][joints.WRIST : joints.WRIST + 1]
    return self.regressors["h36m"][joints.PELVIS : joints.PELVIS + 1]

  @property
  def tree_names(self) -> tuple[str, ...]:
    """The joints of the kinematic tree, in the order of `parents`."""
    return joints.MANO16 if self.is_hand else joints.SMPL24

  @property
  def num_joints(self) -> int:
    """Joints of the kinematic tree, the root included."""
    return len(self.parents)


class PosedBody(flax.struct.PyTreeNode):
  """Posed vertices and kinematic joints, metres, in the root rotation's frame."""

  vertices: Float[Array, "*b v 3"]
  joints: Float[Array, "*b k 3"]


def pose_body(
  body: BodyModel, pose: Float[Array, "b p"], shape: Float[Array, "b s"]
) -> PosedBody:
  """Linear blend skinning of the shaped, pose-corrected template.

  v = Σ_k w_k G_k(pose, J) (T + B_S shape + B_P (R(pose) - I)), with G_k the
  product of the joint transforms from the root to k, relative to the rest pose.

  Args:
    body: The body's data; arrays of the same kind as pose and shape.
    pose: Axis-angle of every joint, radians; the root's first.
    shape: Shape components.

  Returns:
    Vertices and joints, metres.

  Raises:
    ValueError: If pose does not hold three numbers a joint.

  Source: Loper et al., "SMPL: A skinned multi-person linear model", 2015, eq. 2-10.
  """
  xp = pose.__array_namespace__()
  joints = body.num_joints
  if pose.shape[-1] != 3 * joints:
    raise ValueError(
      f"pose of {body.name}: expected {3 * joints} numbers ({joints} joints), "
      f"got {pose.shape[-1]}"
    )
  if body.pose_mean is not None:
    pose = pose + body.pose_mean
  shaped = body.template + xp.einsum("vcs,bs->bvc", body.shape_directions, shape)
  rest_joints = regress_joints(body.joint_regressor, shaped)
  local = rotations.axis_angle_to_matrix(pose.reshape(len(pose), joints, 3))
  if body.pose_directions is not None:
    identity = xp.eye(3, dtype=pose.dtype)
    pose_feature = (local[:, 1:] - identity).reshape(len(pose), -1)
    shaped = shaped + xp.einsum("vcp,bp->bvc", body.pose_directions, pose_feature)
  world, posed_joints = _joint_transforms(local, rest_joints, body.parents)
  shifts = posed_joints - xp.einsum("bkij,bkj->bki", world, rest_joints)
  return PosedBody(_skin(body.skin_weights, world, shifts, shaped), posed_joints)


def _joint_transforms(
  local: Array, rest_joints: Array, parents: tuple[int, ...]
) -> tuple[Array, Array]:
  """World rotation and position of every joint, walking down the tree."""
  xp = local.__array_namespace__()
  world, places = [local[:, 0]], [rest_joints[:, 0]]
  for joint, parent in enumerate(parents[1:], start=1):
    bone = rest_joints[:, joint] - rest_joints[:, parent]
    places.append(places[parent] + xp.einsum("bij,bj->bi", world[parent], bone))
    world.append(world[parent] @ local[:, joint])
  return xp.stack(world, axis=1), xp.stack(places, axis=1)


def _skin(weights: Array, rotation: Array, shifts: Array, vertices: Array) -> Array:
  xp = rotation.__array_namespace__()
  transforms = xp.concatenate([rotation, shifts[..., None]], axis=-1)
  flat = transforms.reshape(*transforms.shape[:2], 12)
  blended = (weights @ flat).reshape(len(rotation), len(weights), 3, 4)
  rotated = xp.einsum("bvij,bvj->bvi", blended[..., :3], vertices)
  return rotated + blended[..., 3]


def regress_joints(
  regressor: Float[Array, "j v"], vertices: Float[Array, "b v 3"]
) -> Float[Array, "b j 3"]:
  """Joints as weighted sums of vertices, exactly, whatever products default to."""
  with jax.default_matmul_precision("highest"):
    return regressor @ vertices


def read_only(values: np.ndarray, dtype: type = np.float32) -> np.ndarray:
  """A read-only copy: the bodies that are loaded are shared by all callers."""
  values = np.array(values, dtype)
  values.setflags(write=False)
  return values
