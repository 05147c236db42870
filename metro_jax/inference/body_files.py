"""A predicted body: its mirror image, its camera in the picture, and its files."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import camera
from metro_jax.rendering import mesh_files, overlay
from metro_jax.rendering.overlay import Box


class Body(NamedTuple):
  """One person or hand as predicted, in the camera frame, metres."""

  vertices_m: Float[np.ndarray, "v 3"]
  joints_m: Float[np.ndarray, "j 3"]
  camera: Float[np.ndarray, "3"]
  faces: Int[np.ndarray, "f 3"]
  joint_names: tuple[str, ...]


def mirror(body: Body) -> Body:
  """A prediction as a mirror shows it: x and tx change sign, triangles turn over."""
  flip = np.array([-1, 1, 1], body.vertices_m.dtype)
  return body._replace(
    vertices_m=body.vertices_m * flip,
    joints_m=body.joints_m * flip,
    camera=body.camera * np.array([1, -1, 1], body.camera.dtype),
    faces=body.faces[:, ::-1],
  )


def write_body(
  folder: pathlib.Path,
  name: str,
  body: Body,
  box: Box,
  image_size_px: tuple[int, int],
  focal_px: float,
  picture: pathlib.Path,
) -> None:
  """Writes one person's GLB, OBJ and npz.

  Args:
    folder: Where to; it must exist.
    name: Of the files, without endings.
    body: As predicted in the box.
    box: The square that the network saw.
    image_size_px: Width and height of the picture.
    focal_px: Of the pinhole camera.
    picture: Its path, for the npz.
  """
  cameras = in_picture(body, box, image_size_px, focal_px)
  mesh_files.write_glb(folder / f"{name}.glb", body.vertices_m, body.faces)
  mesh_files.write_obj(folder / f"{name}.obj", body.vertices_m, body.faces)
  mesh_files.write_npz(
    folder / f"{name}.npz",
    body.vertices_m,
    body.joints_m,
    body.joint_names,
    body.camera,
    body.faces,
    {**cameras, "picture": np.array(str(picture))},
  )


def in_picture(
  body: Body, box: Box, image_size_px: tuple[int, int], focal_px: float
) -> dict[str, np.ndarray]:
  """The camera in the whole picture, weak-perspective and pinhole.

  pixel = scale_px X_xy + offset_px, with scale_px = s side / 2 and
  offset_px = center + scale_px (tx, ty)

  Args:
    body: As predicted in the box.
    box: The square that the network saw.
    image_size_px: Width and height of the picture.
    focal_px: Of the pinhole camera.

  Returns:
    The further arrays of the npz; see the top of `predict`.
  """
  center_px = np.array([box.center_x, box.center_y])
  scale_px = body.camera[0] * box.side / 2
  translation_m = camera.perspective_translation(
    body.camera.astype(np.float64),
    center_px,
    np.array(box.side),
    image_size_px,
    focal_px,
  )
  return {
    "box_px": np.array(box),
    "scale_px": np.array(scale_px),
    "offset_px": center_px + scale_px * body.camera[1:],
    "joints_px": overlay.to_pixels(body.joints_m, body.camera, box),
    "translation_m": translation_m,
    "focal_px": np.array(focal_px),
    "image_size_px": np.array(image_size_px),
  }
