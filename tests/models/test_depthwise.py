"""Depthwise convolutions and their gradients against sums by the book."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.models import depthwise

CASES = [(3, 1), (3, 2), (5, 1), (5, 2)]  # sides of the kernel, strides


def example(k, stride):
  rng = np.random.default_rng(k + stride)
  x = rng.standard_normal((2, 8, 12, 3))
  kernel = rng.standard_normal((k, k, 3))
  weights = rng.standard_normal((2, 8 // stride, 12 // stride, 3))
  return x, kernel, weights


def by_the_book(x, kernel, weights, stride):
  """The convolution, and the gradients of its sum by weights; NumPy's loops."""
  half = len(kernel) // 2
  y, dx, dkernel = np.zeros_like(weights), np.zeros_like(x), np.zeros_like(kernel)
  for u, v, i, j in np.ndindex(*y.shape[1:3], *kernel.shape[:2]):
    row, column = stride * u + i - half, stride * v + j - half
    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
      y[:, u, v] += x[:, row, column] * kernel[i, j]
      dx[:, row, column] += weights[:, u, v] * kernel[i, j]
      dkernel[i, j] += (weights[:, u, v] * x[:, row, column]).sum(0)
  return y, dx, dkernel


@pytest.mark.parametrize(("k", "stride"), CASES)
def test_sums_and_gradients_are_those_by_the_book(k, stride):
  with jax.enable_x64(True):
    x, kernel, weights = example(k, stride)
    y, pull = jax.vjp(
      lambda *moved: depthwise.depthwise(*moved, stride),
      jnp.asarray(x),
      jnp.asarray(kernel),
    )
    got = (y, *pull(jnp.asarray(weights)))
    expected = by_the_book(x, kernel, weights, stride)
  for ours, theirs in zip(got, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(("k", "stride"), CASES)
def test_other_devices_form_of_the_kernels_gradient_is_the_same(k, stride):
  x, kernel, weights = example(k, stride)
  padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  got = depthwise._sums_at_once(padded, weights, k, stride)
  expected = by_the_book(x, kernel, weights, stride)[2]
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_rounded_once_at_the_end():
  x, kernel, weights = (jnp.asarray(a, jnp.bfloat16) for a in example(5, 1))

  def run(x, kernel, weights):
    y, pull = jax.vjp(lambda *moved: depthwise.depthwise(*moved, 1), x, kernel)
    return (y, *pull(weights))

  got = run(x, kernel, weights)
  exact = run(*(a.astype(jnp.float32) for a in (x, kernel, weights)))
  for ours, theirs in zip(got, exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))


def test_a_side_that_the_stride_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="whose sides 2 divides, got 7 x 8"):
    depthwise.depthwise(jnp.zeros((1, 7, 8, 2)), jnp.zeros((3, 3, 2)), 2)
