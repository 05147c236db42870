import json

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.checkpoints import runs
from metro_jax.checkpoints.checkpoint import ArchitectureError, Checkpoints
from metro_jax.models import setup


def small_config():
  config = base.get_config()
  config.body.levels = (6890, 1723, 431, 108)
  config.loss.vertex_levels = (1.0, 1.0, 1.0, 1.0)
  config.data.image_px = 32
  config.model.backbone = "resnet18"
  config.model.backbone_width = 4
  config.model.hidden_widths = (8,)
  config.model.output_widths = (3,)
  config.model.feedforward_widths = (8,)
  config.model.num_layers = 1
  config.model.max_positions = 128
  return config


def test_a_saved_config_is_read_back_with_its_tuples(tmp_path):
  runs.save_config(tmp_path, small_config())
  loaded = runs.load_config(tmp_path)
  assert loaded.to_dict() == small_config().to_dict()
  assert loaded.model.hidden_widths == (8,)
  assert loaded.is_locked
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_overrides_replace_what_the_run_had(tmp_path):
  runs.save_config(tmp_path, small_config())
  loaded = runs.load_config(tmp_path, {"eval.batch_size": 8})
  assert loaded.eval.batch_size == 8 and loaded.data.image_px == 32


def test_a_run_from_before_a_key_existed_gets_its_default(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"train": {"num_steps": 7}}))
  loaded = runs.load_config(tmp_path)
  assert loaded.train.num_steps == 7
  assert loaded.train.batch_size == base.get_config().train.batch_size


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"train": {"num_stepz": 7}}', "num_stepz"),
    ('{"trian": {"num_steps": 7}}', "trian"),
    ('{"train": {"num_steps": "many"}}', "many|str"),
    ('{"train": {"num_steps": 0}}', "config.train.num_steps: expected a positive"),
    ('{"train": ', "config.json"),
  ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=message) as caught:
    runs.load_config(tmp_path)
  assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"expected a training run.*found none"):
    runs.load_config(tmp_path)


def test_a_network_comes_back_from_its_checkpoint(tmp_path):
  config = small_config()
  runs.save_config(tmp_path, config)
  network = setup.build(config)
  shapes = setup.variable_shapes(network, config)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), shapes
  )
  with Checkpoints(tmp_path / runs.CHECKPOINT_FOLDER) as checkpoints:
    stored = json.loads(json.dumps(config.to_dict()))
    checkpoints.save({**variables, "step": np.array(5)}, 5, {"step": 5}, None, stored)
  # A later start had other settings, which did not make these weights.
  later = config.copy_and_resolve_references()
  later.optimizer.learning_rate, later.eval.batch_size = 0.5, 7
  runs.save_config(tmp_path, later)
  run = runs.load(tmp_path, "latest")
  assert run.step == 5
  assert run.config.optimizer.learning_rate == config.optimizer.learning_rate == 1e-4
  assert run.config.eval.batch_size == 7  # how to measure is no part of them
  assert run.training == (("synthetic/train",), "", 5)
  other = runs.load(tmp_path, "latest", {"data.train": ("mine/train",)})
  assert other.config.data.train == ("mine/train",) and other.training == run.training
  jax.tree.map(np.testing.assert_array_equal, run.variables, variables)
  with pytest.raises(ArchitectureError, match="expected the config's architecture"):
    runs.load(tmp_path, "latest", {"model.backbone_width": 8})


def test_checkpoints_are_named_by_best_latest_or_step():
  parsed = [runs.parse_checkpoint(text) for text in ("best", "latest", "12")]
  assert parsed == ["best", "latest", 12]
  with pytest.raises(ValueError, match="expected best, latest or a step, got 'last'"):
    runs.parse_checkpoint("last")
