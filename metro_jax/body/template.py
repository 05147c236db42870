"""The template whose joints and coarse vertices become the network's queries."""

from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Float

from metro_jax.body import body_model, hand, joints, mesh_levels
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels

Array = Any
# The original code's number, not pi; it turns the rest pose's y up into y down.
ROOT_ROTATION_RAD = 3.1416


class Template(flax.struct.PyTreeNode):
  """Query coordinates: camera frame, metres, the pelvis or wrist at the origin."""

  joints: Float[Array, "*d j 3"]
  vertices: Float[Array, "*d v 3"]


def make_template(body: BodyModel, levels: MeshLevels) -> Template:
  """The mean body at rest, facing the camera, minus its H36M pelvis.

  A hand, which has the regressor "hand21", is not turned, and its wrist is the origin.

  Args:
    body: A body or hand with NumPy arrays.
    levels: Its mesh levels; the coarsest gives the vertices.

  Returns:
    The 14 joints of a body or 21 of a hand, and the coarsest level's vertices.

  Source: METRO section 3.2; original code, metro/modeling/bert/modeling_metro.py.
  """
  dtype = body.template.dtype
  pose = np.zeros((1, 3 * body.num_joints), dtype)
  pose[0, 0] = 0 if body.is_hand else ROOT_ROTATION_RAD
  shape = np.zeros((1, body.shape_directions.shape[-1]), dtype)
  posed = body_model.pose_body(body, pose, shape)
  if body.is_hand:
    points = hand.joints21(posed)[0]
    origin = points[joints.WRIST]
  else:
    h36m = body_model.regress_joints(body.regressors["h36m"], posed.vertices)[0]
    points, origin = h36m[joints.J14_FROM_H36M], h36m[joints.PELVIS]
  coarse = mesh_levels.downsample(levels, posed.vertices, len(levels.select))[0]
  return Template(points - origin, coarse - origin)
