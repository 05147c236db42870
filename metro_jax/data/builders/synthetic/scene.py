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
from metro_jax.data.builders.synthetic import appearance, backdrop, motions, stances
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


class View(NamedTuple):
  """Where the person's box lies in the picture and how the camera sees into it."""

  camera: Float[np.ndarray, "3"]
  center_px: Float[np.ndarray, "2"]
  box_px: np.float32


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
  person = sample_person(rng, stage, settings.poses)
  view = sample_view(rng, person.vertices_m, settings.image_px)
  joints_px = project_px(person.joints_m, view)
  picture = draw_picture(rng, stage, person, view, settings)
  quality = int(rng.integers(80, 96))
  known = np.float32(not only_2d)
  ones = np.ones((len(joints_px), 1), np.float32)
  return schema.Example(
    key=f"{split}/{index}",
    image=_encode(picture, quality),
    center_px=view.center_px,
    box_px=view.box_px,
    joints_2d_px=np.concatenate([joints_px, ones], axis=1),
    joints_3d_m=np.concatenate([person.joints_m, ones], axis=1) * known,
    pose=person.pose * known,
    shape=person.shape * known,
    camera=np.full(3, np.nan, np.float32) if only_2d else view.camera,
    has_joints_2d=np.bool_(True),
    has_joints_3d=np.bool_(not only_2d),
    has_mesh=np.bool_(not only_2d),
  )


def sample_person(
  rng: np.random.Generator, stage: Stage, poses: str = "stances"
) -> Person:
  """Draws a shape and a pose, heading anywhere, and poses the body."""
  body = stage.body
  components = body.shape_directions.shape[-1]
  shape = rng.standard_normal(components).clip(-MAX_SHAPE, MAX_SHAPE)
  pose = POSES[poses](rng, stage.rest_joints_m)
  pose[:3] = stances.sample_root(rng, pose[:3])
  shape = shape.astype(np.float32)
  posed = body_model.pose_body(body, pose[None], shape[None])
  places = body.regressors["j24"] @ posed.vertices[0]
  return Person(pose, shape, posed.vertices[0], places)


def sample_view(
  rng: np.random.Generator, vertices_m: Float[np.ndarray, "v 3"], image_px: int
) -> View:
  """Draws a box around the body, a little off and a little large, and its camera.

  The box's side is 1.1 to 1.25 times the body's larger extent and its middle up to
  5 % of the side off, so that scale and shift must be learnt. About a fifth of the
  picture lies around the box: context for augmentation.
  """
  low, high = vertices_m[:, :2].min(axis=0), vertices_m[:, :2].max(axis=0)
  side_m = (high - low).max() * rng.uniform(1.1, 1.25)
  middle_m = (low + high) / 2 + side_m * rng.uniform(-0.05, 0.05, 2)
  box_px = image_px * rng.uniform(0.74, 0.86)
  center_px = image_px * (0.5 + rng.uniform(-0.03, 0.03, 2))
  seen = np.array([2 / side_m, -middle_m[0], -middle_m[1]], np.float32)
  return View(seen, center_px.astype(np.float32), np.float32(box_px))


def project_px(
  points_m: Float[np.ndarray, "n 3"], view: View
) -> Float[np.ndarray, "n 2"]:
  """Picture coordinates of camera-frame points."""
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
  outfit = appearance.sample_outfit(rng)
  light = appearance.sample_light(rng)
  picture = backdrop.draw_background(rng, side, settings.clutter)
  drawn = draw_body(stage, person, view, outfit, light, side)
  mixed = picture * (1 - drawn[..., 3:]) + 255 * drawn[..., :3]
  picture = mixed.clip(0, 255).astype(np.uint8)
  if rng.random() < settings.occluder_probability:
    joints_px, count = project_px(person.joints_m, view), int(rng.integers(1, 3))
    backdrop.draw_occluders(rng, picture, joints_px, count)
  return backdrop.add_grain(rng, picture, 12 * rng.random() ** 2)


def draw_body(
  stage: Stage,
  person: Person,
  view: View,
  outfit: appearance.Outfit,
  light: appearance.Light,
  image_px: int,
) -> Float[np.ndarray, "h w 4"]:
  """Draws the dressed body on nothing.

  Args:
    stage: The body.
    person: Its pose.
    view: Its camera.
    outfit: Its clothes.
    light: The lamp.
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
  color *= appearance.shade(light, outfit, worn, rest, normals) * light.color
  return rasterizer.resolve(samples, color.clip(0, 1), side, side, SUPERSAMPLE)


def _encode(picture: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
  flags = (cv2.IMWRITE_JPEG_QUALITY, quality)
  _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), flags)
  return data.tobytes()
