"""HRNet W40 and W64, the classification net, down to the last map.

Maps of 1/4, 1/8, 1/16 and 1/32 of the image run side by side and are added to each
other again and again; the head gathers them in one. Padding is the same on all sides
and upsampling repeats pixels, so HRNet's ImageNet weights fit. Submodules carry
HRNet's names, with "_" for the dot before a number, but for `stem` and `stage1`.

Source: Wang et al., "Deep High-Resolution Representation Learning for Visual
  Recognition", TPAMI 2020; HRNet-Image-Classification, lib/models/cls_hrnet.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from metro_jax.models.layers import Axis, BatchNorm, Conv
from metro_jax.models.resnet import ResidualBlock

# Channels of the finest map.
WIDTHS = {"hrnet_w40": 40, "hrnet_w64": 64}

BLOCKS = 4  # residual blocks in the first stage and in every branch
MODULES = {2: 1, 3: 4, 4: 3}  # exchanges a stage

Maps = list[Float[Array, "b _ _ _"]]


class HRNet(nn.Module):
  """Images to a feature map of 1/32 of their size, with 32 · stem_width channels.

  Images have sides that 32 divides.

  Attributes:
    width: Channels of the finest map; each coarser map doubles them.
    stem_width: Channels of the first convolution, which scale the first stage and the
      head; HRNet's own are 64 for every width.
    axis: The mapped axis over which BatchNorm shares statistics in training;
      None where there is no such axis.
    dtype: Type of the arithmetic; None follows the parameters.
  """

  width: int = 64
  stem_width: int = 64
  axis: Axis | None = None
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], train: bool = False
  ) -> Float[Array, "b gh gw c"]:
    maps = [self._stem(images, train)]
    for stage, modules in MODULES.items():
      maps = self._transition(maps, stage - 1, train)
      for n in range(modules):
        exchange = Exchange(self.axis, self.dtype, name=f"stage{stage}_{n}")
        maps = exchange(maps, train)
      for n, x in enumerate(maps):
        self.sow("intermediates", f"stage{stage}_map{n}", x)
    return self._head(maps, train)

  def _stem(self, x: Array, train: bool) -> Array:
    """Two convolutions and the first stage: a map of a quarter of the size."""
    for n in (1, 2):
      x = self._conv(self.stem_width, 3, 2, f"stem{n}")(x, train)
      self.sow("intermediates", f"stem_map{n}", x)
    for n in range(BLOCKS):
      x = self._bottleneck(self.stem_width, f"stage1_{n}")(x, train)
    self.sow("intermediates", "stage1_map0", x)
    return x

  def _transition(self, maps: Maps, number: int, train: bool) -> Maps:
    """Maps of the branches' widths, and one more, from the coarsest."""
    widths = [self.width * 2**n for n in range(len(maps) + 1)]
    name = f"transition{number}"
    same = [
      x if x.shape[-1] == width else self._conv(width, 3, 1, f"{name}_{n}")(x, train)
      for n, (x, width) in enumerate(zip(maps, widths[:-1], strict=True))
    ]
    new = self._conv(widths[-1], 3, 2, f"{name}_{len(maps)}_0")
    return [*same, new(maps[-1], train)]

  def _head(self, maps: Maps, train: bool) -> Array:
    """From fine to coarse: each map, raised in channels, plus what came so far."""
    gathered = None
    for n, x in enumerate(maps):
      width = self.stem_width * 2**n // 2
      x = self._bottleneck(width, f"incre_modules_{n}_0")(x, train)
      self.sow("intermediates", f"raised{n}", x)
      if gathered is not None:
        name = f"downsamp_modules_{n - 1}"
        conv = self._conv(x.shape[-1], 3, 2, name, use_bias=True)
        lowered = conv(gathered, train)
        self.sow("intermediates", f"lowered{n - 1}", lowered)
        x = x + lowered
      gathered = x
    final = self._conv(32 * self.stem_width, 1, 1, "final_layer", use_bias=True)
    x = final(gathered, train)
    self.sow("intermediates", "final_map", x)
    return x

  def _conv(
    self, width: int, kernel: int, stride: int, name: str, use_bias: bool = False
  ) -> nn.Module:
    return NormalizedConv(
      width, kernel, stride, self.axis, self.dtype, use_bias, name=name
    )

  def _bottleneck(self, width: int, name: str) -> ResidualBlock:
    return ResidualBlock(width, 1, True, self.axis, self.dtype, name=name)


class Exchange(nn.Module):
  """Residual blocks on every map by itself, then the sum of all maps at every size.

  y_i = relu(Σ_j f_ij(x_j)). f_ii passes a map on. From a coarser map, f_ij is a 1x1
  convolution and upsampling by 2^(j - i); from a finer one, i - j convolutions of
  stride 2 with a ReLU between each and the next.
  """

  axis: Axis | None
  dtype: DTypeLike | None
  blocks: int = BLOCKS

  @nn.compact
  def __call__(self, maps: Maps, train: bool) -> Maps:
    maps = [self._branch(x, n, train) for n, x in enumerate(maps)]
    widths = [x.shape[-1] for x in maps]
    return [
      nn.relu(sum(self._carry(x, n, to, width, train) for n, x in enumerate(maps)))
      for to, width in enumerate(widths)
    ]

  def _branch(self, x: Array, number: int, train: bool) -> Array:
    for n in range(self.blocks):
      x = ResidualBlock(
        x.shape[-1],
        1,
        False,
        self.axis,
        self.dtype,
        name=f"branches_{number}_{n}",
      )(x, train)
    return x

  def _carry(self, x: Array, source: int, to: int, width: int, train: bool) -> Array:
    """One map at another's size and width."""
    name = f"fuse_layers_{to}_{source}"
    if source >= to:
      if source > to:
        x = self._conv(width, 1, 1, False, name)(x, train)
      return repeat_pixels(x, 2 ** (source - to))
    steps = to - source
    for n in range(steps):
      last = n == steps - 1
      out = width if last else x.shape[-1]
      x = self._conv(out, 3, 2, not last, f"{name}_{n}")(x, train)
    return x

  def _conv(
    self, width: int, kernel: int, stride: int, relu: bool, name: str
  ) -> nn.Module:
    return NormalizedConv(
      width, kernel, stride, self.axis, self.dtype, relu=relu, name=name
    )


class NormalizedConv(nn.Module):
  """A convolution, batch normalisation and, unless told otherwise, a ReLU."""

  width: int
  kernel_size: int
  stride: int
  axis: Axis | None
  dtype: DTypeLike | None
  use_bias: bool = False
  relu: bool = True

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], train: bool
  ) -> Float[Array, "b _ _ _"]:
    conv = Conv(
      self.width, self.kernel_size, self.stride, self.use_bias, self.dtype, name="conv"
    )
    norm = BatchNorm(axis=self.axis, dtype=self.dtype, name="bn")
    x = norm(conv(x), train)
    return nn.relu(x) if self.relu else x


@functools.partial(jax.jit, static_argnums=1)  # known by its name in exports
def repeat_pixels(
  x: Float[Array, "b h w c"], factor: int
) -> Float[Array, "b {factor}*h {factor}*w c"]:
  """Upsampling by the nearest neighbour: each pixel becomes factor · factor."""
  if factor == 1:
    return x
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
  return x.reshape(b, h * factor, w * factor, c)
