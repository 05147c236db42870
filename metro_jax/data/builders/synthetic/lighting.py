"""Light of photographed places on bodies: from all around, with what bodies hide."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from metro_jax.data.builders.synthetic import appearance, panoramas
from metro_jax.rendering import rasterizer

CREASE_M = 0.05  # how much deeper than its surroundings a fully dark crease is
SHADOW_REACH_M = 0.25  # height over the ground at which a shadow has faded
SHADOW_CELL_PX = 4


class Sky(NamedTuple):
  """A place's light as a camera's picture shows it."""

  place: panoramas.Place
  to_camera: Float[np.ndarray, "3 3"]  # of the place's frame, turned anyhow
  exposure: float
  detail: float  # how strongly skin and cloth vary in brightness


Light = appearance.Light | Sky


def sample_sky(
  rng: np.random.Generator,
  place: panoramas.Place,
  to_camera: Float[np.ndarray, "3 3"],
) -> Sky:
  """Turns a place about the vertical and exposes for it."""
  angle = rng.uniform(-np.pi, np.pi)
  c, s = np.cos(angle), np.sin(angle)
  around = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
  return Sky(
    place,
    (to_camera @ around).astype(np.float32),
    float(2.0 ** rng.normal(0.0, 0.6)),
    float(rng.uniform(0.05, 0.3)),
  )


def shade(
  sky: Sky,
  outfit: appearance.Outfit,
  region: Int[np.ndarray, " n"],
  rest: Float[np.ndarray, "n 3"],
  normals: Float[np.ndarray, "n 3"],
  crease: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n 3"]:
  """Factors for encoded colours: irradiance, folds, creases and fine detail.

  Args:
    sky: The light.
    outfit: Of the person.
    region: What covers each sample.
    rest: Each sample's place on the mean body at rest.
    normals: Camera frame, of any length.
    crease: How hidden each sample is, 0 to 1; see `creases`.
  """
  length = np.sqrt(np.einsum("nc,nc->n", normals, normals))
  unit = normals / np.maximum(length, 1e-6)[:, None]
  unit += appearance.wrinkles(outfit, region, rest)
  unit /= np.sqrt(np.einsum("nc,nc->n", unit, unit))[:, None]
  light = panoramas.irradiance(sky.place, sky.to_camera, unit)
  light *= sky.exposure * (1 - 0.65 * crease)[:, None]
  light *= 1 + sky.detail * appearance.grain(outfit, rest)[:, None]
  return light.clip(0, 4) ** (1 / panoramas.GAMMA)


def creases(
  samples: rasterizer.Samples, side: int, metre_px: float
) -> Float[np.ndarray, " n"]:
  """How much deeper each sample lies than the body around it: 0 open, 1 dark.

  Args:
    samples: Of a picture of side x side.
    side: In samples.
    metre_px: Samples a metre.

  Source: Luft, Colditz and Deussen, "Image enhancement by unsharp masking the depth
    buffer", SIGGRAPH 2006.
  """
  depth, known = np.zeros((2, side * side), np.float32)
  depth[samples.pixel], known[samples.pixel] = samples.depth, 1.0
  size = max(3, int(0.08 * metre_px) | 1)
  around = cv2.blur(
    np.stack([depth, known], axis=-1).reshape(side, side, 2), (size,) * 2
  )
  mean = around.reshape(-1, 2)[samples.pixel]
  deeper = samples.depth - mean[:, 0] / mean[:, 1]
  return (deeper / CREASE_M).clip(0, 1)


def shadow_ground(
  picture: UInt8[np.ndarray, "h w 3"],
  heights_m: Float[np.ndarray, " v"],
  places_px: Float[np.ndarray, "v 2"],
) -> None:
  """Darkens the picture around what stands on the ground.

  Args:
    picture: Drawn into.
    heights_m: Of a body's vertices over its lowest one.
    places_px: Where their feet on the ground are seen.
  """
  cells = -(-picture.shape[0] // SHADOW_CELL_PX)
  near = heights_m < SHADOW_REACH_M
  row = (places_px[near] / SHADOW_CELL_PX).astype(int)
  inside = ((row >= 0) & (row < cells)).all(axis=1)
  index = row[inside, 1] * cells + row[inside, 0]
  weight = (1 - heights_m[near][inside] / SHADOW_REACH_M) ** 2
  dark = np.bincount(index, weight, minlength=cells * cells).reshape(cells, cells)
  soft = cv2.GaussianBlur((dark > 0.3).astype(np.float32), (0, 0), 1.6)
  large = cv2.resize(soft, (picture.shape[1], picture.shape[0]))
  picture[:] = (picture * (1 - 0.55 * large.clip(0, 1))[..., None]).astype(np.uint8)
