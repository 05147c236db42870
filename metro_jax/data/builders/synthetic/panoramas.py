"""Photographed places: what is seen behind a person, and the light that falls there.

A place's frame has y up; a camera's has x right, y down, z away. `to_camera` turns one
into the other, so that horizon, light and gravity agree.
"""

import functools
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

ASSET = pathlib.Path(__file__).parent / "assets" / "panoramas.npz"
GAMMA = 2.2  # of the pictures' encoding


class Place(NamedTuple):
  """A panorama."""

  picture: UInt8[np.ndarray, "h w 3"]  # RGB; the middle column looks along z
  irradiance: Float[np.ndarray, "9 3"]  # see `irradiance`


@functools.cache
def load() -> tuple[Place, ...]:
  """Reads the asset, in the order of the places' names."""
  with np.load(ASSET) as arrays:
    names = sorted(n.removesuffix(".jpg") for n in arrays if n.endswith(".jpg"))
    return tuple(
      Place(
        np.asarray(cv2.imdecode(arrays[f"{n}.jpg"], cv2.IMREAD_COLOR_RGB)),
        arrays[f"{n}.irradiance"],
      )
      for n in names
    )


def directions(height: int, width: int) -> Float[np.ndarray, "h w 3"]:
  """Unit vectors that a panorama's pixels look along."""
  up = np.pi / 2 - np.pi * (np.arange(height) + 0.5) / height
  around = 2 * np.pi * ((np.arange(width) + 0.5) / width - 0.5)
  up, around = np.meshgrid(up, around, indexing="ij")
  level = np.cos(up)
  return np.stack([level * np.sin(around), np.sin(up), level * np.cos(around)], axis=-1)


def solid_angles(height: int, width: int) -> Float[np.ndarray, "h w"]:
  """Steradians of a panorama's pixels; they sum to 4 pi."""
  edges = np.sin(np.pi / 2 - np.pi * np.arange(height + 1) / height)
  rows = (edges[:-1] - edges[1:]) * (2 * np.pi / width)
  return np.repeat(rows[:, None], width, axis=1)


def harmonics(normals: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 9"]:
  """Real spherical harmonics of degrees 0, 1 and 2."""
  x, y, z = np.asarray(normals).T
  one = np.ones_like(x)
  return np.stack(
    [
      0.282095 * one,
      0.488603 * y,
      0.488603 * z,
      0.488603 * x,
      1.092548 * x * y,
      1.092548 * y * z,
      0.315392 * (3 * z * z - 1),
      1.092548 * x * z,
      0.546274 * (x * x - y * y),
    ],
    axis=1,
  )


def irradiance(
  place: Place, to_camera: Float[np.ndarray, "3 3"], normals: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
  """Light that falls on surfaces, linear, 1 on average over all directions.

  Args:
    place: Where they are.
    to_camera: The place's frame to the camera's.
    normals: Unit vectors, camera frame.
  """
  light = harmonics(normals @ to_camera) @ place.irradiance
  return light.clip(0.02, None)


def view(
  place: Place, to_camera: Float[np.ndarray, "3 3"], half_width: float, side_px: int
) -> UInt8[np.ndarray, "side_px side_px 3"]:
  """Looks into a place.

  Args:
    place: What to look at.
    to_camera: The place's frame to the camera's.
    half_width: Tangent of half the field of view.
    side_px: Side of the picture.

  Returns:
    RGB.
  """
  step = (2 * (np.arange(side_px) + 0.5) / side_px - 1) * half_width
  x, y = np.meshgrid(step, step)
  rays = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
  seen = rays @ to_camera.astype(np.float32)
  height, width = place.picture.shape[:2]
  around = np.arctan2(seen[..., 0], seen[..., 2]) / (2 * np.pi) + 0.5
  up = np.arctan2(seen[..., 1], np.hypot(seen[..., 0], seen[..., 2])) / np.pi
  column = (around * width - 0.5).astype(np.float32)
  row = ((0.5 - up) * height - 0.5).clip(0, height - 1).astype(np.float32)
  return cv2.remap(
    place.picture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
  )
