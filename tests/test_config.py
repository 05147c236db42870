"""A wrong config fails with the key, before any device starts."""

import pathlib
import runpy

import pytest

from metro_jax import config as base
from metro_jax.data.builders.synthetic import scene

CONFIGS = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_passes_its_own_checks(path):
  base.validate(runpy.run_path(str(path))["get_config"]())


@pytest.mark.parametrize(
  ("file", "variants"),
  [
    ("h36m", "hrnet_w64"),
    ("h36m", "released,eval"),
    ("pw3d", "gendered,released"),
    ("freihand", "hrnet_w64,released"),
  ],
)
def test_variants_join_and_pass_their_checks(file, variants):
  path = next(path for path in CONFIGS if path.stem == file)
  make = runpy.run_path(str(path))["get_config"]
  config, plain = make(variants), make()
  base.validate(config)
  assert (config.model.backbone == "hrnet_w64") is ("hrnet_w64" in variants)
  assert (config.loss.recipe == "released") is ("released" in variants)
  assert plain.model.backbone == "resnet50" and plain.loss.recipe == "paper"
  with pytest.raises(
    ValueError, match=rf"configs/{file}\.py: expected .* got 'resnet'"
  ):
    make("resnet")


def test_a_misspelt_key_is_refused_and_the_nearest_one_named():
  config = base.get_config()
  with pytest.raises(AttributeError, match="learning_rate"):
    config.optimizer.learning_rat = 1.0


@pytest.mark.parametrize(
  ("section", "key", "value", "message"),
  [
    ("model", "backbone", "resnet51", "model.backbone: expected one of resnet18"),
    ("data", "passes", 3, "data.passes: expected one of 1, 2, got 3"),
    ("data", "read_threads", -1, "data.read_threads: expected zero or more, got -1"),
    ("data", "prefetch_batches", 0, "prefetch_batches: expected a positive number"),
    ("model", "backbone_weights", "embedded", "model.backbone: expected blazepose wi"),
    ("model", "output_widths", (512, 3), "model.output_widths: expected 3 widths"),
    ("model", "output_widths", (512, 128, 4), "expected a last width of 3"),
    ("model", "hidden_widths", (1022, 256, 128), "multiples of num_heads"),
    ("model", "mask_fraction", 1.5, "model.mask_fraction: expected a share"),
    ("optimizer", "learning_rate", -1.0, "learning_rate: expected a positive"),
    ("train", "batch_size", 0, "train.batch_size: expected a positive"),
    ("data", "image_px", 100, "data.image_px: expected a multiple of 32"),
    ("model", "max_positions", 444, "max_positions: expected at least 445, one for"),
    ("body", "levels", (431, 1723), "body.levels: expected .* fine to coarse"),
    ("loss", "vertex_levels", (1.0, 1.0), "loss.vertex_levels: expected 3 shares"),
    ("eval", "ground_truth", "gendered", "'gendered' only with body.model smpl"),
    ("data", "train", (), "data.train: expected at least one dataset"),
    ("data", "train", ("h36m",), r"data.train\[0\]: expected \"name/split\""),
    ("data", "test", "a/b/c", 'data.test: expected "name/split"'),
    ("data", "weights", (1.0, 2.0), "data.weights: expected 1 positive numbers"),
    ("loss", "recipe", "papre", "loss.recipe: expected one of paper, released"),
  ],
)
def test_impossible_values_are_refused_by_key(section, key, value, message):
  config = base.get_config()
  config[section][key] = value
  with pytest.raises(ValueError, match=message):
    base.validate(config)


def test_poses_are_those_that_the_scene_draws():
  config = base.get_config()
  for poses in scene.POSES:
    config.data.synthetic.poses = poses
    base.validate(config)


def test_unknown_poses_of_synthetic_pictures_are_refused():
  config = base.get_config()
  config.data.synthetic.poses = "dances"
  with pytest.raises(ValueError, match="poses: expected one of stances, motions"):
    base.validate(config)


def test_a_hand_is_never_mirrored():
  config = base.get_config()
  config.body.model = "mano"
  config.body.levels = (778, 195)
  config.loss.vertex_levels = (1.0, 1.0)
  with pytest.raises(ValueError, match=r"flip_probability: expected 0 of a hand"):
    base.validate(config)
  config.data.augment.flip_probability = 0.0
  base.validate(config)
