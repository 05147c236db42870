"""The weak-perspective camera, its crop coordinates, and what it means in metres.

A camera (s, tx, ty) sends a point to x2d = s (X_xy + (tx, ty)), in crop coordinates:
[-1, 1] over the square crop, x right, y down. The pixel of index i covers [i, i + 1).
"""

from typing import Any

import numpy as np
from jaxtyping import Float

Array = Any  # np.ndarray or jax.Array; the result is of the same kind
Y_UP = np.array([1.0, -1.0, -1.0], np.float32)


def to_y_up(points_m: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
  """Turns camera-frame points by 180 degrees about x; its own inverse."""
  return points_m * Y_UP


def weak_perspective(
  points: Float[Array, "*b n 3"], camera: Float[Array, "*b 3"]
) -> Float[Array, "*b n 2"]:
  """Projects points into the crop.

  x2d = s (X_xy + (tx, ty))

  Args:
    points: Camera frame, metres.
    camera: s, tx, ty.

  Returns:
    Crop coordinates in [-1, 1] where the crop sees the point.

  Source: METRO section 3.3; original code, metro/utils/geometric_layers.py.
  """
  camera = camera[..., None, :]
  return camera[..., :1] * (points[..., :2] + camera[..., 1:])


def crop_to_pixels(
  points_crop: Float[Array, "*b n 2"],
  center_px: Float[Array, "*c 2"],
  box_px: Float[Array, "*c"],
) -> Float[Array, "*b n 2"]:
  """Pixels of the whole picture for crop coordinates of an upright square box.

  Args:
    points_crop: In [-1, 1] over the box.
    center_px: Middle of the box, x and y.
    box_px: Side of the box.

  Returns:
    Pixels, x right and y down, continuous.
  """
  half = box_px[..., None, None] / 2
  return points_crop * half + center_px[..., None, :]


def perspective_translation(
  camera: Float[Array, "*b 3"],
  center_px: Float[Array, "*b 2"],
  box_px: Float[Array, "*b"],
  image_size_px: tuple[int, int],
  focal_px: float,
) -> Float[Array, "*b 3"]:
  """Where the body stands before a pinhole camera that sees the whole picture.

  The depth makes the pinhole's scale at the body's origin the camera's: a metre
  covers s box / 2 pixels, so z = focal / (s box / 2). The sideways shift adds the
  box's place in the picture: x = tx + (center_x - width / 2) z / focal.

  Args:
    camera: s, tx, ty of the box.
    center_px: Middle of the box in the picture.
    box_px: Side of the box.
    image_size_px: Width and height of the picture; its middle is the principal
      point.
    focal_px: Focal length.

  Returns:
    Metres to add to the body's camera-frame points.
  """
  xp = camera.__array_namespace__()
  depth = 2 * focal_px / (camera[..., 0] * box_px)
  middle = xp.asarray(image_size_px, dtype=camera.dtype) / 2
  aside = (center_px - middle) * (depth / focal_px)[..., None]
  return xp.concatenate([camera[..., 1:] + aside, depth[..., None]], axis=-1)
