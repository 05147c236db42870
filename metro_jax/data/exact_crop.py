"""The square of a picture that the network sees, and its pixels without rounding.

A crop is one affine map of the picture: a box, enlarged, mirrored and turned about its
middle, becomes the square [-1, 1]². With u the box's own coordinates,

  x2d = R(rotation) F(flip) u / scale.

`released_crop` does the same with the original's rounding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from metro_jax.data import jpegs


class Crop(NamedTuple):
  """A square of a picture, as it stands in the network's input.

  Attributes:
    center_px: Middle of the box in the picture, x and y.
    box_px: Side of the box.
    crop_px: Side of the input.
    scale: Of the box; above 1 its content gets smaller.
    rotation_rad: Of the content, from right towards down: clockwise as seen.
    flip: Mirrored left to right, before the turn.
  """

  center_px: Sequence[float] | Float[np.ndarray, "2"]
  box_px: float
  crop_px: int
  scale: float = 1.0
  rotation_rad: float = 0.0
  flip: bool = False

  def plane(self) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns R F: what the picture's plane goes through, but for the scale."""
    mirror = -1.0 if self.flip else 1.0
    cosine, sine = math.cos(self.rotation_rad), math.sin(self.rotation_rad)
    return (cosine * mirror, -sine), (sine * mirror, cosine)

  def affine(self) -> Float[np.ndarray, "2 3"]:
    """Returns the map from picture to crop, both in continuous pixels.

    q = A p + b, A = crop / (scale box) R F, b = crop / 2 - A center.

    Pixel i covers [i, i + 1) in both.
    """
    zoom = self.crop_px / (float(self.box_px) * self.scale)
    x, y = map(float, self.center_px)
    rows = [(zoom * a, zoom * b) for a, b in self.plane()]
    return np.array([(a, b, self.crop_px / 2 - (a * x + b * y)) for a, b in rows])

  def shrink(self) -> float:
    """Returns how many picture pixels a crop pixel has along a side."""
    return float(self.box_px) * self.scale / self.crop_px

  def of_reduced(self, reduction: int) -> "Crop":
    """Returns the same of a picture whose pixels are so many of this one's squared."""
    x, y = map(float, self.center_px)
    center_px = (x / reduction, y / reduction)
    return self._replace(center_px=center_px, box_px=self.box_px / reduction)


def views(
  jpeg: bytes, crops: Sequence[Crop]
) -> list[UInt8[np.ndarray, "crop_px crop_px 3"]]:
  """Makes crops of a JPEG, decoded once: reduced, where all are much smaller.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  finest = min((crop.shrink() for crop in crops), default=1.0)
  reduction = next(n for n in jpegs.REDUCTIONS if n <= max(finest, 1))
  image = jpegs.rgba(jpeg, reduction)
  warped = (warp(image, crop.of_reduced(reduction)) for crop in crops)
  return [cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB) for seen in warped]


def warp(
  image: UInt8[np.ndarray, "h w c"], crop: Crop
) -> UInt8[np.ndarray, "crop_px crop_px c"]:
  """Crops a decoded picture, bilinear, black beyond its border.

  A crop of less than half the resolution reads from a picture shrunk by area, so
  that fine patterns average out instead of aliasing.

  Args:
    image: RGB, or any three or four channels.
    crop: Of its pixels.
  """
  affine, shrink, across, down = crop.affine(), int(crop.shrink()), 1.0, 1.0
  if shrink >= 2:
    height, width = image.shape[:2]
    size = (-(-width // shrink), -(-height // shrink))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    across, down = width / size[0], height / size[1]
  rows = []
  for x, y, offset in affine.tolist():
    x, y = x * across, y * down
    # OpenCV's coordinates are 0 at the centre of the first pixel, ours are 0.5 there.
    rows.append((x, y, offset + (x + y) / 2 - 0.5))
  size = (crop.crop_px, crop.crop_px)
  return cv2.warpAffine(image, np.array(rows), size, flags=cv2.INTER_LINEAR)


def points(points_px: Float[np.ndarray, "n 2"], crop: Crop) -> Float[np.ndarray, "n 2"]:
  """Says where points of the picture are in the crop, from -1 to 1."""
  affine = crop.affine() * (2 / crop.crop_px)
  return points_px @ affine[:, :2].T + (affine[:, 2] - 1)
