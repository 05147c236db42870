"""What one batch holds: augmented examples, stacked."""

from typing import Any

import flax.struct
from jaxtyping import Bool, Float, Float16, Int, UInt8

# NumPy arrays on the host become JAX arrays on the device.
ArrayLike = Any


@flax.struct.dataclass
class Batch:
  """Augmented examples, stacked; pixel work that devices do faster is left to them.

  `joints_2d` are in the crop's [-1, 1], x right and y down. `color_gain` multiplies
  the uint8 channels before clipping to [0, 255]. `valid` is False for the padding
  that fills up a last batch. Instead of pictures `image` may hold what a frozen
  backbone makes of them. `index` is the example's row in its split, `dataset` the
  place of its dataset in the mixture.
  """

  image: UInt8[ArrayLike, "*b h w 3"] | Float16[ArrayLike, "*b gh gw c"]
  color_gain: Float[ArrayLike, "*b 3"]
  joints_2d: Float[ArrayLike, "*b j 3"]
  joints_3d_m: Float[ArrayLike, "*b j 4"]
  pose: Float[ArrayLike, "*b p"]
  shape: Float[ArrayLike, "*b 10"]
  gender: Int[ArrayLike, "*b"]
  has_joints_2d: Bool[ArrayLike, "*b"]
  has_joints_3d: Bool[ArrayLike, "*b"]
  has_mesh: Bool[ArrayLike, "*b"]
  valid: Bool[ArrayLike, "*b"]
  index: Int[ArrayLike, "*b"]
  dataset: Int[ArrayLike, "*b"]
