"""ImageNet weights under torchvision's and HRNet's names."""

import json
import pathlib

import jax
import numpy as np
import pytest

from metro_jax.models.resnet import ResNet
from metro_jax.weights import imagenet, weight_files

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


def shapes_of(variant, width=64):
  images = np.zeros((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(ResNet(variant, width).init, jax.random.key(0), images)
  return {name: {"backbone": shapes[name]} for name in ("params", "batch_stats")}


@pytest.fixture(scope="module")
def small():
  rng = np.random.default_rng(0)
  shapes = shapes_of("resnet18", 4)
  return shapes, {
    entry.key: rng.standard_normal(entry.shape).astype(np.float32)
    for entry in imagenet.entries(shapes)
  }


# torchvision's state dicts without fc and num_batches_tracked.
@pytest.mark.parametrize(
  ("variant", "count"), [("resnet18", 100), ("resnet34", 180), ("resnet50", 265)]
)
def test_names_are_torchvisions(variant, count):
  ours = {entry.key: entry.shape for entry in imagenet.entries(shapes_of(variant))}
  assert len(ours) == count
  assert ours["conv1.weight"] == (64, 3, 7, 7)
  assert ours["bn1.running_var"] == (64,)
  assert "layer2.0.downsample.1.running_mean" in ours
  if variant == "resnet50":
    assert ours["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert ours["layer4.2.conv3.weight"] == (2048, 512, 1, 1)


def test_kernels_turn_to_our_layout_and_the_classifier_is_ignored(small, tmp_path):
  shapes, arrays = small
  extra = {
    "fc.weight": np.ones((5, 32), np.float32),
    "fc.bias": np.ones(5, np.float32),
    "bn1.num_batches_tracked": np.zeros((), np.int64),
  }
  weight_files.write(tmp_path / "x.safetensors", {**arrays, **extra})
  loaded = imagenet.load(tmp_path / "x.safetensors", shapes)
  assert loaded.ignored == 3
  backbone = loaded.variables["params"]["backbone"]
  kernel = backbone["layer2_0"]["conv1"]["kernel"]  # (h, w, in, out)
  assert kernel[0, 2, 3, 7] == arrays["layer2.0.conv1.weight"][7, 3, 0, 2]
  mean = loaded.variables["batch_stats"]["backbone"]["layer4_1"]["bn2"]["mean"]
  np.testing.assert_array_equal(mean, arrays["layer4.1.bn2.running_mean"])
  assert jax.tree.structure(loaded.variables) == jax.tree.structure(shapes)


def test_every_fault_is_said_at_once_under_the_files_names(small, tmp_path):
  shapes, arrays = small
  arrays = {**arrays, "stem.bias": np.zeros(3, np.float32)}
  del arrays["layer3.1.conv2.weight"]
  arrays["conv1.weight"] = arrays["conv1.weight"][:2]
  weight_files.write(tmp_path / "x.npz", arrays)
  with pytest.raises(ValueError, match=r"x\.npz: ") as caught:
    imagenet.load(tmp_path / "x.npz", shapes)
  message = str(caught.value)
  assert "1 missing: layer3.1.conv2.weight" in message
  assert "1 unexpected: stem.bias" in message
  assert "conv1.weight (expected (4, 3, 7, 7), got (2, 3, 7, 7))" in message


def test_hrnets_names_are_its_own():
  from metro_jax.models.hrnet import HRNet

  golden = json.loads((GOLDENS / "state_dict_shapes_hrnet.json").read_text())
  images = np.zeros((1, 64, 64, 3), np.float32)
  shapes = jax.eval_shape(HRNet(64).init, jax.random.key(0), images)
  shapes = {name: {"backbone": shapes[name]} for name in ("params", "batch_stats")}
  ours = {entry.key: entry.shape for entry in imagenet.entries(shapes)}
  theirs = {
    key.removeprefix("backbone."): tuple(shape)
    for key, shape in golden["hrnet-w64"]["keys"].items()
    if key.startswith("backbone.") and ".classifier." not in key
  }
  assert ours == theirs
