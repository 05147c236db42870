"""The released code's crop and 2D labels, with all its rounding.

Its box has whole pixels for corners, its turned crop is cut from a turned window, and
its 2D joints stand on whole pixels of the crop:

  q = trunc(A p + b) + 1

truncated toward zero, so that places left of and above 0 move the other way. Whoever
wants the original's numbers wants these; `exact_crop` is the same without the rounding.

Source: released code, metro/utils/image_ops.py and metro/datasets/human_mesh_tsv.py.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Num, UInt8

from metro_jax.data import jpegs
from metro_jax.data.exact_crop import Crop
from metro_jax.data.readers.fields import BOX_PX_PER_SCALE

LARGEST_WINDOW_PX = 8192  # cut from the picture in float64


def affine(
  center_px: Num[np.ndarray, "2"],
  scale: float,
  crop_px: int,
  rotation_deg: float = 0.0,
) -> Float[np.ndarray, "2 3"]:
  """The map from picture to crop before any rounding.

  A = crop / (200 scale) R(-rotation), with the box's centre going to the crop's.

  Args:
    center_px: Middle of the box in the picture.
    scale: Side of the box over 200 pixels.
    crop_px: Side of the crop.
    rotation_deg: Of the content, counter-clockwise as seen.

  Returns:
    [A | b], float64.
  """
  center_px, side_px = np.asarray(center_px, np.float64), BOX_PX_PER_SCALE * scale
  zoom = np.diag([crop_px / side_px] * 2 + [1.0])
  zoom[:2, 2] = crop_px * (-center_px / side_px + 0.5)
  if rotation_deg == 0:
    return zoom[:2]
  turn, to_middle, back = np.eye(3), np.eye(3), np.eye(3)
  cosine, sine = np.cos(np.deg2rad(-rotation_deg)), np.sin(np.deg2rad(-rotation_deg))
  turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
  to_middle[:2, 2] = -crop_px / 2
  back[:2, 2] = crop_px / 2
  return (back @ (turn @ (to_middle @ zoom)))[:2]


def snap(
  points_px: Num[np.ndarray, "n 2"], affine_map: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "n 2"]:
  """Whole pixels q = trunc(A p + b) + 1 of the crop."""
  x, y = np.asarray(points_px, np.float64).T
  mapped = [row[0] * x + row[1] * y + row[2] for row in affine_map]
  return np.trunc(np.stack(mapped, axis=1)) + 1


def points(points_px: Num[np.ndarray, "n 2"], crop: Crop) -> Float[np.ndarray, "n 2"]:
  """Says where points of the picture are in the crop, on whole pixels of it.

  x2d = F (2 q / crop - 1), from -1 to 1
  """
  center_px, scale, crop_px, rotation_deg, flip = _units(crop)
  whole = snap(points_px, affine(center_px, scale, crop_px, rotation_deg))
  places = 2.0 * whole / crop_px - 1
  return places * [-1.0, 1.0] if flip else places


def views(
  jpeg: bytes, crops: Sequence[Crop]
) -> list[UInt8[np.ndarray, "crop_px crop_px 3"]]:
  """Makes crops of a JPEG, decoded once, in whole grey levels.

  Raises:
    ValueError: If the bytes are not a whole JPEG, or as `warp`.
  """
  image = jpegs.rgb(jpeg)
  return [np.rint(warp(image, crop)).astype(np.uint8) for crop in crops]


def warp(
  image: UInt8[np.ndarray, "h w 3"], crop: Crop
) -> Float[np.ndarray, "crop_px crop_px 3"]:
  """Crops a decoded picture as `cut_out` does."""
  return cut_out(image, *_units(crop))


def _units(crop: Crop) -> tuple[Float[np.ndarray, "2"], float, int, float, bool]:
  """As the original counts: it turns first, then mirrors."""
  degrees = float(np.rad2deg(crop.rotation_rad))
  return (
    np.asarray(crop.center_px),
    crop.scale * (float(crop.box_px) / BOX_PX_PER_SCALE),
    crop.crop_px,
    degrees if crop.flip else -degrees,
    crop.flip,
  )


def cut_out(
  image: UInt8[np.ndarray, "h w 3"],
  center_px: Num[np.ndarray, "2"],
  scale: float,
  crop_px: int,
  rotation_deg: float = 0.0,
  flip: bool = False,
) -> Float[np.ndarray, "crop_px crop_px 3"]:
  """Cuts out the box, turns it, makes it the crop's size, mirrors it.

  The window has whole pixels for corners and may be taller than wide. It is turned
  with OpenCV's warpAffine, which in float64 reads from places rounded to 1/32 pixel,
  and resized without averaging, so that fine patterns alias.

  Args:
    image: RGB, or any three channels.
    center_px: Middle of the box.
    scale: Side of the box over 200 pixels.
    crop_px: Side of the crop.
    rotation_deg: Of the content, counter-clockwise as seen.
    flip: Mirrored left to right, after the turn.

  Returns:
    Grey levels 0 to 255, not rounded; black beyond the picture.

  Raises:
    ValueError: If the box is less than a pixel or more than `LARGEST_WINDOW_PX`.
  """
  start, stop = _corners(center_px, scale, crop_px)
  size = stop - start
  pad = 0
  if rotation_deg != 0:
    pad = int(np.linalg.norm(size) / 2 - size[1] / 2)
  window = _cut(image, start - pad, stop + pad)
  if rotation_deg != 0:
    window = _turn(window, rotation_deg)
    window = window[pad : len(window) - pad, pad : window.shape[1] - pad]
  resized = cv2.resize(window, (crop_px, crop_px), interpolation=cv2.INTER_LINEAR)
  return resized[:, ::-1] if flip else resized


def _corners(
  center_px: np.ndarray, scale: float, crop_px: int
) -> tuple[np.ndarray, np.ndarray]:
  """The window's first and one past its last pixel, x and y."""
  zoom = affine(center_px, scale, crop_px)
  factor, offset = np.diagonal(zoom), zoom[:, 2]
  # Written as the released code's inverse comes out, since truncation shows the
  # last bit where a corner falls on a whole pixel.
  corners = [(1 / factor) * place + (-offset / factor) for place in (0, crop_px)]
  start, stop = np.trunc(corners)
  size = stop - start
  if not (size.min() >= 1 and size.max() <= LARGEST_WINDOW_PX):
    raise ValueError(
      f"box: expected a side of 1 to {LARGEST_WINDOW_PX} whole pixels, got "
      f"{size[0]:g} x {size[1]:g} for a box of {BOX_PX_PER_SCALE * scale:g}"
    )
  return start.astype(int), stop.astype(int)


def _cut(image: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
  """A window of the picture in float64, black beyond its border."""
  width, height = stop - start
  window = np.zeros((height, width, 3))
  left, top = np.maximum(start, 0)
  right, bottom = np.minimum(stop, image.shape[1::-1])
  if left < right and top < bottom:
    rows = slice(top - start[1], bottom - start[1])
    columns = slice(left - start[0], right - start[0])
    window[rows, columns] = image[top:bottom, left:right]
  return window


def _turn(window: np.ndarray, rotation_deg: float) -> np.ndarray:
  """Turns a picture about its middle, counter-clockwise as seen."""
  height, width = window.shape[:2]
  middle = ((width - 1) / 2, (height - 1) / 2)
  matrix = cv2.getRotationMatrix2D(middle, rotation_deg, 1.0)
  return cv2.warpAffine(window, matrix, (width, height))
