"""Colours of a mesh's vertices from the photograph that it was found in."""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from metro_jax.rendering import rasterizer

LARGEST_RASTER_PX = 700  # longer side of the picture that says what is hidden
HIDDEN_M = 0.015  # behind what is seen
FACING = 0.25  # least cosine to the camera; flatter surfaces show what is behind them


def from_photograph(
  image: UInt8[np.ndarray, "h w 3"],
  points_px: Float[np.ndarray, "v 2"],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
) -> UInt8[np.ndarray, "v 3"]:
  """Takes the photograph's colour where it sees a vertex.

  All others get the mean colour of their neighbours that have one, and so on over the
  mesh; a piece of mesh that is nowhere seen gets the mean of all that is.

  Args:
    image: RGB.
    points_px: Where the vertices are in it.
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, counter-clockwise seen from outside.

  Returns:
    sRGB of each vertex.
  """
  known = visible(points_px, vertices_m, faces, (image.shape[0], image.shape[1]))
  colors = np.zeros((len(points_px), 3))
  colors[known] = _sample(image, points_px[known])
  return np.rint(_spread(colors, known, faces)).astype(np.uint8)


def visible(
  points_px: Float[np.ndarray, "v 2"],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  size_px: tuple[int, int],
) -> Bool[np.ndarray, " v"]:
  """Whether a picture of (height, width) sees each vertex, by the z-buffer."""
  low, high = points_px.min(axis=0), points_px.max(axis=0)
  scale = LARGEST_RASTER_PX / max((high - low).max(), 1e-6)
  placed = (points_px - low) * scale + 1
  width, height = (int(side) + 2 for side in placed.max(axis=0))
  depth = vertices_m[:, 2]
  samples = rasterizer.sample_pixels(
    np.column_stack([placed, depth]), faces, height, width, cull_backfaces=False
  )
  buffer = np.full(height * width, np.inf)
  buffer[samples.pixel] = samples.depth
  column, row = placed.astype(int).T
  in_front = depth <= buffer[row * width + column] + HIDDEN_M
  facing = rasterizer.vertex_normals(vertices_m, faces)[:, 2] < -FACING
  inside = ((points_px >= 0) & (points_px <= size_px[::-1])).all(axis=1)
  return in_front & facing & inside


def _sample(image: np.ndarray, points_px: np.ndarray) -> np.ndarray:
  """The colours at continuous places; the pixel of index i covers [i, i + 1)."""
  last = np.array(image.shape[1::-1]) - 1
  places = np.clip(points_px.astype(np.float64) - 0.5, 0, last)
  first = np.floor(places).astype(int)
  share = (places - first)[:, None]
  (x0, y0), (x1, y1) = first.T, np.minimum(first + 1, last).T
  upper = image[y0, x0] * (1 - share[..., 0]) + image[y0, x1] * share[..., 0]
  lower = image[y1, x0] * (1 - share[..., 0]) + image[y1, x1] * share[..., 0]
  return upper * (1 - share[..., 1]) + lower * share[..., 1]


def _spread(colors: np.ndarray, known: np.ndarray, faces: np.ndarray) -> np.ndarray:
  """Fills in what is not known, ring after ring of neighbours."""
  colors, known = colors.copy(), known.copy()
  pairs = np.concatenate(
    [faces[:, [i, j]] for i in range(3) for j in range(3) if i != j]
  )
  mean = colors[known].mean(axis=0) if known.any() else np.full(3, 128.0)
  while True:
    edge = pairs[known[pairs[:, 0]] & ~known[pairs[:, 1]]]
    if not len(edge):
      colors[~known] = mean
      return colors
    count = np.bincount(edge[:, 1], minlength=len(known))
    sums = [
      np.bincount(edge[:, 1], colors[edge[:, 0], c], len(known)) for c in range(3)
    ]
    reached = count > 0
    colors[reached] = np.stack(sums, axis=1)[reached] / count[reached, None]
    known |= reached
