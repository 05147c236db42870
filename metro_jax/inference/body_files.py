"""A predicted body: its mirror image, its camera in the picture, and its files."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from metro_jax.body import camera
from metro_jax.body.body_model import BodyModel
from metro_jax.inference.parameters import BodyParameters
from metro_jax.rendering import gltf, mesh_files, overlay, rig
from metro_jax.rendering.overlay import Box

FORMATS = ("glb", "obj", "ply")
VIEWS = ("side", "top")
VIEW_PX = 512


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


class Fitted(NamedTuple):
  """A body model in the pose and shape of one person.

  Attributes:
    model: With NumPy arrays.
    parameters: Of one mesh, b = 1, or of a track's frames.
  """

  model: BodyModel
  parameters: BodyParameters

  @property
  def pose(self) -> Float[np.ndarray, "b p"]:
    """Axis-angles of all joints."""
    found = self.parameters
    return np.concatenate([found.global_orient, found.body_pose], axis=1)

  def arrays(self) -> dict[str, np.ndarray]:
    """The parameters of the one mesh under smplx's names, and what the fit leaves."""
    return {name: array[0] for name, array in self.stacked().items()}

  def stacked(self) -> dict[str, np.ndarray]:
    """The same of all meshes, (b, ...)."""
    found = self.parameters._asdict()
    if self.model.is_hand:
      found["hand_pose"] = found.pop("body_pose")
    return found


class Contents(NamedTuple):
  """What to write of a person besides the npz.

  Attributes:
    formats: Of the mesh, among `FORMATS`.
    views: Pictures of the mesh alone, among `VIEWS`.
  """

  formats: tuple[str, ...] = FORMATS[:2]
  views: tuple[str, ...] = ()

  @property
  def suffixes(self) -> tuple[str, ...]:
    """Endings of a person's files."""
    views = (f"_{view}.jpg" for view in self.views)
    return (*(f".{kind}" for kind in self.formats), ".npz", *views)


def write_body(
  folder: pathlib.Path,
  name: str,
  body: Body,
  box: Box,
  image_size_px: tuple[int, int],
  focal_px: float,
  picture: pathlib.Path,
  contents: Contents = Contents(),  # noqa: B008
  colors: UInt8[np.ndarray, "v 3"] | None = None,
  fitted: Fitted | None = None,
) -> None:
  """Writes one person's npz, meshes and views.

  Args:
    folder: Where to; it must exist.
    name: Of the files, without endings.
    body: As predicted in the box.
    box: The square that the network saw.
    image_size_px: Width and height of the picture.
    focal_px: Of the pinhole camera.
    picture: Its path, for the npz.
    contents: Which files.
    colors: sRGB of each vertex.
    fitted: Makes the GLB a posed rig of the body model in place of a mesh, and adds
      its parameters to the npz.
  """
  cameras = in_picture(body, box, image_size_px, focal_px)
  for kind in contents.formats:
    path = folder / f"{name}.{kind}"
    if kind == "glb" and fitted is not None:
      _write_rigged(path, fitted, colors)
    else:
      write = getattr(mesh_files, f"write_{kind}")
      write(path, body.vertices_m, body.faces, colors)
  for view in contents.views:
    draw = overlay.side_view if view == "side" else overlay.top_view
    drawn = draw(body.vertices_m, body.faces, VIEW_PX)
    overlay.write_jpeg(folder / f"{name}_{view}.jpg", drawn)
  mesh_files.write_npz(
    folder / f"{name}.npz",
    body.vertices_m,
    body.joints_m,
    body.joint_names,
    body.camera,
    body.faces,
    {
      **cameras,
      "picture": np.array(str(picture)),
      **({} if fitted is None else fitted.arrays()),
    },
  )


def _write_rigged(
  path: pathlib.Path, fitted: Fitted, colors: UInt8[np.ndarray, "v 3"] | None
) -> None:
  found = fitted.parameters
  posed = rig.make_rig(fitted.model, found.betas[0], fitted.pose[0])
  motion = rig.make_motion(fitted.model, posed, fitted.pose, found.transl)
  gltf.write_rigged(path, posed, motion, colors=colors)


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
