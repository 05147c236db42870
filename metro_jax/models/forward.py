"""The network in evaluation, prediction and export: pictures in, bodies out."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Real

from metro_jax.body import body_model
from metro_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from metro_jax.models.setup import Geometry

Array = Any  # of one device, or stacked over devices
Tree = Any  # a pytree of arrays


class Predicted(NamedTuple):
  """What the network says of b pictures, float32 or better.

  Attributes:
    camera: (b, 3) s, tx, ty.
    vertices: (b, v, 3) the full mesh, metres.
    joints: (b, j, 3) the J14 of that mesh or the hand's 21, same frame.
    query_joints: (b, j, 3) the same joints as the joint queries give them.
  """

  camera: Array
  vertices: Array
  joints: Array
  query_joints: Array


def predict(
  model: nn.Module,
  variables: dict[str, Any],
  images: Real[Array, "b h w 3"],
  geometry: Geometry,
  color_gain: Float[Array, "b 3"] | None = None,
) -> Predicted:
  """Runs the network without dropout and regresses the joints of its mesh.

  Args:
    model: The network.
    variables: Its parameters and statistics.
    images: RGB crops, 0 to 255.
    geometry: The body's arrays.
    color_gain: As for `normalize_images`.
  """
  pixels = normalize_images(images, color_gain)
  prediction = model.apply(variables, pixels, geometry.template, None, train=False)
  prediction = at_least_float32(prediction)
  vertices = prediction.vertices[-1]
  joints = body_model.regress_joints(geometry.body.mesh_regressor, vertices)
  return Predicted(prediction.camera, vertices, joints, prediction.query_joints)


def normalize_images(
  image: Real[Array, "b h w 3"], color_gain: Float[Array, "b 3"] | None = None
) -> Float[Array, "b h w 3"]:
  """Makes the network's input: gains, clipping, ImageNet's mean and deviation.

  x = (clip(gain · pixel, 0, 255) / 255 - mean) / std

  Args:
    image: RGB, 0 to 255.
    color_gain: Of each channel, whose type is the result's; None for float32's ones.
  """
  if color_gain is None:
    color_gain = jnp.ones((image.shape[0], 3), jnp.float32)  # perhaps a symbol
  pixels = image.astype(color_gain.dtype) * color_gain[:, None, None, :]
  pixels = jnp.clip(pixels, 0, 255) / 255
  mean = jnp.asarray(IMAGENET_MEAN, pixels.dtype)
  return (pixels - mean) / jnp.asarray(IMAGENET_STD, pixels.dtype)


def at_least_float32(tree: Tree) -> Tree:
  """Widens arrays: losses and geometry are float32 whatever the network's own type."""
  return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
