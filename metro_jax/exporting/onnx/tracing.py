"""The network as a JAX program of few, plain primitives, for `rules` to translate.

Convolutions are written in many forms for XLA; here each is one convolution again, and
a LayerNorm one call. Functions that ONNX has an operator for are calls by their names.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from metro_jax.inference import forward_pass
from metro_jax.models.layers import Conv, Depthwise
from metro_jax.models.setup import Network


def trace(
  network: Network, variables: Any, image_px: int, image_type: str
) -> ClosedJaxpr:
  """Traces crops (b, px, px, 3) to `forward_pass.OUTPUTS`, for an open batch."""
  forward = forward_pass.make_forward(network)

  def program(images: Any) -> list[Any]:
    with nn.intercept_methods(_plain_layer):
      made = forward(variables, images)
    return [made[name] for name in forward_pass.OUTPUTS]

  (batch,) = jax.export.symbolic_shape("b")
  shape = (batch, image_px, image_px, 3)
  crops = jax.ShapeDtypeStruct(shape, np.dtype(image_type))
  return jax.jit(program).trace(crops).jaxpr


def _plain_layer(
  call: Callable[..., Any],
  args: Any,
  kwargs: Any,
  context: nn.module.InterceptorContext,
) -> Any:
  layer = context.module
  if context.method_name != "__call__":
    return call(*args, **kwargs)
  if isinstance(layer, Conv | Depthwise):
    return _convolve(layer, *args)
  if isinstance(layer, nn.LayerNorm):
    params = layer.variables["params"]
    epsilon = np.float32(layer.epsilon)
    return layer_norm(*args, params["scale"], params["bias"], epsilon)
  return call(*args, **kwargs)


def _convolve(layer: Conv | Depthwise, x: Any) -> Any:
  params, k = layer.variables["params"], layer.kernel_size
  y = jax.lax.conv_general_dilated(
    x,
    params["kernel"],
    window_strides=(layer.stride,) * 2,
    padding=[(k // 2, k // 2)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1] if isinstance(layer, Depthwise) else 1,
  )
  return y + params["bias"] if "bias" in params else y


@jax.jit
def layer_norm(x: Any, scale: Any, bias: Any, epsilon: Any) -> Any:
  """(x - mean) / √(var + ε) · scale + bias, over the last axis."""
  mean = x.mean(-1, keepdims=True)
  var = jnp.square(x - mean).mean(-1, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(var + epsilon) * scale + bias
