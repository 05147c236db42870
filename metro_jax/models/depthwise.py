"""Convolutions of each channel by itself, in forms that compilers make fast.

XLA's own grouped convolutions are up to thirty times slower on CPUs than sums of
shifted products, which are one loop. Sums are made in float32 at least.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

Array = Any  # NumPy's or JAX's


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int
) -> Float[Array, "b _ _ c"]:
  """Convolves each channel with a kernel of its own; k // 2 zeros on every side.

  y[u, v] = Σ_ij x[s u + i - k // 2, s v + j - k // 2] k[i, j]. The gradient is written
  out because that of a slice is a map of zeros around it, and there are k² slices.

  Args:
    x: Maps, of sides that the stride divides.
    kernel: k is odd.
    stride: s.

  Raises:
    ValueError: If the stride does not divide the sides.
  """
  height, width = x.shape[1:3]
  if height % stride or width % stride:
    raise ValueError(
      f"depthwise: expected maps whose sides {stride} divides, got {height} x {width}"
    )
  k = len(kernel)
  total = sum(
    _wide(window) * _wide(kernel[n // k, n % k])
    for n, window in enumerate(_windows(_padded(x, k // 2), k, stride))
  )
  return total.astype(x.dtype)


def _forward(x, kernel, stride):
  return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride, saved, dy):
  x, kernel = saved
  dx = _input_gradient(dy, kernel, stride).astype(x.dtype)
  return dx, _kernel_gradient(x, dy, len(kernel), stride).astype(kernel.dtype)


depthwise.defvjp(_forward, _backward)


def _wide(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _padded(x: Array, margin: int) -> Array:
  return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


def _windows(padded: Array, k: int, stride: int) -> Iterator[Array]:
  """What each number of the kernel is multiplied with, row by row."""
  height, width = ((size - k) // stride + 1 for size in padded.shape[1:3])
  for i in range(k):
    for j in range(k):
      rows = slice(i, i + stride * (height - 1) + 1, stride)
      columns = slice(j, j + stride * (width - 1) + 1, stride)
      yield padded[:, rows, columns]


def _input_gradient(dy: Array, kernel: Array, stride: int) -> Array:
  """dx[s u + i - k // 2, s v + j - k // 2] = Σ dy[u, v] k[i, j].

  Places of dx with the same remainders by s take the same numbers of the kernel.
  """
  b, height, width, c = dy.shape
  k, half, remainders = len(kernel), len(kernel) // 2, range(stride)
  padded = _padded(dy, half)

  def places(row: int, column: int) -> Array:
    total = 0
    for i in range((row + half) % stride, k, stride):
      for j in range((column + half) % stride, k, stride):
        top = half + (row + half - i) // stride
        left = half + (column + half - j) // stride
        window = padded[:, top : top + height, left : left + width]
        total = total + _wide(window) * _wide(kernel[i, j])
    return total

  rows = [jnp.stack([places(r, c) for c in remainders], 3) for r in remainders]
  return jnp.stack(rows, 2).reshape(b, stride * height, stride * width, c)


def _kernel_gradient(x: Array, dy: Array, k: int, stride: int) -> Array:
  """dk[i, j] = Σ x[s u + i - k // 2, s v + j - k // 2] dy[u, v], over the batch."""
  sums = functools.partial(jax.lax.platform_dependent, _padded(x, k // 2), dy)
  return sums(
    cpu=functools.partial(_sums_by_rows, k=k, stride=stride),
    default=functools.partial(_sums_at_once, k=k, stride=stride),
  )


def _sums_at_once(padded: Array, dy: Array, k: int, stride: int) -> Array:
  windows = _windows(padded, k, stride)
  sums = [(_wide(window) * _wide(dy)).sum((0, 1, 2)) for window in windows]
  return jnp.stack(sums).reshape(k, k, -1)


def _sums_by_rows(padded: Array, dy: Array, k: int, stride: int) -> Array:
  """The same, row after row, each of which stays in a CPU's cache meanwhile."""
  b, height, width, c = dy.shape

  def add(total: Array, n: Array) -> tuple[Array, None]:
    picture, row = n // height, n % height
    start = (picture, row * stride, 0, 0)
    rows = jax.lax.dynamic_slice(padded, start, (1, k, *padded.shape[2:]))[0]
    d = jax.lax.dynamic_slice(dy, (picture, row, 0, 0), (1, 1, width, c))[0]
    columns = [slice(j, j + stride * (width - 1) + 1, stride) for j in range(k)]
    sums = [(_wide(rows[:, column]) * _wide(d)).sum(1) for column in columns]
    return total + jnp.stack(sums, 1), None

  zeros = _wide(jnp.zeros((k, k, c), dy.dtype))
  return jax.lax.scan(add, zeros, jnp.arange(b * height))[0]
