"""What MANO adds to a body: fingertips, the order of 21 joints, the other hand.

The hand's labels come from the posed joints and the fingertips' vertices; the joints
of a predicted mesh come from a regressor that, in the original code, takes another
vertex for the tip of the middle finger.

Source: original code, metro/modeling/_mano.py.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from metro_jax.body import joints
from metro_jax.body.body_model import BodyModel, PosedBody, read_only

Array = Any  # np.ndarray or jax.Array; the result is of the same kind

SIDES = ("right", "left")  # MANO is of the first; the other is seen in a mirror
TIPS = ("Thumb_4", "Index_4", "Middle_4", "Ring_4", "Pinky_4")
TIP_VERTICES = (745, 317, 444, 556, 673)
REGRESSED_TIP_VERTICES = (745, 317, 445, 556, 673)
_ORDER = joints.index((*joints.MANO16, *TIPS), joints.HAND21)
_MIRROR = np.array([-1.0, 1.0, 1.0])  # of a point, through the plane x = 0
_MIRROR_TURN = np.array([1.0, -1.0, -1.0])  # of an axis-angle


def joints21(posed: PosedBody) -> Float[Array, "b 21 3"]:
  """The labelled joints of posed hands: 16 joints of the tree and five fingertips.

  Args:
    posed: MANO's vertices and joints.

  Returns:
    In the order of `joints.HAND21`, in the frame and unit of `posed`.
  """
  xp = posed.vertices.__array_namespace__()
  tips = posed.vertices[:, np.array(TIP_VERTICES)]
  return xp.concatenate([posed.joints, tips], axis=1)[:, _ORDER]


def regressor(joint_regressor: Float[np.ndarray, "16 v"]) -> Float[np.ndarray, "21 v"]:
  """The 21 joints of a predicted mesh as weighted sums of its vertices.

  Source: as above; the tip of the middle finger is vertex 445 here and 444 there.
  """
  tips = np.zeros((len(TIPS), joint_regressor.shape[1]), joint_regressor.dtype)
  tips[np.arange(len(TIPS)), REGRESSED_TIP_VERTICES] = 1
  return np.concatenate([joint_regressor, tips])[_ORDER]


def mirrored(body: BodyModel) -> BodyModel:
  """The other hand: the same vertices and joints, reflected through x = 0.

  With S = diag(-1, 1, 1), points become S p and rotations S R S, so that a mirrored
  pose (axis-angles (x, -y, -z)) of the mirrored hand is the mirrored posed hand.

  Args:
    body: A hand with NumPy arrays.

  Returns:
    A hand of the other side; triangles stay counter-clockwise from outside.
  """
  dtype = body.template.dtype.type
  flip = _MIRROR.astype(dtype)
  directions = body.pose_directions
  if directions is not None:
    signs = np.tile((flip[:, None] * flip).ravel(), directions.shape[-1] // 9)
    directions = read_only(directions * flip[:, None] * signs, dtype)
  mean = body.pose_mean
  if mean is not None:
    turns = np.tile(_MIRROR_TURN.astype(dtype), len(mean) // 3)
    mean = read_only(mean * turns, dtype)
  left = body.name.replace("right", "left")
  return dataclasses.replace(
    body,
    template=read_only(body.template * flip, dtype),
    shape_directions=read_only(body.shape_directions * flip[:, None], dtype),
    pose_directions=directions,
    pose_mean=mean,
    faces=read_only(body.faces[:, ::-1], np.int32),
    name=left if left != body.name else body.name.replace("left", "right"),
  )
