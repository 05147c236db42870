"""Pictures of a mesh: over the photograph, from the side, in a sheet.

Everything takes plain NumPy arrays in the camera frame (x right, y down, z away from
the camera, metres) and returns RGB uint8 pictures.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from metro_jax.body import camera as cameras
from metro_jax.rendering import rasterizer

JPEG_QUALITY = 92
SKIN_RGB = (0.66, 0.77, 0.92)
PAPER_RGB = (247, 247, 249)
INK_RGB = (52, 56, 64)
# A mesh is drawn at twice the picture's resolution where it is smaller than this, and
# at the picture's own where it is large; in bands of rows, so that memory stays small.
SUPERSAMPLE = 2
LARGEST_RASTER_PX = 1400
BAND_PX = 200_000  # of a band, in pixels drawn
# Directions towards the lights, and their strengths: a key light over the viewer's
# left shoulder, a fill from the right, and the sky.
LIGHTS = (
  ((-0.45, -0.65, -0.62), 0.68),
  ((0.75, -0.15, -0.65), 0.24),
  ((0.0, -1.0, 0.0), 0.12),
)
AMBIENT = 0.27


class Box(NamedTuple):
  """An upright square of a picture, in continuous pixels; it may reach outside."""

  center_x: float
  center_y: float
  side: float


def whole_picture(height: int, width: int) -> Box:
  """Returns the centred square that holds the whole picture."""
  return Box(width / 2, height / 2, float(max(height, width)))


def to_pixels(
  points_m: Float[np.ndarray, "n 3"], camera: Float[np.ndarray, "3"], box: Box
) -> Float[np.ndarray, "n 2"]:
  """Projects points into the picture whose square `box` the network saw.

  pixel = center + s * (X_xy + (tx, ty)) * side / 2

  Args:
    points_m: Camera frame, metres.
    camera: s, tx, ty of the weak perspective in the box's [-1, 1].
    box: The square, in pixels of the picture.

  Returns:
    x, y in pixels of the picture.
  """
  in_box = cameras.weak_perspective(points_m, camera)
  center_px = np.array([box.center_x, box.center_y])
  return cameras.crop_to_pixels(in_box, center_px, np.array(box.side))


def overlay(
  image: UInt8[np.ndarray, "h w 3"],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  camera: Float[np.ndarray, "3"],
  box: Box | None = None,
  opacity: float = 0.88,
) -> UInt8[np.ndarray, "h w 3"]:
  """Draws a smoothly shaded, slightly translucent mesh over the photograph.

  Args:
    image: RGB.
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, three a face.
    camera: s, tx, ty in the box's [-1, 1].
    box: The square that the network saw; by default `whole_picture`.
    opacity: 1 hides the photograph behind the mesh.

  Returns:
    A new picture of the same size.

  Raises:
    ValueError: If a vertex or the camera is not finite.
  """
  height, width = image.shape[:2]
  box = box or whole_picture(height, width)
  points_px = np.column_stack([to_pixels(vertices_m, camera, box), vertices_m[:, 2]])
  _require_finite("overlay", points_px)
  return _blend(image, points_px, vertices_m, faces, opacity)


def side_view(
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  size_px: int = 224,
  degrees: float = 90.0,
) -> UInt8[np.ndarray, "s s 3"]:
  """Draws the mesh turned about the vertical, fitted to a clean square.

  Args:
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, three a face.
    size_px: Side of the picture.
    degrees: Turn; at 90 the viewer stands at the person's side, where the picture's
      right is, and what was near the camera is on the left.

  Returns:
    RGB.

  Raises:
    ValueError: If a vertex is not finite.
  """
  _require_finite("side_view", vertices_m)
  return _alone(turn_about_vertical(vertices_m, degrees), faces, size_px)


def top_view(
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  size_px: int = 224,
) -> UInt8[np.ndarray, "s s 3"]:
  """Draws the mesh from above, fitted to a clean square.

  Args:
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, three a face.
    size_px: Side of the picture; right is the photograph's, and what was near the
      camera is at the bottom.

  Returns:
    RGB.

  Raises:
    ValueError: If a vertex is not finite.
  """
  _require_finite("top_view", vertices_m)
  x, y, z = vertices_m.T
  return _alone(np.column_stack([x, -z, y]), faces, size_px)


def turn_about_vertical(
  points_m: Float[np.ndarray, "n 3"], degrees: float
) -> Float[np.ndarray, "n 3"]:
  """Turns points about their middle's vertical; at 90, (x, y, z) -> (z, y, -x)."""
  middle = (points_m.min(axis=0) + points_m.max(axis=0)) / 2
  cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  rotation = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
  return ((points_m - middle) @ rotation.T + middle).astype(points_m.dtype)


def contact_sheet(
  images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
  columns: int,
  captions: Sequence[str] | None = None,
  cell_px: int = 256,
) -> UInt8[np.ndarray, "h w 3"]:
  """Lays pictures out in a grid, each fitted into a square, captions below.

  Args:
    images: RGB, of any sizes.
    columns: Pictures a row; fewer pictures make a narrower sheet.
    captions: One a picture; letters outside ASCII become "?".
    cell_px: Side of a picture's square.

  Returns:
    RGB.

  Raises:
    ValueError: If there is no picture, no column, or another count of captions.
  """
  if not images or columns < 1:
    raise ValueError(
      "contact_sheet: expected at least one image and one column, "
      f"got {len(images)} and {columns}"
    )
  if captions is not None and len(captions) != len(images):
    raise ValueError(
      f"contact_sheet: expected {len(images)} captions, got {len(captions)}"
    )
  columns = min(columns, len(images))
  rows = -(-len(images) // columns)
  gap = max(4, cell_px // 32)
  step_x, step_y = cell_px + gap, cell_px + gap + (22 if captions else 0)
  sheet = np.empty((rows * step_y + gap, columns * step_x + gap, 3), np.uint8)
  sheet[:] = PAPER_RGB
  for i, image in enumerate(images):
    top, left = gap + i // columns * step_y, gap + i % columns * step_x
    sheet[top : top + cell_px, left : left + cell_px] = _fit(image, cell_px)
    if captions:
      _write(sheet, captions[i], left, top + cell_px + 15, cell_px)
  return sheet


def fitted(
  image: UInt8[np.ndarray, "h w 3"], most_px: int
) -> UInt8[np.ndarray, "_ _ 3"]:
  """Returns a picture whose longer side is at most so many pixels."""
  return _resized(image, min(1.0, most_px / max(image.shape[:2])))


def write_jpeg(path: pathlib.Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
  """Writes an RGB picture.

  Raises:
    ValueError: If the format cannot hold it.
  """
  quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
  done, data = cv2.imencode(".jpg", image[..., ::-1], quality)
  if not done:
    raise ValueError(f"could not encode a JPEG of {image.shape[1]} x {image.shape[0]}")
  path.write_bytes(data.tobytes())


def _require_finite(place: str, values: np.ndarray) -> None:
  if not np.isfinite(values).all():
    raise ValueError(f"{place}: expected finite vertices and camera, got NaN or inf")


def _alone(seen_m, faces, size_px):
  """Draws a mesh as it is seen along z, fitted to a clean square."""
  low, high = seen_m.min(axis=0), seen_m.max(axis=0)
  extent = max((high - low)[:2].max(), 1e-6)
  scale = 0.88 * size_px / extent
  xy = (seen_m[:, :2] - (low + high)[:2] / 2) * scale + size_px / 2
  points_px = np.column_stack([xy, seen_m[:, 2]])
  return _blend(_clean_background(size_px), points_px, seen_m, faces, 1.0)


def _blend(image, points_px, vertices_m, faces, opacity):
  """Draws the mesh over the image; only the mesh's own rectangle is worked on."""
  height, width = image.shape[:2]
  low = np.floor(points_px[:, :2].min(axis=0)).astype(int) - 1
  high = np.ceil(points_px[:, :2].max(axis=0)).astype(int) + 1
  left, top = np.maximum(low, 0)
  right, bottom = np.minimum(high, (width, height))
  canvas = image.copy()
  if left >= right or top >= bottom:
    return canvas
  size = (int(right - left), int(bottom - top))
  layer = _draw_layer(points_px - (left, top, 0), vertices_m, faces, size)
  alpha = layer[..., 3:] * opacity
  region = canvas[top:bottom, left:right]
  mixed = region * (1 - alpha) + 255 * opacity * layer[..., :3]
  canvas[top:bottom, left:right] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
  return canvas


def _draw_layer(points_px, vertices_m, faces, size):
  """Returns premultiplied RGBA (h, w, 4) in [0, 1] of the given (width, height)."""
  scale = max(1.0, min(SUPERSAMPLE, LARGEST_RASTER_PX / max(size)))
  width, height = (max(1, round(side * scale)) for side in size)
  points_px = points_px * (width / size[0], height / size[1], 1.0)
  normals = rasterizer.vertex_normals(vertices_m, faces)
  layer = np.zeros((height, width, 4), np.float32)
  rows = max(1, BAND_PX // width)
  for top in range(0, height, rows):
    band = layer[top : top + rows].reshape(-1, 4)
    # A predicted mesh may have folded faces; without them there would be holes.
    samples = rasterizer.sample_pixels(
      points_px - (0, top, 0), faces, len(band) // width, width, cull_backfaces=False
    )
    band[samples.pixel, :3] = _shade(rasterizer.interpolate(samples, faces, normals))
    band[samples.pixel, 3] = 1.0
  return cv2.resize(layer, size, None, 0, 0, cv2.INTER_AREA) if scale > 1 else layer


def _resampling(shrinks: bool) -> int:
  return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR


def _shade(normals):
  """Returns the colour of surfaces seen along +z, whichever way they were wound."""
  normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
  normals = np.where(normals[:, 2:] > 0, -normals, normals)
  light = np.full(len(normals), AMBIENT)
  for direction, strength in LIGHTS:
    unit = np.array(direction) / np.linalg.norm(direction)
    light += strength * np.maximum(normals @ unit, 0.0)
  key = np.array(LIGHTS[0][0]) / np.linalg.norm(LIGHTS[0][0])
  half = key + np.array([0.0, 0.0, -1.0])
  half /= np.linalg.norm(half)
  gloss = 0.12 * np.maximum(normals @ half, 0.0) ** 24
  color = light[:, None] * np.array(SKIN_RGB) + gloss[:, None]
  return np.clip(color, 0.0, 1.0)


def _clean_background(size_px: int) -> np.ndarray:
  """Returns a square that darkens a little towards the ground."""
  shade = np.linspace(1.0, 0.93, size_px)[:, None, None]
  square = np.broadcast_to(shade * np.array(PAPER_RGB), (size_px, size_px, 3))
  return np.rint(square).astype(np.uint8)


def _fit(image: np.ndarray, cell_px: int) -> np.ndarray:
  """Returns the image scaled into a square, centred on paper."""
  small = _resized(image, cell_px / max(image.shape[:2]))
  height, width = small.shape[:2]
  cell = np.empty((cell_px, cell_px, 3), np.uint8)
  cell[:] = PAPER_RGB
  top, left = (cell_px - height) // 2, (cell_px - width) // 2
  cell[top : top + height, left : left + width] = small
  return cell


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
  """Returns the image scaled; of a long strip at least one pixel is left."""
  height, width = (max(1, round(side * scale)) for side in image.shape[:2])
  return cv2.resize(image, (width, height), None, 0, 0, _resampling(scale < 1))


def _write(sheet: np.ndarray, text: str, left: int, baseline: int, width: int) -> None:
  """Writes one line in place, shortened in the middle until it fits."""
  text = text.encode("ascii", "replace").decode()
  font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
  while cv2.getTextSize(text, font, scale, 1)[0][0] > width and len(text) > 8:
    middle = len(text) // 2
    text = text[: middle - 3] + "..." + text[middle + 2 :]
  cv2.putText(sheet, text, (left, baseline), font, scale, INK_RGB, 1, cv2.LINE_AA)
