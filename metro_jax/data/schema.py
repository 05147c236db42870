"""What one stored example, one augmented example and one batch hold.

Every dataset builder writes `Example`s; labels that a source lacks are zeros and
their flag is False. The pipeline turns them into `Batch`es.
"""

from typing import Any, TypedDict

import flax.struct
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

# NumPy arrays on the host become JAX arrays on the device.
ArrayLike = Any


class Example(TypedDict):
  """One person in one picture, as stored.

  The body is in the camera frame: x right, y down, z away from the camera. Joints
  are the 24 of `body.joints.J24`, in its order.
  """

  key: str  # names the record: "<split>/<number>" or the source's own name
  image: bytes  # JPEG, RGB
  center_px: np.ndarray  # (2,) float32, middle of the person's box; x, y
  box_px: np.float32  # side of the person's square box
  joints_2d_px: np.ndarray  # (24, 3) float32, x, y in image pixels, confidence 0..1
  joints_3d_m: np.ndarray  # (24, 4) float32, metres, confidence 0..1
  pose: np.ndarray  # (72,) float32, axis-angle, radians; the root turns into the camera
  shape: np.ndarray  # (10,) float32, in standard deviations
  camera: np.ndarray  # (3,) float32, s, tx, ty in the box's [-1, 1]; NaN if unknown
  has_joints_2d: np.bool_
  has_joints_3d: np.bool_
  has_mesh: np.bool_  # pose and shape are known


@flax.struct.dataclass
class Batch:
  """Augmented examples, stacked; pixel work that devices do faster is left to them.

  `joints_2d` are in the crop's [-1, 1], x right and y down. `color_gain` multiplies
  the uint8 channels before clipping to [0, 255]. `valid` is False for the padding
  that fills up a last batch. `index` is the example's row in its split.
  """

  image: UInt8[ArrayLike, "*b h w 3"]
  color_gain: Float[ArrayLike, "*b 3"]
  joints_2d: Float[ArrayLike, "*b 24 3"]
  joints_3d_m: Float[ArrayLike, "*b 24 4"]
  pose: Float[ArrayLike, "*b 72"]
  shape: Float[ArrayLike, "*b 10"]
  has_joints_2d: Bool[ArrayLike, "*b"]
  has_joints_3d: Bool[ArrayLike, "*b"]
  has_mesh: Bool[ArrayLike, "*b"]
  valid: Bool[ArrayLike, "*b"]
  index: Int[ArrayLike, "*b"]
