"""Convolution, batch normalisation and linear maps as PyTorch computes them.

Every layer computes in `dtype`; None means the type of its parameters and input,
which is how float64 works. Parameters and statistics are kept in float32.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Float

from metro_jax.models.depthwise import depthwise

Array = Any  # NumPy's or JAX's

# For the layers whose outputs are coordinates: the fast modes of accelerators round
# factors to 8 or 10 bits, which is millimetres on a body.
EXACT = jax.lax.Precision.HIGHEST

# Of RGB in [0, 1]: what networks made for ImageNet expect of their input.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SMALL_MAP = 16  # pixels
FEW_CHANNELS = 8
DROPOUT_STEPS = 2**16  # of its rate

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_uniform(fan_in: int) -> Initializer:
  """U(-1/√fan_in, 1/√fan_in): PyTorch's default for weights and biases alike."""
  bound = 1 / math.sqrt(fan_in)

  def init(
    key: Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
  ) -> Array:
    del out_sharding
    return jax.random.uniform(key, shape, dtype or jnp.float32, -bound, bound)

  return init


class Conv(nn.Module):
  """A square convolution, without bias by default; k // 2 zeros on every side."""

  features: int
  kernel_size: int = 1
  stride: int = 1
  use_bias: bool = False
  dtype: DTypeLike | None = None
  kernel_init: Initializer = kaiming_fan_out

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ _"]:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape)
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    y = _convolve(x, kernel, self.stride)
    if not self.use_bias:
      return y
    fan_in = math.prod(shape[:-1])
    bias = self.param("bias", torch_uniform(fan_in), (self.features,))
    return y + bias.astype(y.dtype)


class Depthwise(nn.Module):
  """A square convolution of each channel by itself, with bias; padding as `Conv`'s."""

  kernel_size: int
  stride: int = 1
  dtype: DTypeLike | None = None
  kernel_init: Initializer = kaiming_fan_out

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    k, channels = self.kernel_size, x.shape[-1]
    kernel = self.param("kernel", self.kernel_init, (k, k, 1, channels))
    bias = self.param("bias", torch_uniform(k * k), (channels,))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return depthwise(x, kernel[:, :, 0], self.stride) + bias


class Dropout(nn.Module):
  """Zeroes numbers at random and scales the others up, so that the mean stays.

  A number takes 16 random bits, which halves what a device's generator writes to
  memory and reads again: the rate is met to 2⁻¹⁷, the scale is exact for that.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Float[Array, "..."], train: bool) -> Float[Array, "..."]:
    dropped = min(round(self.rate * DROPOUT_STEPS), DROPOUT_STEPS - 1)
    if not train or not dropped:
      return x
    bits = jax.random.bits(self.make_rng("dropout"), x.shape, jnp.uint16)
    scale = DROPOUT_STEPS / (DROPOUT_STEPS - dropped)
    return jnp.where(bits >= dropped, x * jnp.asarray(scale, x.dtype), 0)


def _convolve(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int
) -> Float[Array, "b _ _ d"]:
  """The convolution, in the form that CPUs run fastest."""
  k = len(kernel)
  if k == 1:  # a matrix product, whose gradient is a third faster on CPUs
    return jnp.einsum("bhwc,cd->bhwd", x[:, ::stride, ::stride], kernel[0, 0])
  height, width = ((size - 1) // stride + 1 for size in x.shape[1:3])
  if height * width <= SMALL_MAP:  # CPUs run such convolutions ten times slower
    return _convolve_by_patches(x, kernel, stride)
  halves = stride == 2 and x.shape[1] % 2 == x.shape[2] % 2 == 0
  if k == 3 and halves and x.shape[-1] < FEW_CHANNELS:
    return _convolve_by_quarters(x, kernel)
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=[(k // 2, k // 2)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _convolve_by_patches(
  x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int
) -> Float[Array, "b _ _ d"]:
  """The same convolution as one matrix product over all windows."""
  k, half = len(kernel), len(kernel) // 2
  height, width = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
  shifted = [
    padded[:, i : i + height : stride, j : j + width : stride]
    for i in range(k)
    for j in range(k)
  ]
  patches = jnp.concatenate(shifted, axis=-1)
  return jnp.einsum("bhwp,pd->bhwd", patches, kernel.reshape(-1, kernel.shape[-1]))


def _convolve_by_quarters(
  x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b _ _ d"]:
  """The same convolution of stride 2, of 2x2 blocks with four times the channels.

  Few channels leave the units of every kind of device idle: CPUs take a quarter of
  the time so.
  """
  b, height, width, c = x.shape
  blocks = x.reshape(b, height // 2, 2, width // 2, 2, c)
  blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, height // 2, width // 2, 4 * c)
  kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
  kernel = kernel.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5)
  return jax.lax.conv_general_dilated(
    blocks,
    kernel.reshape(2, 2, 4 * c, -1),
    window_strides=(1, 1),
    padding=[(1, 0)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


class Axis(NamedTuple):
  """The mapped axis of the devices that share statistics, all or in groups.

  Attributes:
    name: Of the axis.
    group: So many neighbours share; 0 for all of them.
  """

  name: str
  group: int = 0

  def size(self) -> int:
    """How many devices share.

    Raises:
      ValueError: If the groups do not divide the devices.
    """
    devices = jax.lax.axis_size(self.name)
    if self.group and devices % self.group:
      raise ValueError(
        "config.model.batch_norm_group: expected a divisor of the "
        f"{devices} devices, got {self.group}"
      )
    return self.group or devices

  def mean(self, values: Any) -> Any:
    """The mean of a tree of arrays over the devices that share."""
    size, devices = self.size(), jax.lax.axis_size(self.name)
    if size == devices:
      return jax.lax.pmean(values, self.name)
    starts = range(0, devices, size)
    groups = [list(range(start, start + size)) for start in starts]
    return jax.lax.pmean(values, self.name, axis_index_groups=groups)


class BatchNorm(nn.Module):
  """y = (x - mean) / √(var + ε) · scale + bias, over batch and pixels.

  In training the statistics are the batch's, of the devices that `axis` joins, and
  the running ones move a tenth towards them; like PyTorch's, the running variance
  takes the unbiased estimate, which Flax's own layer does not.
  """

  axis: Axis | None = None
  momentum: float = 0.9
  epsilon: float = 1e-5
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b h w c"]:
    c = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (c,))
    bias = self.param("bias", nn.initializers.zeros, (c,))
    mean = self.variable("batch_stats", "mean", jnp.zeros, (c,))
    var = self.variable("batch_stats", "var", jnp.ones, (c,))
    (out,) = nn.dtypes.promote_dtype(x, dtype=self.dtype)
    out_dtype = out.dtype if self.dtype else jnp.promote_types(out.dtype, scale.dtype)
    x = x.astype(jnp.promote_types(x.dtype, scale.dtype))
    if not train:
      y = _normalize(x, mean.value, jax.lax.rsqrt(var.value + self.epsilon))
      return (y * scale + bias).astype(out_dtype)
    # Outside of the mapped step, as in init, the axis does not exist.
    axis = None if self.is_initializing() else self.axis
    y, batch_mean, batch_var = batch_norm(x, scale, bias, self.epsilon, axis)
    if not self.is_initializing():
      count = x.size // c * (axis.size() if axis else 1)
      unbiased = batch_var * (count / max(count - 1, 1))
      mean.value = self._moved(mean.value, batch_mean)
      var.value = self._moved(var.value, unbiased)
    return y.astype(out_dtype)

  def _moved(self, old: Float[Array, " c"], new: Float[Array, " c"]) -> Array:
    return self.momentum * old + (1 - self.momentum) * new


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
  x: Float[Array, "b h w c"],
  scale: Float[Array, " c"],
  bias: Float[Array, " c"],
  epsilon: float,
  axis: Axis | None,
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
  """Normalises with the batch's own statistics.

  The gradient is written out because automatic differentiation makes several passes
  of it where two do. With x̂ = (x - mean) / √(var + ε) and ⟨·⟩ the mean over batch,
  pixels and devices: ∂x = scale / √(var + ε) · (∂y - ⟨∂y⟩ - x̂ ⟨∂y x̂⟩).

  Args:
    x: Activations.
    scale: Per channel.
    bias: Per channel.
    epsilon: Added to the variance.
    axis: The devices that share statistics, if any.

  Returns:
    The result, the mean and the biased variance; the last two pass no gradient.

  Source: Ioffe and Szegedy, "Batch Normalization", 2015, section 3.
  """
  return _batch_norm_forward(x, scale, bias, epsilon, axis)[0]


def _batch_norm_forward(x, scale, bias, epsilon, axis):
  mean = _mean(x, axis)
  var = jnp.maximum(_mean(jnp.square(x), axis) - jnp.square(mean), 0)
  inverse = jax.lax.rsqrt(var + epsilon)
  y = _normalize(x, mean, inverse) * scale + bias
  return (y, mean, var), (x, scale, mean, inverse)


def _batch_norm_backward(epsilon, axis, saved, gradients):
  x, scale, mean, inverse = saved
  dy = gradients[0]
  normal = _normalize(x, mean, inverse)
  dbias, dscale = dy.sum((0, 1, 2)), (dy * normal).sum((0, 1, 2))
  count = x.size // x.shape[-1]
  mean_dy, mean_dy_normal = dbias / count, dscale / count
  if axis:
    mean_dy, mean_dy_normal = axis.mean((mean_dy, mean_dy_normal))
  dx = (dy - mean_dy - normal * mean_dy_normal) * (scale * inverse)
  return dx, dscale, dbias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _normalize(x: Array, mean: Array, inverse: Array) -> Array:
  return (x - mean) * inverse


def _mean(x: Array, axis: Axis | None) -> Array:
  mean = x.mean((0, 1, 2))
  return axis.mean(mean) if axis else mean


class TokenLinear(nn.Module):
  """A linear map over the second axis: y[b, o] = Σ_i kernel[i, o] x[b, i] + bias[o].

  It mixes grid positions into tokens, and coarse vertices into finer ones.
  """

  features: int
  kernel_init: Initializer | None = None  # None is PyTorch's default
  bias_init: Initializer | None = None
  dtype: DTypeLike | None = None
  precision: jax.lax.Precision | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "b i c"]) -> Float[Array, "b _ c"]:
    inputs = x.shape[1]
    default = torch_uniform(inputs)
    shape = (inputs, self.features)
    kernel = self.param("kernel", self.kernel_init or default, shape)
    bias = self.param("bias", self.bias_init or default, (self.features,))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    mixed = jnp.einsum("bic,io->boc", x, kernel, precision=self.precision)
    return mixed + bias[:, None]
