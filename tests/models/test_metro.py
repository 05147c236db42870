"""The whole network on small numbers: tokens, masks, heads, first weights, types."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from metro_jax import config as base
from metro_jax.body import mesh_levels
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import encoder, metro
from tests.fixtures.calls import Calls

COUNTS = (12, 7, 5)
JOINTS = 3
RNG = np.random.default_rng(0)
TEMPLATE = Template(
  RNG.standard_normal((JOINTS, 3)).astype(np.float32),
  RNG.standard_normal((COUNTS[-1], 3)).astype(np.float32),
)
IMAGES = RNG.standard_normal((2, 64, 64, 3)).astype(np.float32)


class Patches(nn.Module):
  """A backbone that compiles in no time: a linear map of the means of 2x2 patches."""

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
    means = images.reshape(len(images), 2, 32, 2, 32, 3).mean((2, 4))
    return nn.Dense(6)(10 * means)


def levels() -> MeshLevels:
  """Levels whose upsampling means something only to linear algebra."""
  pairs = list(itertools.pairwise(COUNTS))
  index = [
    RNG.integers(0, coarse, (fine, 3)).astype(np.int32) for fine, coarse in pairs
  ]
  weight = [RNG.dirichlet(np.ones(3), fine).astype(np.float32) for fine, _ in pairs]
  return MeshLevels(COUNTS, (), tuple(index), tuple(weight), ())


LEVELS = levels()


def small_config(**model: Any) -> ConfigDict:
  config = base.get_config()
  config.body.levels = COUNTS
  config.model.backbone = "resnet18"
  config.model.backbone_width = 4
  config.model.hidden_widths = (16, 8)
  config.model.output_widths = (8, 3)
  config.model.feedforward_widths = (32, 16)
  config.model.num_layers = 1
  config.model.max_positions = 10
  config.model.camera_hidden_width = 6
  config.model.update(model)
  return config


def network_with_weights(**model: Any) -> tuple[metro.METRO, dict[str, Any]]:
  """A network and NumPy's weights for it, since drawing JAX's compiles for seconds."""
  network = metro.build(small_config(**model), LEVELS, axis_name=None)
  network = network.clone(backbone=Patches())
  shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES, TEMPLATE)
  rng = np.random.default_rng(1)
  return network, jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes
  )


@pytest.fixture(scope="module")
def body() -> tuple[metro.METRO, dict[str, Any]]:
  return network_with_weights()


def encoder_input(network: metro.METRO, variables: Any, mask: Any) -> np.ndarray:
  @jax.jit
  def run(variables: Any, mask: Any) -> Any:
    calls = Calls()
    with nn.intercept_methods(calls):
      network.apply(variables, IMAGES, TEMPLATE, mask)
    return calls.inputs["encoder"]

  return np.asarray(run(variables, mask))


def test_a_masked_token_loses_its_image_and_its_template(body):
  mask = np.zeros((2, JOINTS + COUNTS[-1]), bool)
  mask[0, 1] = mask[1, 6] = True
  masked, plain = (encoder_input(*body, m) for m in (mask, np.zeros_like(mask)))
  assert (masked[mask] == np.float32(0.01)).all()
  np.testing.assert_array_equal(masked[~mask], plain[~mask])
  queries = np.concatenate([TEMPLATE.joints, TEMPLATE.vertices])
  np.testing.assert_array_equal(plain[..., :3], [queries, queries])


def test_levels_come_coarse_to_fine_and_start_as_the_meshs_interpolation():
  network, variables = network_with_weights(upsampling_init="barycentric")

  @jax.jit
  def first_weights(key: jax.Array) -> Any:
    params = network.init(key, IMAGES, TEMPLATE)["params"]
    return {name: params[name] for name in ("upsampling0", "upsampling1")}

  variables["params"] |= first_weights(jax.random.key(0))
  prediction = jax.jit(network.apply)(variables, IMAGES, TEMPLATE)
  assert [v.shape[1] for v in prediction.vertices] == [5, 7, 12]
  coarse = np.asarray(prediction.vertices[0])
  for level in (1, 0):
    coarse = mesh_levels.upsample_matrix(LEVELS, level) @ coarse
    np.testing.assert_allclose(prediction.vertices[2 - level], coarse, atol=1e-5)


def test_a_short_runs_first_weights_tell_queries_apart_and_see_two_metres():
  chosen = {"init_std": 0.1, "position_std": 0.5, "output_std": 0.005}
  config = small_config(**chosen, camera_init="unit", hidden_widths=(64, 64))
  network = metro.build(config, LEVELS, axis_name=None).clone(backbone=Patches())
  key = jax.random.key(0)
  made, variables = jax.jit(network.init_with_output)(key, IMAGES, TEMPLATE)
  np.testing.assert_array_equal(made.camera, [[1, 0, 0]] * 2)
  first, last = (variables["params"]["encoder"][f"block{n}"] for n in (0, 1))
  for block in (first, last):
    assert np.std(block["position_embedding"]) == pytest.approx(0.5, rel=0.15)
  assert np.std(first["head"]["kernel"]) == pytest.approx(0.1, rel=0.15)
  assert np.std(last["head"]["kernel"]) == pytest.approx(0.005, rel=0.3)
  assert np.std(last["residual"]["kernel"]) == pytest.approx(0.005, rel=0.5)


def test_the_camera_is_two_linear_maps_over_one_number_a_vertex(body):
  network, variables = body
  prediction = jax.jit(network.apply)(variables, IMAGES, TEMPLATE)
  params = jax.tree.map(np.asarray, variables["params"])
  names = "camera_coordinates", "camera_hidden", "camera_output"
  first, second, third = (params[name] for name in names)
  x = np.asarray(prediction.vertices[0]) @ first["kernel"] + first["bias"]
  x = x[..., 0] @ second["kernel"] + second["bias"]
  expected = x @ third["kernel"] + third["bias"]
  np.testing.assert_allclose(prediction.camera, expected, atol=1e-5)


def test_a_hand_repeats_the_maps_mean_and_has_a_camera_of_all_tokens():
  network, variables = network_with_weights(token_source="pooled", camera_tokens="all")
  assert "token_mixing" not in variables["params"]
  assert variables["params"]["camera_hidden"]["kernel"].shape == (8, 6)
  image_tokens = encoder_input(network, variables, None)[..., 3:]
  features = network.backbone.apply(
    {"params": variables["params"]["backbone"]}, jnp.asarray(IMAGES)
  )
  mean = np.asarray(features).mean((1, 2))
  expected = np.broadcast_to(mean[:, None], image_tokens.shape)
  np.testing.assert_allclose(image_tokens, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32(body):
  network, variables = network_with_weights(compute_dtype="bfloat16")
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  prediction = jax.jit(network.apply)(variables, IMAGES, TEMPLATE)
  exact = jax.jit(body[0].apply)(variables, IMAGES, TEMPLATE)
  for ours, theirs in zip(*map(jax.tree.leaves, (prediction, exact)), strict=True):
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    assert (ours != theirs).any()


def test_dropout_stands_at_four_places():
  widths = (8,), (3,), (16,)
  block = encoder.Encoder(encoder.EncoderSettings(*widths, 2, 2, dropout=0.5))
  tokens = jnp.zeros((1, 4, 5))
  shapes = jax.eval_shape(block.init, jax.random.key(0), tokens)
  variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)

  def draws(train: bool) -> int:
    rngs = {"dropout": jax.random.key(0)}
    program = jax.make_jaxpr(lambda x: block.apply(variables, x, train, rngs=rngs))
    return str(program(tokens)).count("random_bits[")

  assert draws(False) == 0
  # The embedding, then a layer: attention weights and the two output projections.
  assert draws(True) == 1 + 2 * 3


def test_more_tokens_than_positions_are_refused():
  network = metro.build(small_config(max_positions=7), LEVELS, axis_name=None)
  with pytest.raises(ValueError, match="at most max_positions = 7 tokens, got 8"):
    jax.eval_shape(network.init, jax.random.key(0), IMAGES, TEMPLATE)


def test_other_mesh_levels_than_the_configs_are_refused():
  config = small_config()
  config.body.levels = (12, 7)
  with pytest.raises(ValueError, match=r"body.levels: expected .*\(12, 7, 5\)"):
    metro.build(config, LEVELS)
