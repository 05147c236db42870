"""BlazePose's backbone against LiteRT's run of the released file."""

import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.asset_builds import build_blazepose
from metro_jax.models.blazepose import BlazePose, Block, InvertedBottleneck
from metro_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from metro_jax.weights import blazepose
from tests.fixtures.calls import Calls

# LiteRT's last map of `picture`, every second row, column and channel.
GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "blazepose.npz"
# Of a map's largest number; both compute in float32, in other orders.
TOLERANCE = 5e-5


def picture(px: int) -> np.ndarray:
  """Stripes that turn and widen behind a disc, RGB in [0, 1]."""
  v, u = (np.mgrid[:px, :px] + 0.5) / px
  phases = np.stack([9 * u * v + 7 * u + c - 5 * v * v for c in range(3)], -1)
  disc = np.hypot(u - 0.55, v - 0.4) < 0.2
  rgb = np.where(disc[..., None], (0.8, 0.6, 0.5), 0.5 + 0.5 * np.sin(3 * phases))
  return rgb[None].astype(np.float32)


@pytest.fixture(scope="module")
def params():
  images = jnp.zeros((1, 32, 32, 3))
  shapes = jax.eval_shape(BlazePose().init, jax.random.key(0), images)
  loaded = blazepose.load("embedded", {"params": {"backbone": shapes["params"]}})
  return {"params": loaded.variables["params"]["backbone"]}


@pytest.fixture(scope="module")
def small_map(params):
  return jax.jit(BlazePose().apply)(params, picture(64))


def expect_close(ours, theirs, tolerance=TOLERANCE):
  gap = np.abs(np.asarray(ours, np.float32) - theirs).max()
  assert gap < tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("px", [256, 192])
def test_the_map_is_litert_s(px, params):
  with np.load(GOLDENS) as goldens:
    theirs = goldens[f"map_{px}px"]
  ours = jax.jit(BlazePose().apply)(params, picture(px))
  assert ours.shape == (1, px // 32, px // 32, 144)
  expect_close(ours[0, ::2, ::2, ::2], theirs)


def test_normalized_pictures_give_the_same_map(params, small_map):
  mean, std = (np.asarray(c, np.float32) for c in (IMAGENET_MEAN, IMAGENET_STD))
  normalized = jax.jit(BlazePose(normalized=True).apply)
  expect_close(normalized(params, (picture(64) - mean) / std), small_map)


def test_bfloat16_arithmetic_leaves_parameters_in_float32():
  network = BlazePose(dtype=jnp.bfloat16)
  features, fresh = jax.eval_shape(
    lambda key: network.init_with_output(key, jnp.zeros((2, 64, 96, 3))),
    jax.random.key(0),
  )
  assert features.shape == (2, 2, 3, 144) and features.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_bfloat16_moves_features_hardly_more_than_rounding_the_weights(
  params, small_map
):
  network = BlazePose(dtype=jnp.bfloat16)
  # Rounding the weights alone moves them by a tenth.
  rounded = jax.jit(network.apply)(params, picture(64)).astype(jnp.float32)
  assert jnp.linalg.norm(rounded - small_map) < 0.25 * jnp.linalg.norm(small_map)


def test_a_fresh_block_keeps_the_size_of_what_it_is_given():
  block = InvertedBottleneck(Block(96, 5, 1, 24), None)
  x = jax.random.normal(jax.random.key(1), (4, 16, 16, 16))
  y = jax.jit(block.init_with_output)(jax.random.key(0), x)[0]
  assert 0.5 < y.std() < 2


def test_every_map_is_litert_s_on_the_released_file(params):
  source = os.environ.get("METRO_BLAZEPOSE")
  if not source:
    pytest.skip("METRO_BLAZEPOSE names no wheel of mediapipe 0.10.21")
  litert = pytest.importorskip("ai_edge_litert.interpreter")
  resolver = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
  run = litert.Interpreter(
    model_content=build_blazepose.read(source),
    experimental_preserve_all_tensors=True,
    experimental_op_resolver_type=resolver,
  )
  run.allocate_tensors()
  images = jax.random.uniform(jax.random.key(0), (1, 256, 256, 3))
  run.set_tensor(run.get_input_details()[0]["index"], np.asarray(images))
  run.invoke()
  numbers = {tensor["name"]: tensor["index"] for tensor in run.get_tensor_details()}

  @jax.jit
  def run_ours(params):
    calls = Calls()
    with nn.intercept_methods(calls):
      BlazePose().apply(params, images)
    return calls.outputs

  maps = run_ours(params)
  for n, block in enumerate((2, 4, 6, 7, 9, 10, 12, 13, 14)):  # those that add
    name = "model_1/model/add/add" if n == 0 else f"model_1/model/add_{n}/add"
    expect_close(maps[f"block{block}"], run.get_tensor(numbers[name]))
