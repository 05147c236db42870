"""Batch normalisation, pooling and the linear layers against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.models import layers
from metro_jax.models.resnet import max_pool

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 5, 6, 3)) * 2 + 1
SCALE, BIAS = RNG.standard_normal((2, 3))
MEAN, VAR = RNG.standard_normal(3), RNG.uniform(0.5, 2, 3)
VARIABLES = {
  "params": {"scale": SCALE, "bias": BIAS},
  "batch_stats": {"mean": MEAN, "var": VAR},
}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def normalized(x: np.ndarray) -> np.ndarray:
  """Batch normalisation by the book."""
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS


def test_batch_norm_in_training_uses_the_batch_and_moves_like_pytorch():
  y, updates = layers.BatchNorm().apply(
    VARIABLES, jnp.asarray(X), train=True, mutable=["batch_stats"]
  )
  np.testing.assert_allclose(y, normalized(X), rtol=1e-10)
  moved = updates["batch_stats"]
  unbiased = X.var((0, 1, 2), ddof=1)
  np.testing.assert_allclose(moved["mean"], 0.9 * MEAN + 0.1 * X.mean((0, 1, 2)))
  np.testing.assert_allclose(moved["var"], 0.9 * VAR + 0.1 * unbiased)


def test_batch_norm_in_evaluation_uses_the_running_statistics():
  y = layers.BatchNorm().apply(VARIABLES, jnp.asarray(X), train=False)
  expected = (X - MEAN) / np.sqrt(VAR + 1e-5) * SCALE + BIAS
  np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_batch_norm_gradient_equals_automatic_differentiation():
  weights = RNG.standard_normal(X.shape)

  arguments = [jnp.asarray(value) for value in (X, SCALE, BIAS)]

  def by_layer(x, scale, bias):
    return (weights * layers.batch_norm(x, scale, bias, 1e-5, None)[0] ** 2).sum()

  def by_definition(x, scale, bias):
    y = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + bias
    return (weights * y**2).sum()

  got, expected = (
    jax.grad(f, (0, 1, 2))(*arguments) for f in (by_layer, by_definition)
  )
  for ours, theirs in zip(got, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_batch_norm_over_an_axis_equals_one_large_batch():
  weights = RNG.standard_normal(X.shape)
  scale, bias = jnp.asarray(SCALE), jnp.asarray(BIAS)

  def on_one(x):
    return (weights * layers.batch_norm(x, scale, bias, 1e-5, None)[0] ** 2).sum()

  def on_shards(x, weights):  # vmap names the axis as pmap does
    y, mean, _ = layers.batch_norm(x, scale, bias, 1e-5, layers.Axis("data"))
    return (weights * y**2).sum(), mean

  shards = X.reshape(2, 2, *X.shape[1:]), weights.reshape(2, 2, *X.shape[1:])
  value_and_grad = jax.value_and_grad(on_shards, has_aux=True)
  (_, mean), gradient = jax.vmap(value_and_grad, axis_name="data")(*shards)
  np.testing.assert_allclose(mean[0], X.mean((0, 1, 2)))
  np.testing.assert_allclose(
    gradient.reshape(X.shape), jax.grad(on_one)(jnp.asarray(X)), atol=1e-9
  )


def test_max_pool_takes_3x3_windows_with_stride_2_and_equal_padding():
  for height, width in ((6, 8), (7, 5)):
    x = -1 - RNG.uniform(size=(1, height, width, 2))  # zeros of padding would win
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.array(
      [
        [padded[0, i : i + 3, j : j + 3].max((0, 1)) for j in range(0, width, 2)]
        for i in range(0, height, 2)
      ]
    )
    np.testing.assert_array_equal(max_pool(jnp.asarray(x))[0], expected)


def test_a_pointwise_convolution_with_stride_drops_every_other_pixel():
  kernel = RNG.standard_normal((1, 1, 3, 2))
  y = layers.Conv(2, 1, 2).apply({"params": {"kernel": kernel}}, jnp.asarray(X))
  np.testing.assert_allclose(y, X[:, ::2, ::2] @ kernel[0, 0])


def test_a_convolution_pads_equally_and_starts_its_windows_at_the_corner():
  x, kernel = RNG.standard_normal((1, 6, 6, 2)), RNG.standard_normal((3, 3, 2, 1))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = [
    [(padded[0, i : i + 3, j : j + 3, :, None] * kernel).sum() for j in (0, 2, 4)]
    for i in (0, 2, 4)
  ]
  y = layers.Conv(1, 3, 2).apply({"params": {"kernel": kernel}}, jnp.asarray(x))
  np.testing.assert_allclose(y[0, ..., 0], expected)


def test_mix_is_a_linear_map_over_the_second_axis():
  x, kernel = RNG.standard_normal((2, 4, 3)), RNG.standard_normal((4, 5))
  bias = RNG.standard_normal(5)
  y = layers.TokenLinear(5).apply(
    {"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x)
  )
  np.testing.assert_allclose(y[1, :, 2], x[1, :, 2] @ kernel + bias)


def test_default_weights_are_uniform_within_one_over_root_of_fan_in():
  params = layers.TokenLinear(300).init(jax.random.key(0), jnp.zeros((1, 100, 3)))[
    "params"
  ]
  for values in params.values():
    assert abs(values).max() <= 0.1
    np.testing.assert_allclose(values.std(), 0.1 / np.sqrt(3), rtol=0.1)


def convolved_by_loops(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
  """A convolution with one zero around the map, one output pixel at a time."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows, columns = (range(0, size, stride) for size in x.shape[1:3])
  pixels = [
    [
      np.einsum("bijc,ijcd->bd", padded[:, r : r + 3, c : c + 3], kernel)
      for c in columns
    ]
    for r in rows
  ]
  return np.moveaxis(np.array(pixels), 2, 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 4, 3, 2), (2, 9, 8, 2)], ids=["small", "large"])
def test_a_convolution_is_the_same_on_small_and_large_maps(shape, stride):
  x, kernel = RNG.standard_normal(shape), RNG.standard_normal((3, 3, 2, 5))
  conv = layers.Conv(5, 3, stride)
  got = conv.apply({"params": {"kernel": kernel}}, jnp.asarray(x))
  np.testing.assert_allclose(got, convolved_by_loops(x, kernel, stride), rtol=1e-10)


@pytest.mark.parametrize("prng", ["threefry2x32", "unsafe_rbg"])
def test_dropout_meets_its_rate_and_keeps_the_mean(prng):
  x = jnp.full((1000, 1000), 3.0)
  dropout = layers.Dropout(0.1)

  def drop(x, seed):
    key = jax.random.key(seed, impl=prng)
    return dropout.apply({}, x, True, rngs={"dropout": key})

  y, pull = jax.vjp(lambda x: drop(x, 0), x)
  values, counts = np.unique(y, return_counts=True)
  kept = 1 - round(0.1 * 2**16) / 2**16
  np.testing.assert_allclose(values, [0, 3 / kept], rtol=1e-12)
  assert abs(counts[0] - 100_000) < 4 * np.sqrt(1e6 * 0.1 * 0.9)
  np.testing.assert_allclose(pull(jnp.ones_like(x))[0], y / 3)
  other = np.asarray(drop(x, 1)) == 0
  both = (other & (np.asarray(y) == 0)).sum()
  assert abs(both - 10_000) < 4 * np.sqrt(1e6 * 0.01 * 0.99)


def test_dropout_is_off_outside_training_and_at_rate_zero():
  x = jnp.asarray(X)
  assert layers.Dropout(0.5).apply({}, x, False) is x
  assert layers.Dropout(0.0).apply({}, x, True) is x
  rngs = {"dropout": jax.random.key(0)}
  least = layers.Dropout(0.999_999).apply({}, jnp.ones(2**20), True, rngs=rngs)
  assert set(np.unique(least)) == {0, 2**16}


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_a_convolution_of_few_channels_is_that_by_the_book(channels):
  x = RNG.standard_normal((2, 10, 12, channels))
  kernel = RNG.standard_normal((3, 3, channels, 5))
  expected = np.zeros((2, 5, 6, 5))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  for i, j in np.ndindex(3, 3):
    expected += padded[:, i : i + 10 : 2, j : j + 12 : 2] @ kernel[i, j]
  y = layers.Conv(5, 3, 2).apply({"params": {"kernel": kernel}}, jnp.asarray(x))
  np.testing.assert_allclose(y, expected, rtol=1e-10)
