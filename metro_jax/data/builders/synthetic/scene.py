"""One synthetic example: a sampled body in a sampled pose, dressed, lit and drawn.

Every example is a function of (seed, split, index) and the settings alone, so the
dataset does not depend on who draws which part of it, and no two splits share a body.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from metro_jax.body import body_model, camera, joints
from metro_jax.data import schema
from metro_jax.data.builders.synthetic import (
  appearance,
  backdrop,
  lenses,
  lighting,
  motions,
  panoramas,
  stances,
)
from metro_jax.rendering import rasterizer

SPLITS = ("train", "validation", "test")
POSES = {"stances": stances.sample_pose, "motions": motions.sample_pose}
SUPERSAMPLE = 2  # samples along each side of a pixel
MAX_SHAPE = 2.5  # standard deviations


class Settings(NamedTuple):
  """What the pictures depend on, beside the body; keys of `config.data.synthetic`."""

  seed: int
  image_px: int
  share_2d_only: float
  occluder_probability: float
  clutter: float
  camera: str = "weak"
  scenery: str = "drawn"
  wardrobe: str = "plain"
  bystanders: float = 0.0
  poses: str = "stances"


class Stage(NamedTuple):
  """A body and what is measured from it once, in NumPy."""

  body: body_model.BodyModel
  marks: appearance.Landmarks
  rest_joints_m: Float[np.ndarray, "24 3"]


class Person(NamedTuple):
  """A posed body before its camera; metres, camera frame."""

  pose: Float[np.ndarray, " 72"]
  shape: Float[np.ndarray, " s"]
  vertices_m: Float[np.ndarray, "v 3"]
  joints_m: Float[np.ndarray, "24 3"]
  to_camera: Float[np.ndarray, "3 3"]  # of the upright place that it stands in


class View(NamedTuple):
  """Where the person's box lies in the picture and how the camera sees into it."""

  camera: Float[np.ndarray, "3"]  # weak perspective; where there is a pinhole, its fit
  center_px: Float[np.ndarray, "2"]
  box_px: np.float32
  pinhole: lenses.Pinhole | None = None  # what the picture is really seen through


def make_stage(body: body_model.BodyModel) -> Stage:
  """Measures the mean body at rest.

  Args:
    body: In SMPL's tree of 24 joints, with a "j24" regressor; NumPy arrays.

  Returns:
    What drawing needs.
  """
  rest_joints = body.joint_regressor @ body.template
  return Stage(body, _landmarks(body, rest_joints), rest_joints)


def _landmarks(body, rest_joints) -> appearance.Landmarks:
  smpl = dict(zip(joints.SMPL24, rest_joints.tolist(), strict=True))
  seen = (body.regressors["j24"] @ body.template).tolist()
  j24 = dict(zip(joints.J24, seen, strict=True))
  nose, eye, ear = j24["Nose"], j24["L_Eye"], j24["L_Ear"]
  return appearance.Landmarks(
    shoulder_x=smpl["L_Shoulder"][0],
    wrist_x=smpl["L_Wrist"][0],
    shoulder_y=smpl["L_Shoulder"][1],
    neck_y=smpl["Neck"][1],
    neck_z=smpl["Neck"][2],
    hip_y=smpl["L_Hip"][1],
    knee_y=smpl["L_Knee"][1],
    ankle_y=smpl["L_Ankle"][1],
    sole_y=float(body.template[:, 1].min()),
    chin_y=j24["Jaw"][1],
    top_y=float(body.template[:, 1].max()),
    head_z=ear[2],
    head_depth=nose[2] - ear[2],
    eye=tuple(eye),
    mouth_y=nose[1] - 0.42 * (nose[1] - j24["Jaw"][1]),
  )


def example_rng(seed: int, split: str, index: int) -> np.random.Generator:
  """The stream of randomness of one example."""
  words = (seed, SPLITS.index(split), index)
  return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def draw_example(
  stage: Stage, settings: Settings, split: str, index: int
) -> schema.Example:
  """Draws one example.

  Joints that an occluder hides are known all the same and keep confidence 1. The
  camera belongs to the body as `body_model.pose_body` places it. Training examples
  that keep only their 2D labels have zeros, and NaN for the camera, elsewhere.

  Args:
    stage: The body.
    settings: What pictures look like.
    split: One of `SPLITS`.
    index: Row in the split.

  Returns:
    The example as stored.

  Raises:
    ValueError: If the split does not exist.
  """
  if split not in SPLITS:
    raise ValueError(f"synthetic data: expected a split of {SPLITS}, got {split!r}")
  rng = example_rng(settings.seed, split, index)
  only_2d = bool(rng.random() < settings.share_2d_only) and split == "train"
  person = sample_person(rng, stage, settings)
  lens = lenses.sample_lens(rng) if settings.camera == "perspective" else None
  view = sample_view(rng, person.vertices_m, settings.image_px, lens)
  joints_px = project_px(person.joints_m, view)
  picture = draw_picture(rng, stage, person, view, settings)
  quality = int(rng.integers(80, 96))
  ones = np.ones((len(joints_px), 1), np.float32)
  joints_3d_m = np.concatenate([person.joints_m, ones], axis=1)
  return schema.make_example(
    schema.BODY,
    f"{split}/{index}",
    _encode(picture, quality),
    view.center_px,
    view.box_px,
    joints_2d_px=np.concatenate([joints_px, ones], axis=1),
    joints_3d_m=None if only_2d else joints_3d_m,
    pose=None if only_2d else person.pose,
    shape=None if only_2d else person.shape,
    camera=None if only_2d else view.camera,
  )


def sample_person(
  rng: np.random.Generator,
  stage: Stage,
  settings: Settings | None = None,
  tilt: lenses.Tilt | None = None,
) -> Person:
  """Draws a shape and a pose, heading anywhere, and poses the body.

  Args:
    rng: Where the randomness comes from.
    stage: The body.
    settings: Says which poses, and how far the camera is tilted.
    tilt: That of the camera, where it is given; drawn otherwise.
  """
  body = stage.body
  components = body.shape_directions.shape[-1]
  shape = rng.standard_normal(components).clip(-MAX_SHAPE, MAX_SHAPE)
  pose = POSES[settings.poses if settings else "stances"](rng, stage.rest_joints_m)
  heading = rng.uniform(-np.pi, np.pi)
  wide = settings is not None and settings.camera == "perspective"
  tilt = tilt or lenses.sample_tilt(rng, wide)
  pose[:3] = stances.turn_root(pose[:3], heading, tilt.pitch_rad, tilt.roll_rad)
  shape = shape.astype(np.float32)
  posed = body_model.pose_body(body, pose[None], shape[None])
  places = body.regressors["j24"] @ posed.vertices[0]
  return Person(pose, shape, posed.vertices[0], places, tilt.to_camera())


def sample_view(
  rng: np.random.Generator,
  vertices_m: Float[np.ndarray, "v 3"],
  image_px: int,
  lens: lenses.Lens | None = None,
) -> View:
  """Draws a box around the body, a little off and a little large, and its camera.

  The box's side is 1.1 to 1.25 times the body's larger extent and its middle up to
  5 % of the side off, so that scale and shift must be learnt. About a fifth of the
  picture lies around the box: context for augmentation.

  Args:
    rng: Where the randomness comes from.
    vertices_m: The body, camera frame.
    image_px: Side of the picture.
    lens: Makes the picture a perspective one.
  """
  depth_m = lenses.depth_m(lens, vertices_m) if lens else None
  seen_m = lenses.flatten(vertices_m, depth_m)
  low, high = seen_m.min(axis=0), seen_m.max(axis=0)
  side_m = (high - low).max() * rng.uniform(1.1, 1.25)
  middle_m = (low + high) / 2 + side_m * rng.uniform(-0.05, 0.05, 2)
  box_px = image_px * rng.uniform(0.74, 0.86)
  center_px = image_px * (0.5 + rng.uniform(-0.03, 0.03, 2))
  seen = np.array([2 / side_m, -middle_m[0], -middle_m[1]], np.float32)
  placed = (center_px.astype(np.float32), np.float32(box_px))
  if depth_m is None:
    return View(seen, *placed)
  pinhole = lenses.Pinhole(seen, depth_m)
  fitted = lenses.fit_weak(vertices_m, pinhole.project(vertices_m))
  return View(fitted, *placed, pinhole)


def project_px(
  points_m: Float[np.ndarray, "n 3"], view: View
) -> Float[np.ndarray, "n 2"]:
  """Picture coordinates of camera-frame points."""
  if view.pinhole:
    crop = view.pinhole.project(points_m)
  else:
    crop = camera.weak_perspective(points_m, view.camera)
  return camera.crop_to_pixels(crop, view.center_px, view.box_px)


def draw_picture(
  rng: np.random.Generator,
  stage: Stage,
  person: Person,
  view: View,
  settings: Settings,
) -> UInt8[np.ndarray, "h w 3"]:
  """Dresses the person and draws background, person and what stands in front."""
  side = settings.image_px
  outfit = appearance.sample_outfit(rng, settings.wardrobe)
  light: lighting.Light
  if settings.scenery == "panoramas":
    place = panoramas.load()[rng.integers(len(panoramas.load()))]
    light = sky = lighting.sample_sky(rng, place, person.to_camera)
    width = lenses.half_width(view.pinhole, float(view.box_px), side)
    picture = backdrop.draw_place(rng, sky, width, side, settings.clutter)
    _shadow_ground(picture, person, view)
  else:
    light = appearance.sample_light(rng)
    picture = backdrop.draw_background(rng, side, settings.clutter)
  others = _bystanders(rng, stage, person, view, settings)
  for other in (o for o in others if not o.in_front):
    picture = _put(picture, _draw_other(rng, stage, other, light, settings))
  picture = _put(picture, draw_body(stage, person, view, outfit, light, side))
  joints_px = project_px(person.joints_m, view)
  for other in (o for o in others if o.in_front):
    drawn = _draw_other(rng, stage, other, light, settings)
    if backdrop.share_hidden(drawn[..., 3], joints_px) <= backdrop.MOST_HIDDEN:
      picture = _put(picture, drawn)
  if rng.random() < settings.occluder_probability:
    backdrop.draw_occluders(rng, picture, joints_px, int(rng.integers(1, 3)))
  return backdrop.add_grain(rng, picture, 12 * rng.random() ** 2)


def _shadow_ground(picture, person: Person, view: View) -> None:
  up = person.to_camera[:, 1].astype(np.float32)
  heights_m = person.vertices_m @ up
  heights_m -= heights_m.min()
  grounded_m = person.vertices_m - heights_m[:, None] * up
  lighting.shadow_ground(picture, heights_m, project_px(grounded_m, view))


def _put(
  picture: UInt8[np.ndarray, "h w 3"], drawn: Float[np.ndarray, "h w 4"]
) -> UInt8[np.ndarray, "h w 3"]:
  mixed = picture * (1 - drawn[..., 3:]) + 255 * drawn[..., :3]
  return mixed.clip(0, 255).astype(np.uint8)


class Bystander(NamedTuple):
  """Somebody else in the picture."""

  person: Person
  view: View
  in_front: bool


def _bystanders(
  rng: np.random.Generator,
  stage: Stage,
  person: Person,
  view: View,
  settings: Settings,
) -> list[Bystander]:
  """Draws who else is there: behind and smaller, or in front and larger, and aside."""
  if not settings.bystanders or rng.random() >= settings.bystanders:
    return []
  others = []
  for _ in range(int(rng.integers(1, 3))):
    in_front = bool(rng.random() < 0.25)
    near = rng.uniform(1.0, 1.3) if in_front else rng.uniform(0.45, 1.0)
    tilt = lenses.Tilt.of(person.to_camera)
    other = sample_person(rng, stage, settings, tilt)
    aside = rng.uniform(0.25, 0.75) * rng.choice((-1, 1)), rng.uniform(-0.2, 0.15)
    moved = view.center_px + np.float32(view.box_px) * np.array(aside, np.float32)
    middle = other.vertices_m.mean(axis=0) - person.vertices_m.mean(axis=0)
    vertices_m = other.vertices_m - middle.astype(np.float32)
    placed = view._replace(center_px=moved, box_px=np.float32(view.box_px * near))
    others.append(Bystander(other._replace(vertices_m=vertices_m), placed, in_front))
  return others


def _draw_other(
  rng: np.random.Generator,
  stage: Stage,
  other: Bystander,
  light: lighting.Light,
  settings: Settings,
) -> Float[np.ndarray, "h w 4"]:
  outfit = appearance.sample_outfit(rng, settings.wardrobe)
  return draw_body(stage, other.person, other.view, outfit, light, settings.image_px)


def draw_body(
  stage: Stage,
  person: Person,
  view: View,
  outfit: appearance.Outfit,
  light: lighting.Light,
  image_px: int,
) -> Float[np.ndarray, "h w 4"]:
  """Draws the dressed body on nothing.

  Args:
    stage: The body.
    person: Its pose.
    view: Its camera.
    outfit: Its clothes.
    light: The lamp or the sky.
    image_px: Side of the picture.

  Returns:
    Colour times coverage in [0, 1], and coverage.
  """
  rest, faces = stage.body.template, stage.body.faces
  normals = rasterizer.vertex_normals(person.vertices_m, faces)
  worn = appearance.regions(outfit, stage.marks, rest)
  thick = appearance.thickness_m(outfit, worn)
  vertices_m = person.vertices_m + thick[:, None] * normals
  points_px = np.empty_like(vertices_m)
  points_px[:, :2] = project_px(vertices_m, view) * SUPERSAMPLE
  points_px[:, 2] = vertices_m[:, 2]
  side = image_px * SUPERSAMPLE
  samples = rasterizer.sample_pixels(points_px, faces, side, side)
  table = np.concatenate([rest, normals], axis=1)
  blended = rasterizer.interpolate(samples, faces, table)
  rest, normals = blended[:, :3], blended[:, 3:]
  worn = appearance.regions(outfit, stage.marks, rest)
  color = appearance.albedo(outfit, stage.marks, worn, rest)
  if isinstance(light, lighting.Sky):
    metre_px = float(view.camera[0]) * float(view.box_px) / 2 * SUPERSAMPLE
    crease = lighting.creases(samples, side, metre_px)
    color *= lighting.shade(light, outfit, worn, rest, normals, crease)
  else:
    color *= appearance.shade(light, outfit, worn, rest, normals) * light.color
  return rasterizer.resolve(samples, color.clip(0, 1), side, side, SUPERSAMPLE)


def _encode(picture: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
  flags = (cv2.IMWRITE_JPEG_QUALITY, quality)
  _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), flags)
  return data.tobytes()
