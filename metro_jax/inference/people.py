"""The Python API: photographs in, people out.

network = metro_jax.load()
for person in network("photo.jpg"):
  person.vertices, person.joints["L_Wrist"], person.camera.pinhole
  person.glb("person.glb")
"""

import functools
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, overload

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from metro_jax import compiled
from metro_jax.body import hand
from metro_jax.checkpoints import embedded, runs
from metro_jax.inference import body_files, photographs, sources
from metro_jax.inference.batch import Fitter
from metro_jax.inference.body_files import Body, Fitted
from metro_jax.inference.boxes import corners
from metro_jax.inference.predictor import make_batch_predictor, make_fitter
from metro_jax.rendering import mesh_files, overlay
from metro_jax.rendering.overlay import Box

Image: TypeAlias = UInt8[np.ndarray, "_ _ 3"]
Rows: TypeAlias = Sequence[Sequence[float | int]] | np.ndarray  # boxes
Picture: TypeAlias = str | os.PathLike[str] | np.ndarray  # a path, or RGB


class PictureCamera(NamedTuple):
  """A weak perspective of the whole picture: pixel = scale_px X_xy + offset_px."""

  scale_px: float
  offset_px: Float[np.ndarray, "2"]


class Pinhole(NamedTuple):
  """A pinhole camera whose principal point is the middle of the picture.

  Attributes:
    focal_px: Focal length; where nobody knows it, the picture's diagonal.
    translation_m: To add to points of the camera frame before they are projected.
  """

  focal_px: float
  translation_m: Float[np.ndarray, "3"]


class Camera(NamedTuple):
  """How a person's points come into the picture, in three ways.

  Attributes:
    crop: s, tx, ty: x2d = s (X_xy + (tx, ty)), in [-1, 1] of the person's square.
    picture: The same in pixels of the whole picture.
    pinhole: A perspective camera that agrees with both at the person's distance.
  """

  crop: Float[np.ndarray, "3"]
  picture: PictureCamera
  pinhole: Pinhole


class Person:
  """One person, or one hand, in one picture.

  Attributes:
    vertices: (v, 3), metres; camera frame: x right, y down, z away from the camera,
      the pelvis (of a hand, the wrist) near the origin.
    joints: (3,) by name, in the same frame.
    joints_px: (2,) by name, in pixels of the picture.
    faces: (f, 3) vertex numbers, counterclockwise as seen from outside.
    camera: See `Camera`.
    box: The square that the network saw: center_x, center_y, side, in pixels.
  """

  def __init__(
    self,
    body: Body,
    box: Box,
    image_size_px: tuple[int, int],
    focal_px: float,
    fitter: Callable[[], Fitter],
  ):
    self._body, self._image_size_px = body, image_size_px
    self._fitter = fitter
    self._fitted: Fitted | None = None
    self.vertices: Float[np.ndarray, "v 3"] = body.vertices_m
    self.joints: Mapping[str, np.ndarray] = dict(
      zip(body.joint_names, body.joints_m, strict=True)
    )
    seen = body_files.in_picture(body, box, image_size_px, focal_px)
    self.joints_px: Mapping[str, np.ndarray] = dict(
      zip(body.joint_names, seen["joints_px"], strict=True)
    )
    self.faces: Int[np.ndarray, "f 3"] = body.faces
    self.box = box
    self.camera = Camera(
      body.camera,
      PictureCamera(float(seen["scale_px"]), seen["offset_px"]),
      Pinhole(focal_px, seen["translation_m"]),
    )

  def __repr__(self) -> str:
    box = self.box
    return (
      f"Person({len(self.vertices)} vertices, {len(self.joints)} joints, at "
      f"({box.center_x:.0f}, {box.center_y:.0f}) px, {box.side:.0f} px wide)"
    )

  def parameters(self) -> dict[str, np.ndarray]:
    """Fits the network's body model to the mesh; once, however often it is asked.

    Returns:
      What smplx's models take, in the same camera frame: "global_orient" (3,),
      "body_pose" (of a hand "hand_pose"), "betas" and "transl" (3,); and
      "residual_mm", the mean distance of the fitted vertices from the mesh.
    """
    if self._fitted is None:
      self._fitted = self._fitter()([self._body])[0]
    return self._fitted.arrays()

  def glb(self, path: str | os.PathLike[str]) -> None:
    """Writes the mesh as binary glTF: metres, y up."""
    mesh_files.write_glb(pathlib.Path(path), self.vertices, self.faces)

  def overlay(self, image: Picture) -> Image:
    """Draws the mesh over a picture, as a new one of the same size.

    Args:
      image: The picture that the person was found in, or one of its size.
    """
    picture = _read(image)
    size_px = picture.shape[1], picture.shape[0]
    if size_px != self._image_size_px:
      raise ValueError(
        f"overlay: expected a picture of {self._image_size_px} px (width, height), "
        f"got {size_px}"
      )
    return overlay.overlay(
      picture, self.vertices, self.faces, self.camera.crop, self.box
    )


class PeopleNetwork:
  """A network that finds the meshes of people in pictures; made by `load`.

  Attributes:
    config: The settings that it was trained with.
    joint_names: Of the joints, in the network's order.
  """

  def __init__(
    self, run: runs.Run, side: str = "right", passes: int | None = None
  ) -> None:
    body = run.network.body
    if side not in hand.SIDES:
      raise ValueError(f"side: expected one of {', '.join(hand.SIDES)}, got {side!r}")
    if side == "left" and not body.is_hand:
      raise ValueError("side: expected right of a network of bodies, got left")
    self.config: ConfigDict = run.config
    self.joint_names: tuple[str, ...] = body.joint_names
    self._predict = make_batch_predictor(run, side == "left", passes)
    self._fitter = functools.cache(lambda: make_fitter(run, side == "left"))

  @overload
  def __call__(
    self,
    image: Picture,
    boxes: Rows | None = ...,
    *,
    box_scale: float = ...,
    focal_px: float = ...,
  ) -> list[Person]: ...

  @overload
  def __call__(
    self,
    image: list[Picture] | tuple[Picture, ...],
    boxes: Sequence[Rows | None] | None = ...,
    *,
    box_scale: float = ...,
    focal_px: float = ...,
  ) -> list[list[Person]]: ...

  def __call__(
    self, image, boxes=None, *, box_scale=photographs.BOX_SCALE, focal_px=0.0
  ):
    """Predicts everybody in one picture or in many.

    Args:
      image: A path or an RGB array (h, w, 3) of uint8, or a list of these. Files are
        turned upright as their EXIF data says.
      boxes: [left, top, right, bottom] in pixels of each person, tight; of many
        pictures, a list a picture. None takes a picture as one person who fills it.
      box_scale: Of the network's square, over a box's longer side.
      focal_px: Of the pinhole camera; 0 takes the picture's diagonal.

    Returns:
      The people of the picture, in the order of their boxes; of many pictures, a list
      a picture. They are seen in batches over all pictures.

    Raises:
      ValueError: If a picture cannot be read or is none, or a box is none.
    """
    if not isinstance(image, list | tuple):
      return self._people([image], [boxes], box_scale, focal_px)[0]
    pictures = list(image)
    given = [None] * len(pictures) if boxes is None else list(boxes)
    if len(given) != len(pictures):
      raise ValueError(
        f"boxes: expected a list for each of the {len(pictures)} pictures, "
        f"got {len(given)}"
      )
    return self._people(pictures, given, box_scale, focal_px)

  def _people(
    self,
    given: Sequence[Picture],
    boxes: Sequence[Rows | None],
    box_scale: float,
    focal_px: float,
  ) -> list[list[Person]]:
    images = [_read(one) for one in given]
    known = [None if some is None else corners("boxes", some) for some in boxes]
    squares = [
      photographs.squares(image.shape[0], image.shape[1], some, box_scale)
      for image, some in zip(images, known, strict=True)
    ]
    places = [(n, box) for n, some in enumerate(squares) for box in some]
    bodies = self._predict([images[n] for n, _ in places], [box for _, box in places])
    people: list[list[Person]] = [[] for _ in images]
    for (n, box), body in zip(places, bodies, strict=True):
      height, width = images[n].shape[:2]
      focal = focal_px or math.hypot(width, height)
      people[n].append(Person(body, box, (width, height), focal, self._fitter))
    return people


def load(
  source: str | os.PathLike[str] = embedded.NAME,
  *,
  config: ConfigDict | str | os.PathLike[str] | None = None,
  checkpoint: str | int = "best",
  side: str = "right",
  passes: int | None = None,
) -> PeopleNetwork:
  """Loads a network for photographs.

  Args:
    source: "embedded", the package's own; the workdir of a run, here or in a bucket; a
      folder that `export` wrote; or weights in METRO's layout, in a file or a Hugging
      Face repository, "org/name" or "org/name:file".
    config: Of weights alone: the network's settings, or the config file that gives
      them, such as "configs/h36m.py" or "configs/h36m.py:hrnet_w64".
    checkpoint: Of a run: "best" by PA-MPJPE, "latest", or a step.
    side: Of a network of hands: "left" sees pictures in a mirror.
    passes: Looks at each person, 1 or 2; None takes what the network was trained for.

  Returns:
    network(image, boxes) -> people. The first call with a number of people compiles
    for it; what was compiled is kept for other processes, see `metro_jax.compiled`.

  Raises:
    FileNotFoundError: If there is no such run, folder or file.
    ValueError: If it is damaged, or of another architecture than its config's.
  """
  compiled.keep()
  return PeopleNetwork(sources.load_run(source, config, checkpoint), side, passes)


def _read(image: Picture) -> Image:
  if isinstance(image, str | os.PathLike):
    return photographs.read(pathlib.Path(image).expanduser())
  shape, kind = getattr(image, "shape", None), getattr(image, "dtype", None)
  if kind != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3:
    raise ValueError(
      "image: expected a path or an RGB array (h, w, 3) of uint8, got "
      + (f"{shape} {kind}" if kind is not None else type(image).__name__)
    )
  return np.asarray(image)
