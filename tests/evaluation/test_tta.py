import dataclasses
import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body import humanoid
from metro_jax.data import augment, pipeline
from metro_jax.evaluation import metrics, mirror, tta
from metro_jax.models.setup import Geometry

RNG = np.random.default_rng(2)
PX = 64
GAIN = np.ones(3, np.float32)
NO_TURN_OR_FLIP = mirror.Mirror(  # vertices 1 and 2 lie across from each other
  np.array([[0, 0, 0], [2, 2, 2], [1, 1, 1]], np.int32),
  np.array([[1, 0, 0]] * 3, np.float32),
)


def view(scale=1.0, degrees=0.0, flip=False):
  return augment.Augmentation(scale, float(np.deg2rad(degrees)), flip, GAIN)


def views(*augmentations, first_twice=False):
  return tta.Views((augment.identity(), *augmentations), NO_TURN_OR_FLIP, first_twice)


def example(row=0):
  """A dark picture with a bright spot above and right of the box's middle."""
  image = np.zeros((150, 200, 3), np.uint8)
  cv2.circle(image, (120 + row, 60), 4, (255, 255, 255), -1)
  _, jpeg = cv2.imencode(".jpg", image)
  no = np.bool_(False)
  return {
    "key": f"test/{row}",
    "image": jpeg.tobytes(),
    "center_px": np.array([100, 75], np.float32),
    "box_px": np.float32(100),
    "joints_2d_px": np.zeros((24, 3), np.float32),
    "joints_3d_m": np.zeros((24, 4), np.float32),
    "pose": np.zeros(72, np.float32),
    "shape": np.zeros(10, np.float32),
    "camera": np.zeros(3, np.float32),
    "has_joints_2d": no,
    "has_joints_3d": no,
    "has_mesh": no,
  }


class Split:
  name = "spots/test"

  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def __getitem__(self, row):
    return example(row)


def spot(crop):
  """Where the light is, in the crop's [-1, 1]."""
  light = crop[..., 0].astype(np.float64)
  y, x = np.mgrid[:PX, :PX] + 0.5
  return np.array([(light * x).sum(), (light * y).sum()]) / light.sum() * 2 / PX - 1


GRID = [view(0.9), view(1.25, 40), view(1.0, -90), view(flip=True), view(1.2, 25, True)]


@pytest.mark.parametrize("arithmetic", ["exact", "released"])
def test_crops_are_those_of_the_augmentation(arithmetic):
  crops = tta.crops(example(), GRID, PX, arithmetic)
  for crop, augmentation in zip(crops, GRID, strict=True):
    expected = augment.apply(example(), augmentation, PX, arithmetic)["image"]
    np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("augmentation", GRID)
def test_what_a_view_shows_comes_back_to_where_it_is_unchanged(augmentation):
  seen = [
    spot(tta.crops(example(), [one], PX)[0]) * one.scale
    for one in (view(), augmentation)
  ]
  points = np.zeros((1, 2, 3, 3), np.float32)  # all vertices at the spot
  points[0, :, :, :2] = np.array(seen)[:, None]
  back = tta.undone(jnp.asarray(points), views(augmentation))
  np.testing.assert_allclose(back[0, 1], back[0, 0], atol=0.03)
  assert np.linalg.norm(seen[0]) > 0.3


def test_mirrored_meshes_change_sides_vertex_by_vertex():
  mesh = np.array([[0.0, 1, 2], [-3, 4, 5], [6, 7, 8]], np.float32)
  back = tta.undone(jnp.asarray(np.stack([mesh, mesh])[None]), views(view(flip=True)))
  expected = [[0, 1, 2], [-6, 7, 8], [3, 4, 5]]
  np.testing.assert_allclose(back[0, 1], expected, atol=1e-6)
  np.testing.assert_allclose(back[0, 0], mesh, atol=1e-6)


REGRESSOR = jnp.asarray(RNG.dirichlet(np.ones(20), size=5), jnp.float32)
GEOMETRY = Geometry(types.SimpleNamespace(mesh_regressor=REGRESSOR), None, ())


@pytest.mark.parametrize(("first_twice", "weights"), [(False, [1, 1]), (True, [2, 1])])
def test_views_are_aligned_to_the_first_meshes_and_joints_apart(first_twice, weights):
  meshes = RNG.normal(size=(3, 2, 20, 3)).astype(np.float32)
  meshes[:, 1] = 1.5 * (meshes[:, 0] + 0.05 * meshes[:, 1]) + 0.2
  none = views(view(0.8), first_twice=first_twice)
  mesh, joints = tta.average(jnp.asarray(meshes), none, GEOMETRY)
  shares = np.array(weights)[:, None, None] / sum(weights)
  regressed = REGRESSOR @ meshes
  for got, points in ((mesh, meshes), (joints, regressed)):
    moved = metrics.aligned(points[:, 1], points[:, 0])
    both = np.stack([points[:, 0], moved], axis=1)
    np.testing.assert_allclose(got, (both * shares).sum(1), atol=1e-5)


def config_of(**settings):
  config = base.get_config()
  config.data.image_px = PX
  config.update({"eval": settings})
  return config


def test_the_first_view_is_the_unchanged_one_and_the_others_are_the_grid():
  config = config_of(tta_scales=(0.5, 1.0), tta_rotations_deg=(-90.0, 0.0, 90.0))
  made = tta.make_views(config, humanoid.load())
  assert made.augmentations[0][:3] == (1.0, 0.0, False)
  others = {(v.scale, round(np.rad2deg(v.rotation_rad))) for v in made.augmentations}
  assert len(made.augmentations) == 6 == len(others)
  assert made.mirror is None and not made.first_twice
  said = tta.describe(config)
  assert "scales 0.5, 1 of the box, rotations -90, 0, 90 degrees, no flips" in said


def test_released_averaging_counts_the_unchanged_view_twice_and_says_so():
  config = config_of(averaging="released")
  assert tta.make_views(config, humanoid.load()).first_twice
  assert "counted twice" in tta.describe(config)


def test_flips_double_the_views(monkeypatch):
  monkeypatch.setattr(tta.mirror, "find", lambda _: NO_TURN_OR_FLIP)
  config = config_of(tta_flip=True, tta_scales=(1.0,), tta_rotations_deg=(0.0, 5.0))
  made = tta.make_views(config, humanoid.load())
  assert [v.flip for v in made.augmentations] == [False, False, True, True]


def test_a_hand_is_not_mirrored():
  body = humanoid.load()
  hand = dataclasses.replace(body, regressors={"hand21": body.joint_regressor})
  with pytest.raises(ValueError, match=r"tta_flip: expected False of a hand"):
    tta.make_views(config_of(tta_flip=True), hand)


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("tta_scales", (0.5, 2.0)),
    ("tta_scales", (0.0, 1.0)),
    ("tta_rotations_deg", (5.0,)),
  ],
)
def test_views_without_the_unchanged_one_are_refused(key, value):
  with pytest.raises(ValueError, match=f"config.eval.{key}: expected .* among them"):
    base.validate(config_of(**{key: value}))


def test_flips_of_a_hand_are_refused_before_any_device_starts():
  config = config_of(tta_flip=True)
  config.body.model, config.body.levels = "mano", (778, 195)
  config.loss.root, config.loss.vertex_levels = "wrist", (1.0, 1.0)
  config.data.augment.flip_probability = 0.0
  with pytest.raises(ValueError, match=r"config\.eval\.tta_flip: expected False"):
    base.validate(config)


def test_every_example_comes_once_with_its_crops_whatever_the_processes():
  devices = tta.jax.device_count()
  three = views(view(0.8), view(1.0, 30))
  config = config_of(batch_size=8 * devices)
  assert tta.batch_size(config, three) == 2 * devices  # 8 // 3 a device
  assert tta.batch_size(config_of(batch_size=devices), three) == devices
  count = 2 * devices + 1
  rows, crops = [], []
  for batch in tta.batches(Split(count), config, three):
    assert batch.crops.shape == (2 * devices, 2, PX, PX, 3)
    rows += batch.index[batch.valid].tolist()
    crops += list(batch.crops[batch.valid])
  assert rows == list(range(count))
  for row, seen in enumerate(crops):
    expected = tta.crops(example(row), three.augmentations[1:], PX)
    np.testing.assert_array_equal(seen, expected)
  shares = [
    [batch.index for batch in tta.batches(Split(count), config, three, i, 2)]
    for i in range(2)
  ]
  joined = np.concatenate([np.concatenate(pair) for pair in zip(*shares, strict=True)])
  assert joined[joined >= 0].tolist() == list(range(count))


def test_a_bad_picture_is_named():
  split = Split(3)
  split.__class__ = type("Bad", (Split,), {"__getitem__": lambda _, row: broken(row)})
  with pytest.raises(ValueError, match="spots/test row 0"):
    list(tta.batches(split, config_of(batch_size=1), views(view(0.8))))
  assert isinstance(split, pipeline.Source)


def broken(row):
  return {**example(row), "image": b"no jpeg"}
