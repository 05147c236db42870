"""BlazePose's backbone: a small trunk that has learnt to see people.

A convolution and 15 inverted bottlenecks, each a 1x1 convolution to more channels, a
depthwise one and a 1x1 convolution to fewer, with ReLU6 after the first two. There is
no BatchNorm: the released file holds it folded into the convolutions.

Source: Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020;
  MediaPipe's pose_landmark_full.tflite up to its map of 1/32 (tensor 269).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from metro_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD, Conv, Depthwise

STEM_WIDTH = 24

kaiming_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
lecun_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")  # no ReLU


class Block(NamedTuple):
  """An inverted bottleneck.

  Attributes:
    inner: Channels of its depthwise convolution.
    kernel_size: Of the same.
    stride: Of the same.
    width: Channels that it gives.
  """

  inner: int
  kernel_size: int
  stride: int
  width: int


BLOCKS = (
  Block(24, 3, 1, 16),
  Block(64, 3, 2, 24),
  Block(144, 3, 1, 24),
  Block(144, 5, 2, 32),
  Block(192, 5, 1, 32),
  Block(192, 3, 2, 64),
  *[Block(384, 3, 1, 64)] * 2,
  Block(384, 5, 1, 88),
  *[Block(528, 5, 1, 88)] * 2,
  Block(528, 5, 2, 144),
  *[Block(864, 5, 1, 144)] * 3,
)


class BlazePose(nn.Module):
  """Images to a feature map of 1/32 of their size, with 144 channels.

  Images have sides that 32 divides; the released network takes 256 pixels.

  Attributes:
    normalized: Whether images come less ImageNet's mean, over its deviation, as those
      of the other backbones. Otherwise they are RGB in [0, 1].
    dtype: Type of the arithmetic; None follows the parameters.
  """

  normalized: bool = False
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, images: Float[Array, "b h w 3"], train: bool = False
  ) -> Float[Array, "b gh gw 144"]:
    del train  # nothing in it differs
    x = images
    if self.normalized:
      mean, std = (jnp.asarray(c, x.dtype) for c in (IMAGENET_MEAN, IMAGENET_STD))
      x = x * std + mean
    stem = Conv(STEM_WIDTH, 3, 2, True, self.dtype, kaiming_fan_in, name="stem")
    x = jax.nn.relu6(stem(x))
    for n, block in enumerate(BLOCKS):
      x = InvertedBottleneck(block, self.dtype, name=f"block{n}")(x)
    return x


class InvertedBottleneck(nn.Module):
  """Wider, depthwise, narrower; plus what came in where that has the same shape."""

  block: Block
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ _"]:
    inner, kernel_size, stride, width = self.block
    y = x
    if inner != x.shape[-1]:
      expand = Conv(inner, 1, 1, True, self.dtype, kaiming_fan_in, name="expand")
      y = jax.nn.relu6(expand(y))
    depthwise = Depthwise(
      kernel_size, stride, self.dtype, kaiming_fan_in, name="depthwise"
    )
    y = jax.nn.relu6(depthwise(y))
    y = Conv(width, 1, 1, True, self.dtype, lecun_fan_in, name="project")(y)
    return x + y if stride == 1 and width == x.shape[-1] else y
