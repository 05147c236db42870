"""HRNet's structure; its numbers are in test_metro_goldens."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.models import hrnet
from metro_jax.models.hrnet import HRNet

RNG = np.random.default_rng(0)

# The released networks' parameters without the classifier's 2,049,000.
PARAMETERS = {"hrnet_w40": 57_557_160 - 2_049_000, "hrnet_w64": 128_059_944 - 2_049_000}


def shapes_of(network: HRNet, images: jax.Array):
  """The features' and the variables' shapes, without running anything."""
  return jax.eval_shape(
    lambda key: network.init_with_output(key, images), jax.random.key(0)
  )


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_map_and_the_parameter_count_are_the_released_codes(name: str):
  network = HRNet(hrnet.WIDTHS[name])
  features, variables = shapes_of(network, jnp.zeros((1, 64, 96, 3)))
  assert features.shape == (1, 2, 3, 2048)
  leaves = jax.tree.leaves(variables["params"])
  assert sum(math.prod(leaf.shape) for leaf in leaves) == PARAMETERS[name]


def test_the_branches_and_all_else_have_widths_of_their_own():
  features, variables = shapes_of(HRNet(3, stem_width=8), jnp.zeros((1, 32, 32, 3)))
  params = variables["params"]
  assert params["stage1_3"]["conv3"]["kernel"].shape == (1, 1, 8, 32)
  assert params["stage4_2"]["branches_3_3"]["conv2"]["kernel"].shape == (3, 3, 24, 24)
  assert params["incre_modules_3_0"]["conv3"]["kernel"].shape == (1, 1, 32, 128)
  assert features.shape == (1, 1, 1, 256)


def test_bfloat16_arithmetic_leaves_parameters_and_statistics_in_float32():
  network = HRNet(2, 4, dtype=jnp.dtype("bfloat16"))
  images = jnp.zeros((2, 32, 32, 3))

  def run(key: jax.Array):
    variables = network.init(key, images)
    return variables, network.apply(variables, images, True, mutable=["batch_stats"])

  variables, (features, updates) = jax.eval_shape(run, jax.random.key(0))
  assert features.dtype == jnp.bfloat16
  kept = jax.tree.leaves((variables, updates))
  assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}


def test_upsampling_repeats_every_pixel():
  x = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, ..., None]
  expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
  np.testing.assert_array_equal(hrnet.repeat_pixels(x, 2)[0, ..., 0], expected)


def test_an_exchange_adds_every_map_to_every_other():
  """Without branches, so that only the sums are left."""
  fine, middle, coarse = maps = [
    RNG.uniform(size=(1, size, size, width)) for size, width in ((8, 2), (4, 3), (2, 4))
  ]
  exchange = hrnet.Exchange(None, None, blocks=0)
  inputs = [jnp.asarray(x) for x in maps]
  got, variables = jax.jit(lambda key: exchange.init_with_output(key, inputs, False))(
    jax.random.key(0)
  )

  def conv(x: np.ndarray, name: str) -> np.ndarray:
    kernel = np.asarray(variables["params"][f"fuse_layers_{name}"]["conv"]["kernel"])
    return convolved(x, kernel) / np.sqrt(1 + 1e-5)

  expected = [
    fine + enlarged(conv(middle, "0_1"), 2) + enlarged(conv(coarse, "0_2"), 4),
    conv(fine, "1_0_0") + middle + enlarged(conv(coarse, "1_2"), 2),
    conv(relu(conv(fine, "2_0_0")), "2_0_1") + conv(middle, "2_1_0") + coarse,
  ]
  for ours, theirs in zip(got, expected, strict=True):
    assert (theirs < 0).any()
    np.testing.assert_allclose(ours, relu(theirs), atol=1e-5)


def relu(x: np.ndarray) -> np.ndarray:
  return np.maximum(x, 0)


def enlarged(x: np.ndarray, factor: int) -> np.ndarray:
  return np.kron(x, np.ones((1, factor, factor, 1)))


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """1x1, or 3x3 with stride 2 and a zero on every side, one pixel at a time."""
  if len(kernel) == 1:
    return x @ kernel[0, 0]
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  steps = range(0, x.shape[1], 2)
  windows = [[padded[:, r : r + 3, c : c + 3] for c in steps] for r in steps]
  rows = [[np.einsum("bijc,ijcd->bd", w, kernel) for w in row] for row in windows]
  return np.moveaxis(np.array(rows), 2, 0)
