"""A body as other programs animate it: rest mesh, joints, skin weights and turns.

Parameters come in the camera frame (x right, y down, z away) and leave y up, as mesh
files have it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import rotations
from metro_jax.body.body_model import BodyModel
from metro_jax.body.camera import Y_UP, to_y_up

INFLUENCES = 4  # joints that move a vertex, in files


class Rig(NamedTuple):
  """A body of one shape at rest; metres, y up, the root first.

  Attributes:
    vertices_m: Rest mesh.
    faces: Vertex numbers, counter-clockwise seen from outside.
    joints_m: Where the joints are at rest.
    parents: Parent of each joint; -1 for the root.
    names: Of the joints.
    skin_joints: The joints that move each vertex most.
    skin_weights: Their shares; rows sum to 1.
  """

  vertices_m: Float[np.ndarray, "v 3"]
  faces: Int[np.ndarray, "f 3"]
  joints_m: Float[np.ndarray, "k 3"]
  parents: tuple[int, ...]
  names: tuple[str, ...]
  skin_joints: Int[np.ndarray, "v 4"]
  skin_weights: Float[np.ndarray, "v 4"]


class Motion(NamedTuple):
  """How a rig moves over t frames, y up.

  Attributes:
    turns: Rotation of each joint relative to its parent.
    root_m: Where the root joint is.
  """

  turns: Float[np.ndarray, "t k 3 3"]
  root_m: Float[np.ndarray, "t 3"]


def make_rig(
  body: BodyModel,
  betas: Float[np.ndarray, " s"],
  pose: Float[np.ndarray, " p"] | None = None,
) -> Rig:
  """Makes the rig of a shape.

  Args:
    body: The body; a hand's mean pose belongs to the motion.
    betas: Shape components.
    pose: Axis-angle of every joint; what it adds to the rest mesh of bodies whose
      surface depends on the pose, so that the rig shows this pose exactly.
  """
  vertices = body.template + body.shape_directions @ betas
  joints_m = body.joint_regressor @ vertices
  if pose is not None and body.pose_directions is not None:
    turns = rotations.axis_angle_to_matrix(_whole_pose(body, pose[None])[0])
    vertices = vertices + body.pose_directions @ (turns[1:] - np.eye(3)).ravel()
  strongest = np.argsort(-body.skin_weights, axis=1, kind="stable")[:, :INFLUENCES]
  shares = np.take_along_axis(body.skin_weights, strongest, axis=1)
  return Rig(
    vertices.astype(np.float32),
    body.faces,
    joints_m.astype(np.float32),
    body.parents,
    body.tree_names,
    strongest,
    shares / shares.sum(axis=1, keepdims=True),
  )


def make_motion(
  body: BodyModel,
  rig: Rig,
  pose: Float[np.ndarray, "t p"],
  transl: Float[np.ndarray, "t 3"],
) -> Motion:
  """Turns parameters of the camera frame into a motion of a rig.

  Args:
    body: The rig's.
    rig: Made by `make_rig`.
    pose: Axis-angle of every joint, radians, the root's first; a track's frames.
    transl: smplx's translation, metres.
  """
  turns = rotations.axis_angle_to_matrix(_whole_pose(body, pose))
  turns[:, 0] = Y_UP[:, None] * turns[:, 0]
  return Motion(turns, to_y_up(rig.joints_m[0] + transl))


def _whole_pose(
  body: BodyModel, pose: Float[np.ndarray, "t p"]
) -> Float[np.ndarray, "t k 3"]:
  if pose.shape[-1] != 3 * body.num_joints:
    raise ValueError(
      f"pose of {body.name}: expected {3 * body.num_joints} numbers "
      f"({body.num_joints} joints), got {pose.shape[-1]}"
    )
  if body.pose_mean is not None:
    pose = pose + body.pose_mean
  return pose.reshape(len(pose), body.num_joints, 3)
