"""A wrong config fails with the key, before any device starts."""

import pathlib
import runpy

import pytest

from metro_jax import config as base

CONFIGS = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_passes_its_own_checks(path):
  base.validate(runpy.run_path(str(path))["get_config"]())


def test_a_misspelt_key_is_refused_and_the_nearest_one_named():
  config = base.get_config()
  with pytest.raises(AttributeError, match="learning_rate"):
    config.optimizer.learning_rat = 1.0


@pytest.mark.parametrize(
  ("section", "key", "value", "message"),
  [
    ("model", "backbone", "resnet51", "model.backbone: expected one of resnet18"),
    ("model", "output_widths", (512, 3), "model.output_widths: expected 3 widths"),
    ("model", "output_widths", (512, 128, 4), "expected a last width of 3"),
    ("model", "hidden_widths", (1022, 256, 128), "multiples of num_heads"),
    ("model", "mask_fraction", 1.5, "model.mask_fraction: expected a share"),
    ("optimizer", "learning_rate", -1.0, "learning_rate: expected a positive"),
    ("train", "batch_size", 0, "train.batch_size: expected a positive"),
    ("data", "image_px", 100, "data.image_px: expected a multiple of 32"),
    ("body", "levels", (431, 1723), "body.levels: expected .* fine to coarse"),
    ("loss", "vertex_levels", (1.0, 1.0), "loss.vertex_levels: expected 3 shares"),
    ("loss", "recipe", "papre", "loss.recipe: expected one of paper, released"),
  ],
)
def test_impossible_values_are_refused_by_key(section, key, value, message):
  config = base.get_config()
  config[section][key] = value
  with pytest.raises(ValueError, match=message):
    base.validate(config)
