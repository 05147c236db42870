"""The table of names against METRO's own keys, shapes and parameter counts."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import metro
from metro_jax.weights import torch_metro

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
KEYS = json.loads((GOLDENS / "state_dict_shapes.json").read_text())
COUNTS = json.loads((GOLDENS / "param_counts.json").read_text())
KINDS = ("body", "hand")


def shapes_of(config: Any, joints: int, px: int) -> Any:
  """The variables' shapes, without making them."""
  levels = MeshLevels(tuple(config.body.levels), (), (), (), ())
  network = metro.build(config, levels)
  points = [np.zeros((n, 3), np.float32) for n in (joints, levels.counts[-1])]
  images = np.zeros((1, px, px, 3), np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), images, Template(*points))


def paper_shapes(kind: str) -> Any:
  config = base.get_config()
  if kind == "body":
    return shapes_of(config, 14, 224)
  config.body.levels = (778, 195)
  config.model.hidden_widths = (1024, 256, 64)
  config.model.feedforward_widths = (4096, 1024, 256)
  config.model.token_source = "pooled"
  config.model.camera_tokens = "all"
  config.model.camera_hidden_width = 150
  return shapes_of(config, 21, 224)


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
  """Random values for a small network."""
  config = base.get_config()
  config.body.levels = (9, 6, 4)
  config.model.backbone = "resnet18"
  config.model.backbone_width = 4
  config.model.hidden_widths = (8, 4)
  config.model.output_widths = (6, 3)
  config.model.feedforward_widths = (5, 7)
  config.model.num_layers = 1
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
    shapes_of(config, 2, 32),
  )


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_shapes_are_the_released_codes(kind: str):
  golden = KEYS[f"{kind}_resnet50"]
  expected = {key: tuple(shape) for key, shape in golden["keys"].items()}
  expected |= dict.fromkeys(golden["num_batches_tracked"], ())
  shapes = paper_shapes(kind)
  ours = {entry.key: entry.shape for entry in torch_metro.entries(shapes)}
  assert ours | torch_metro.ignored_shapes(shapes) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_counts_with_the_ignored_ones_are_the_released_codes(kind: str):
  shapes, golden = paper_shapes(kind), COUNTS[f"{kind}_resnet50"]
  counts = metro.parameter_counts(shapes["params"])
  ignored = torch_metro.ignored_count(shapes)
  assert ignored == golden["unused_in_forward"]
  assert counts["total"] + ignored == golden["total"]
  assert counts["encoder"] + ignored == golden["modules"]["trans_encoder"]
  assert counts["backbone"] == golden["modules"]["backbone"]


def test_there_and_back_is_bit_exact(small: dict[str, Any]):
  back = torch_metro.from_state_dict(torch_metro.to_state_dict(small), small)
  assert jax.tree.structure(back) == jax.tree.structure(small)
  for ours, theirs in zip(*map(jax.tree.leaves, (small, back)), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_arrays_turn_to_pytorchs_layouts(small: dict[str, Any]):
  state_dict, params = torch_metro.to_state_dict(small), small["params"]
  head = params["encoder"]["block1"]["head"]["kernel"]  # (in, out)
  assert state_dict["trans_encoder.1.cls_head.weight"][2, 3] == head[3, 2]
  kernel = params["backbone"]["layer2_0"]["conv1"]["kernel"]  # (h, w, in, out)
  assert state_dict["backbone.5.0.conv1.weight"][7, 3, 0, 2] == kernel[0, 2, 3, 7]
  mixing = params["token_mixing"]["kernel"]  # (positions, tokens)
  assert state_dict["conv_learn_tokens.weight"][5, 0, 0] == mixing[0, 5]


def test_what_metro_never_uses_is_written_as_zeros(small: dict[str, Any]):
  state_dict = torch_metro.to_state_dict(small)
  words = state_dict["trans_encoder.1.bert.embeddings.word_embeddings.weight"]
  assert words.shape == (30522, 4)
  assert not words.any()
  assert state_dict["backbone.1.num_batches_tracked"].dtype == np.int64


def test_every_fault_of_a_state_dict_is_said_at_once(small: dict[str, Any]):
  state_dict = torch_metro.to_state_dict(small)
  del state_dict["cam_param_fc.bias"], state_dict["backbone.1.running_var"]
  del state_dict["trans_encoder.0.bert.pooler.dense.bias"]  # not needed
  state_dict["classifier.weight"] = np.zeros(3, np.float32)
  state_dict["upsampling.weight"] = state_dict["upsampling.weight"].T
  with pytest.raises(ValueError, match="state dict does not fit") as caught:
    torch_metro.from_state_dict(state_dict, small)
  message = str(caught.value)
  assert "2 missing: " in message
  assert "cam_param_fc.bias" in message
  assert "backbone.1.running_var" in message
  assert "1 unexpected: classifier.weight" in message
  assert "upsampling.weight (expected (6, 4), got (4, 6))" in message
  assert "pooler" not in message


def test_ignored_keys_are_counted(small: dict[str, Any]):
  state_dict = torch_metro.to_state_dict(small)
  fit = torch_metro.fit({k: v.shape for k, v in state_dict.items()}, small)
  batch_norms = sum(key.endswith("running_mean") for key in state_dict)
  assert len(fit.ignored) == 2 * 7 + batch_norms


def test_a_module_that_metro_lacks_is_named():
  tree = {"params": {"extra": {"bias": np.zeros(3)}}, "batch_stats": {}}
  with pytest.raises(ValueError, match="METRO has no module for extra"):
    torch_metro.entries(tree)
