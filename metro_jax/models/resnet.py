"""ResNet 18, 34 and 50 with torchvision's arithmetic (v1.5), down to the last map.

The stride of a bottleneck sits in its 3x3 convolution, and padding is the same on
all sides, so torchvision's ImageNet weights fit. Submodules carry torchvision's names.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016;
  torchvision/models/resnet.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from metro_jax.models.layers import Axis, BatchNorm, Conv

# Residual blocks a stage, and whether they are bottlenecks.
VARIANTS = {
  "resnet18": ((2, 2, 2, 2), False),
  "resnet34": ((3, 4, 6, 3), False),
  "resnet50": ((3, 4, 6, 3), True),
}
BOTTLENECK_EXPANSION = 4


class ResNet(nn.Module):
  """Images to a feature map of 1/32 of their size.

  Attributes:
    variant: A name in `VARIANTS`.
    width: Channels of the first convolution; each stage doubles them.
    axis: The mapped axis over which BatchNorm shares statistics in training;
      None where there is no such axis.
    dtype: Type of the arithmetic; None follows the parameters.
  """

  variant: str = "resnet50"
  width: int = 64
  axis: Axis | None = None
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], train: bool = False
  ) -> Float[Array, "b gh gw c"]:
    sizes, bottleneck = VARIANTS[self.variant]
    shared = {"axis": self.axis, "dtype": self.dtype}
    x = Conv(self.width, 7, 2, dtype=self.dtype, name="conv1")(images)
    self.sow("intermediates", "stem_conv", x)
    x = nn.relu(BatchNorm(**shared, name="bn1")(x, train))
    self.sow("intermediates", "stem_relu", x)
    x = max_pool(x)
    self.sow("intermediates", "stem_pool", x)
    for stage, blocks in enumerate(sizes):
      for block in range(blocks):
        x = ResidualBlock(
          width=self.width * 2**stage,
          stride=2 if stage > 0 and block == 0 else 1,
          bottleneck=bottleneck,
          **shared,
          name=f"layer{stage + 1}_{block}",
        )(x, train)
      self.sow("intermediates", f"stage{stage + 1}", x)
    return x


class ResidualBlock(nn.Module):
  """relu(x + f(x)) with f two 3x3 convolutions, or 1x1, 3x3 and 1x1."""

  width: int
  stride: int
  bottleneck: bool
  axis: Axis | None
  dtype: DTypeLike | None

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b _ _ _"]:
    if self.bottleneck:
      kernels, strides, out = (1, 3, 1), (1, self.stride, 1), BOTTLENECK_EXPANSION
    else:
      kernels, strides, out = (3, 3), (self.stride, 1), 1
    widths = (self.width,) * (len(kernels) - 1) + (self.width * out,)
    y = x
    for n, layer in enumerate(zip(widths, kernels, strides, strict=True), start=1):
      y = self._normalized_conv(y, layer, f"conv{n}", f"bn{n}", train)
      y = nn.relu(y) if n < len(kernels) else y
    if self.stride > 1 or x.shape[-1] != widths[-1]:
      layer = (widths[-1], 1, self.stride)
      x = self._normalized_conv(x, layer, "downsample_conv", "downsample_bn", train)
    return nn.relu(x + y)

  def _normalized_conv(
    self, x: Array, layer: tuple[int, int, int], conv: str, norm: str, train: bool
  ) -> Array:
    width, kernel, stride = layer
    x = Conv(width, kernel, stride, dtype=self.dtype, name=conv)(x)
    return BatchNorm(axis=self.axis, dtype=self.dtype, name=norm)(x, train)


@jax.jit  # known by its name where networks are exported
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
  """The maximum of 3x3 windows, stride 2, one pixel of padding.

  Written as maxima of shifted maps: the gradient of a windowed reduction is slow on
  CPUs. Equal maxima share the gradient; after a ReLU these are zeros, which pass none.
  """
  for axis in (1, 2):
    size = x.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (1, 1)
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    first, second, third = (
      jax.lax.slice_in_dim(padded, start, start + size - 1 + size % 2, 2, axis)
      for start in range(3)
    )
    x = jnp.maximum(jnp.maximum(first, second), third)
  return x
