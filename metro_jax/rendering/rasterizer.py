"""A z-buffer in NumPy: which triangle each pixel sees, and simple shading.

No GL library, no display. Points come in pixels with a depth, so any camera can be
used; attributes are interpolated linearly on the screen, which is exact under weak
perspective. Pixel (row, column) covers [column, column + 1) x [row, row + 1), so its
centre is at column + 0.5, row + 0.5, and a triangle covers it when the centre lies
inside the triangle or on its border.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW_BITS = np.uint64(0xFFFFFFFF)


class Samples(NamedTuple):
  """The pixels that see the mesh, as a list; `pixel` is row * width + column."""

  pixel: Int[np.ndarray, " n"]
  face: Int[np.ndarray, " n"]
  barycentric: Float[np.ndarray, "n 3"]  # weights of the face's three corners
  depth: Float[np.ndarray, " n"]


def sample_pixels(
  points_px: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  height: int,
  width: int,
  cull_backfaces: bool = True,
) -> Samples:
  """Finds the nearest triangle at every pixel centre; lists pixels that see one.

  Every face's bounding box is expanded into candidate pixels at once, and one
  `minimum.at` over keys of depth and candidate settles which is seen. Of equally
  deep faces the first in `faces` wins.

  Args:
    points_px: x right and y down in pixels, and depth growing away from the camera.
    faces: Corner indices, counter-clockwise seen from outside of the mesh.
    height: Of the picture, in pixels.
    width: Of the picture, in pixels.
    cull_backfaces: Skip faces seen from inside; right for closed meshes, twice as
      fast.

  Raises:
    ValueError: If the picture has no pixels or a face names a point that is not there.
  """
  _check(points_px, faces, height, width)
  if not len(faces):
    return _no_samples()
  x, y, depth = np.ascontiguousarray(points_px.T, np.float64)
  face, box, planes = _visible_faces(x, y, faces, (height, width), cull_backfaces)
  owner, right, down = _expand(box)
  planes = planes[owner]
  a = planes[:, 0] * right + planes[:, 1] * down + planes[:, 2]
  b = planes[:, 3] * right + planes[:, 4] * down + planes[:, 5]
  c = 1.0 - a - b
  inside = np.flatnonzero((a >= 0) & (b >= 0) & (c >= 0))
  if not len(inside):
    return _no_samples()
  owner = owner[inside]
  weights = np.stack([a[inside], b[inside], c[inside]], axis=1)
  depth = np.einsum("nk,nk->n", weights, depth[faces[face]][owner])
  left, top = box[0][owner], box[1][owner]
  pixel = (top + down[inside]) * width + left + right[inside]
  seen, winner = _nearest(pixel, depth, height * width)
  return Samples(
    seen,
    face[owner[winner]],
    weights[winner].astype(np.float32),
    depth[winner].astype(np.float32),
  )


def _no_samples() -> Samples:
  none = np.zeros(0, np.int64)
  return Samples(none, none, np.zeros((0, 3), np.float32), np.zeros(0, np.float32))


def _check(points_px, faces, height, width) -> None:
  if height < 1 or width < 1:
    raise ValueError(f"rasterize: expected a picture with pixels, got {height}x{width}")
  if len(faces) and (faces.min() < 0 or faces.max() >= len(points_px)):
    raise ValueError(
      f"rasterize: expected faces over {len(points_px)} points, got indices "
      f"{faces.min()}..{faces.max()}"
    )


def _visible_faces(x, y, faces, shape, cull_backfaces):
  """Faces that may cover a pixel centre, their boxes of pixels, and their planes.

  The planes give the first two barycentrics from whole steps right and down from the
  centre of the box's first pixel.
  """
  corner = np.ascontiguousarray(faces.T)
  (x0, x1, x2), (y0, y1, y2) = x[corner], y[corner]
  # With y down, a face seen from outside turns the other way round: area < 0.
  area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
  left, columns = _pixel_range(x0, x1, x2, shape[1])
  top, rows = _pixel_range(y0, y1, y2, shape[0])
  visible = area < 0 if cull_backfaces else area != 0
  face = np.flatnonzero(visible & (columns > 0) & (rows > 0))
  left, top = left[face], top[face]
  x0, y0, x1, y1, x2, y2, area = (v[face] for v in (x0, y0, x1, y1, x2, y2, area))
  x, y = left + 0.5, top + 0.5
  planes = np.empty((len(face), 6))
  planes[:, 0] = y1 - y2
  planes[:, 1] = x2 - x1
  planes[:, 2] = (x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)
  planes[:, 3] = y2 - y0
  planes[:, 4] = x0 - x2
  planes[:, 5] = (x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)
  planes /= area[:, None]
  box = (left, top, columns[face], rows[face])
  return face, tuple(b.astype(np.int32) for b in box), planes


def _pixel_range(a, b, c, size):
  """First pixel whose centre is not before a, b and c, and how many follow."""
  low = np.ceil(np.minimum(np.minimum(a, b), c) - 0.5).clip(0, None)
  high = np.floor(np.maximum(np.maximum(a, b), c) - 0.5).clip(None, size - 1)
  return low, high - low + 1


def _expand(box):
  """Every pixel of every box: whose it is, and its steps right and down."""
  _, _, columns, rows = box
  count = columns * rows
  start = (np.cumsum(count) - count).astype(np.int32)
  owner = np.repeat(np.arange(len(count), dtype=np.int32), count)
  step = np.arange(len(owner), dtype=np.int32) - start[owner]
  width = columns[owner]
  down = step // width
  return owner, step - down * width, down


def _nearest(pixel, depth, num_pixels):
  """Pixels that see something, and the candidate each of them sees."""
  # 32 bits of depth above the candidate's number: the minimum is the nearest.
  nearest = depth.min()
  span = max(depth.max() - nearest, 1e-30)
  key = ((depth - nearest) * (4294967295.0 / span)).astype(np.uint64) << np.uint64(32)
  key |= np.arange(len(pixel), dtype=np.uint64)
  buffer = np.full(num_pixels, _EMPTY)
  np.minimum.at(buffer, pixel, key)
  seen = np.flatnonzero(buffer != _EMPTY)
  return seen, (buffer[seen] & _LOW_BITS).astype(np.int64)


def interpolate(
  samples: Samples,
  faces: Int[np.ndarray, "f 3"],
  attributes: Float[np.ndarray, "v c"],
) -> Float[np.ndarray, "n c"]:
  """Blends what is given at the vertices into every sample."""
  corner = faces[samples.face]
  weight = samples.barycentric
  result = attributes[corner[:, 0]] * weight[:, :1]
  result += attributes[corner[:, 1]] * weight[:, 1:2]
  result += attributes[corner[:, 2]] * weight[:, 2:]
  return result


def vertex_normals(
  vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, "v 3"]:
  """Unit normals, each the mean of its faces' weighted by area; outward."""
  corner = np.ascontiguousarray(faces.T)
  x, y, z = np.ascontiguousarray(vertices.T)[:, corner]
  ax, ay, az = x[1] - x[0], y[1] - y[0], z[1] - z[0]
  bx, by, bz = x[2] - x[0], y[2] - y[0], z[2] - z[0]
  cross = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
  index, count = corner.reshape(-1), len(vertices)
  sums = [np.bincount(index, np.tile(n, 3), minlength=count) for n in cross]
  normals = np.stack(sums, axis=1)
  length = np.sqrt(np.einsum("vc,vc->v", normals, normals))
  return (normals / np.maximum(length, 1e-12)[:, None]).astype(np.float32)


def lambert(
  normals: Float[np.ndarray, "n 3"],
  light: Float[np.ndarray, "3"],
  ambient: float = 0.35,
) -> Float[np.ndarray, "n 1"]:
  """How bright a surface is: ambient + (1 - ambient) max(0, n . light).

  Args:
    normals: Of any length, camera frame.
    light: Unit vector towards the light, camera frame; (0, 0, -1) is the camera.
    ambient: Share of the light that comes from everywhere.

  Returns:
    Factors for the colours, one a normal.
  """
  length = np.sqrt(np.einsum("nc,nc->n", normals, normals))
  facing = (normals @ light) / np.maximum(length, 1e-12)
  return (ambient + (1.0 - ambient) * facing.clip(0, None))[:, None].astype(np.float32)


def resolve(
  samples: Samples,
  colors: Float[np.ndarray, "n 3"],
  height: int,
  width: int,
  supersample: int,
) -> Float[np.ndarray, "rows columns 4"]:
  """Averages supersamples into pixels: premultiplied colour and coverage.

  Args:
    samples: Drawn at height x width.
    colors: One a sample.
    height: Of the supersampled picture; a multiple of `supersample`, like width.
    width: Of the supersampled picture.
    supersample: Samples along each side of a pixel.

  Returns:
    height / supersample x width / supersample pixels, colours times coverage, coverage.
  """
  canvas = np.zeros((height * width, 4), np.float32)
  canvas[samples.pixel, :3] = colors
  canvas[samples.pixel, 3] = 1.0
  picture = canvas.reshape(height, width, 4)
  if supersample == 1:
    return picture
  size = (width // supersample, height // supersample)
  return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
