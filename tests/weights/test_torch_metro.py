"""The table of names against METRO's own keys, shapes and parameter counts."""

import functools
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import metro
from metro_jax.models.hrnet import HRNet
from metro_jax.weights import torch_metro

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
KEYS = json.loads((GOLDENS / "state_dict_shapes.json").read_text())
COUNTS = json.loads((GOLDENS / "param_counts.json").read_text())
HRNET_KEYS = json.loads((GOLDENS / "state_dict_shapes_hrnet.json").read_text())
NETWORKS = [
  f"{kind}_{backbone}"
  for kind in ("body", "hand")
  for backbone in ("resnet50", "hrnet-w40", "hrnet-w64")
]


def shapes_of(config: Any, joints: int, px: int, **changes: Any) -> Any:
  """The variables' shapes, without making them."""
  levels = MeshLevels(tuple(config.body.levels), (), (), (), ())
  network = metro.build(config, levels).clone(**changes)
  points = [np.zeros((n, 3), np.float32) for n in (joints, levels.counts[-1])]
  images = np.zeros((1, px, px, 3), np.float32)
  return jax.eval_shape(network.init, jax.random.key(0), images, Template(*points))


@functools.cache
def paper_shapes(network: str) -> Any:
  kind, backbone = network.split("_")
  config = base.get_config()
  config.model.backbone = backbone.replace("-", "_")
  if kind == "body":
    return shapes_of(config, 14, 224)
  config.body.levels = (778, 195)
  config.model.hidden_widths = (1024, 256, 64)
  config.model.feedforward_widths = (4096, 1024, 256)
  config.model.token_source = "pooled"
  config.model.camera_tokens = "all"
  config.model.camera_hidden_width = 150
  return shapes_of(config, 21, 224)


def small_shapes(**changes: Any) -> Any:
  config = base.get_config()
  config.body.levels = (9, 6, 4)
  config.model.backbone = "resnet18"
  config.model.backbone_width = 4
  config.model.hidden_widths = (8, 4)
  config.model.output_widths = (6, 3)
  config.model.feedforward_widths = (5, 7)
  config.model.num_layers = 1
  return shapes_of(config, 2, 32, **changes)


def random_values(shapes: Any) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes
  )


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
  """Random values for a small network."""
  return random_values(small_shapes())


@pytest.fixture(scope="module")
def small_hrnet() -> dict[str, Any]:
  """The same with an HRNet."""
  return random_values(small_shapes(backbone=HRNet(2, 4)))


def golden_keys(network: str) -> dict[str, tuple[int, ...]]:
  """Every key with its shape; of the HRNets only the backbones are stored."""
  kind, backbone = network.split("_")
  rest, counters = KEYS[f"{kind}_resnet50"].values()
  if backbone in HRNET_KEYS:
    rest = {k: shape for k, shape in rest.items() if not k.startswith("backbone.")}
    backbone_keys, counters = HRNET_KEYS[backbone].values()
    rest |= backbone_keys
  keys = {key: tuple(shape) for key, shape in rest.items()}
  return keys | dict.fromkeys(counters, ())


@pytest.mark.parametrize("network", NETWORKS)
def test_keys_and_shapes_are_the_released_codes(network: str):
  shapes = paper_shapes(network)
  ours = {entry.key: entry.shape for entry in torch_metro.entries(shapes)}
  assert ours | torch_metro.ignored_shapes(shapes) == golden_keys(network)
  assert len(golden_keys(network)) == COUNTS[network]["num_state_keys"]


def ignored_counts(shapes):
  """Parameters that METRO counts and never uses, without the counters."""
  counts = {"backbone": 0, "encoder": 0}
  for key, shape in torch_metro.ignored_shapes(shapes).items():
    if not key.endswith("num_batches_tracked"):
      module = "backbone" if key.startswith("backbone.") else "encoder"
      counts[module] += math.prod(shape)
  return {**counts, "total": sum(counts.values())}


@pytest.mark.parametrize("network", NETWORKS)
def test_parameter_counts_with_the_ignored_ones_are_the_released_codes(network: str):
  shapes, golden = paper_shapes(network), COUNTS[network]
  counts = metro.parameter_counts(shapes["params"])
  ignored = ignored_counts(shapes)
  assert ignored["total"] == golden["unused_in_forward"]
  assert counts["total"] + ignored["total"] == golden["total"]
  assert counts["encoder"] + ignored["encoder"] == golden["modules"]["trans_encoder"]
  assert counts["backbone"] + ignored["backbone"] == golden["modules"]["backbone"]


def test_metro_w64_counts_what_its_published_log_says():
  shapes = paper_shapes("body_hrnet-w64")
  counts = metro.parameter_counts(shapes["params"])
  ignored = ignored_counts(shapes)
  assert counts["backbone"] + ignored["backbone"] == 128_059_944
  assert counts["encoder"] + ignored["encoder"] == 102_256_646


@pytest.mark.parametrize("network", ["small", "small_hrnet"])
def test_there_and_back_is_bit_exact(network: str, request: pytest.FixtureRequest):
  variables = request.getfixturevalue(network)
  there = torch_metro.to_state_dict(variables)
  back = torch_metro.from_state_dict(there, variables)
  assert jax.tree.structure(back) == jax.tree.structure(variables)
  for ours, theirs in zip(*map(jax.tree.leaves, (variables, back)), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  again = torch_metro.to_state_dict(back)
  assert again.keys() == there.keys()
  assert all((again[key] == there[key]).all() for key in there)


def test_arrays_turn_to_pytorchs_layouts(small: dict[str, Any]):
  state_dict, params = torch_metro.to_state_dict(small), small["params"]
  head = params["encoder"]["block1"]["head"]["kernel"]  # (in, out)
  assert state_dict["trans_encoder.1.cls_head.weight"][2, 3] == head[3, 2]
  kernel = params["backbone"]["layer2_0"]["conv1"]["kernel"]  # (h, w, in, out)
  assert state_dict["backbone.5.0.conv1.weight"][7, 3, 0, 2] == kernel[0, 2, 3, 7]
  mixing = params["token_mixing"]["kernel"]  # (positions, tokens)
  assert state_dict["conv_learn_tokens.weight"][5, 0, 0] == mixing[0, 5]


def test_hrnets_arrays_go_under_hrnets_names(small_hrnet: dict[str, Any]):
  state_dict = torch_metro.to_state_dict(small_hrnet)
  params = small_hrnet["params"]["backbone"]
  names = {
    "conv2": params["stem2"]["conv"],
    "layer1.3.conv3": params["stage1_3"]["conv3"],
    "transition1.0.0": params["transition1_0"]["conv"],
    "transition3.3.0.0": params["transition3_3_0"]["conv"],
    "stage4.2.branches.3.1.conv2": params["stage4_2"]["branches_3_1"]["conv2"],
    "stage4.1.fuse_layers.3.0.2.0": params["stage4_1"]["fuse_layers_3_0_2"]["conv"],
    "incre_modules.2.0.downsample.0": params["incre_modules_2_0"]["downsample_conv"],
    "downsamp_modules.2.0": params["downsamp_modules_2"]["conv"],
  }
  for name, module in names.items():
    expected = module["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(state_dict[f"backbone.{name}.weight"], expected)
  bias = params["final_layer"]["conv"]["bias"]
  np.testing.assert_array_equal(state_dict["backbone.final_layer.0.bias"], bias)
  assert not state_dict["backbone.classifier.weight"].any()


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
