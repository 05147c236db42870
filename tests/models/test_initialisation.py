"""First weights and dropout places of the released recipe, by what they do."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import encoder, metro
from tests.fixtures.calls import Calls

COUNTS = (90, 60, 40)  # vertices a level, fine to coarse
JOINTS = 14
CHANNELS = 61  # of the image's map, 2 x 2


quick = functools.partial(  # runs once, so compiling is what takes time
  jax.jit,
  compiler_options={
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  },
)


class Map(nn.Module):
  """A backbone without weights."""

  @nn.compact
  def __call__(self, images: Any, train: bool = False) -> Any:
    return jnp.zeros((len(images), 2, 2, CHANNELS))


@pytest.fixture(scope="module")
def first_weights() -> dict[tuple[str, ...], np.ndarray]:
  """The base config's first weights, by path, in a network of narrower blocks."""
  config = base.get_config()
  config.body.levels = COUNTS
  config.model.hidden_widths = (128, 64)
  config.model.output_widths = (64, 3)
  config.model.feedforward_widths = (192, 192)
  config.model.num_layers = 1
  levels = MeshLevels(COUNTS, (), (), (), ())
  network = metro.build(config, levels).clone(backbone=Map())
  template = Template(np.zeros((JOINTS, 3)), np.zeros((COUNTS[-1], 3)))
  images = np.zeros((1, 64, 64, 3), np.float32)
  variables = quick(network.init)(jax.random.key(0, impl="rbg"), images, template)
  flat = flax.traverse_util.flatten_dict(variables["params"])
  return {path: np.asarray(value) for path, value in flat.items()}


def inside(weights: dict[tuple[str, ...], np.ndarray]) -> Any:
  """What lies in the encoder's blocks."""
  return {path: value for path, value in weights.items() if path[0] == "encoder"}


def test_every_map_and_embedding_of_the_blocks_starts_normal_with_deviation_002(
  first_weights,
):
  drawn = {
    path: value
    for path, value in inside(first_weights).items()
    if path[-1] in ("kernel", "position_embedding")
  }
  # Each block: 6 maps a layer, the embedding, the head, the shortcut, the positions.
  assert len(drawn) == 2 * (6 + 4)
  for path, value in drawn.items():
    sampling = 5 / np.sqrt(2 * value.size)
    assert value.std() == pytest.approx(0.02, rel=sampling), path
    assert abs(value.mean()) < 0.02 * 5 / np.sqrt(value.size), path
  every = np.concatenate([value.ravel() for value in drawn.values()]) / 0.02
  # Neither uniform nor cut off at two deviations, as other defaults are.
  for deviations, share in ((1, 0.31731), (2, 0.04550), (3, 0.0026998)):
    assert (abs(every) > deviations).mean() == pytest.approx(share, rel=0.15)


def test_biases_of_the_blocks_start_as_zeros_and_norms_as_identities(first_weights):
  biases = {p: v for p, v in inside(first_weights).items() if p[-1] == "bias"}
  scales = {p: v for p, v in inside(first_weights).items() if p[-1] == "scale"}
  assert len(biases) == 2 * (8 + 3)  # 6 maps and 2 norms a layer
  assert len(scales) == 2 * 2
  assert not any(value.any() for value in biases.values())
  assert all((value == 1).all() for value in scales.values())


# PyTorch: weights and biases alike are U(-1/sqrt(fan in), 1/sqrt(fan in)).
FAN_INS = {
  "token_mixing": 4,
  "camera_coordinates": 3,
  "camera_hidden": 40,
  "camera_output": 250,
  "upsampling0": 40,
  "upsampling1": 60,
}


def test_all_outside_the_blocks_starts_as_pytorchs_layers_do(first_weights):
  outside = {p: v for p, v in first_weights.items() if p[0] != "encoder"}
  modules = itertools.product(FAN_INS, ("kernel", "bias"))
  assert outside.keys() == set(modules)
  for (module, _), value in outside.items():
    bound = FAN_INS[module] ** -0.5
    assert abs(value).max() <= bound
    if value.size > 30:
      sampling = 4 / np.sqrt(value.size)
      assert value.std() == pytest.approx(bound / np.sqrt(3), rel=sampling)
      assert abs(value.mean()) < bound * sampling
      assert abs(value).max() > bound * (1 - 8 / value.size)


def test_no_two_arrays_start_alike(first_weights):
  drawn = [v.ravel()[:8] for v in first_weights.values() if v.any() and v.std()]
  starts = np.array([value for value in drawn if value.size == 8])
  assert len(np.unique(starts, axis=0)) == len(starts) > 20


RATE, TOKENS, WIDTH, HEADS = 0.5, 6, 32, 2
LARGE = 1e6  # next to what it is added to


@pytest.fixture(scope="module")
def dropped() -> dict[str, np.ndarray]:
  """Inner values of one layer in training, with weights that show each dropout.

  Positions are ones and all kernels zeros: every token is alike, attention is even,
  and biases are what the context and the two output projections give.
  """
  settings = encoder.EncoderSettings((WIDTH,), (3,), (8,), 1, HEADS, TOKENS, RATE)
  block = encoder.Encoder(settings)
  tokens = jnp.zeros((1, TOKENS, 5))
  shapes = jax.eval_shape(block.init, jax.random.key(0), tokens)
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  ones = params["params"]["block0"]
  ones["position_embedding"] += 1
  layer = ones["layer0"]
  layer["attention"]["value"]["bias"] += 1
  for name in ("attention", "feedforward"):
    layer[f"{name}_output"]["bias"] += LARGE
  for name in ("attention", "output"):
    layer[f"{name}_norm"]["scale"] += 1

  @quick
  def run(key: jax.Array) -> Any:
    calls = Calls()
    with nn.intercept_methods(calls):
      block.apply(params, tokens, True, rngs={"dropout": key})
    return calls.outputs

  found, layer = run(jax.random.key(1)), "block0/layer0"
  paths = {
    "embed": "block0/Dropout_0",
    "ctx": f"{layer}/attention",
    "attn": f"{layer}/attention_norm",
    "output": f"{layer}/output_norm",
  }
  return {name: np.asarray(found[path])[0] for name, path in paths.items()}


def test_dropout_stands_after_the_embedding_with_its_positions(dropped):
  values, counts = np.unique(dropped["embed"], return_counts=True)
  np.testing.assert_array_equal(values, [0, 2])  # 1 / (1 - 0.5)
  assert 0.35 < counts[0] / counts.sum() < 0.65


def test_dropout_stands_on_the_attentions_probabilities(dropped):
  heads = dropped["ctx"].reshape(TOKENS, HEADS, -1)
  np.testing.assert_array_equal(heads, np.broadcast_to(heads[..., :1], heads.shape))
  kept = heads[..., 0] / 2 * TOKENS  # of the probabilities, 1/6 each
  np.testing.assert_allclose(kept, kept.round(), atol=1e-5)
  assert len(np.unique(kept.round())) > 2


@pytest.mark.parametrize("place", ["attn", "output"])
def test_dropout_stands_between_a_projection_and_its_norm(dropped, place):
  for row in dropped[place]:
    values, counts = np.unique(row.round(3), return_counts=True)
    kept = counts[1] / counts.sum()
    # The norm of a row of zeros and twos.
    expected = np.array([-kept, 1 - kept]) / np.sqrt(kept * (1 - kept))
    np.testing.assert_allclose(values, expected, atol=1e-3)
