"""The network as `predict` and `export` run it: pictures in, named arrays out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metro_jax.body import body_model
from metro_jax.models.setup import Network
from metro_jax.training import step as steps

Array = Any  # np.ndarray or jax.Array
Forward = Callable[[Any, Array], dict[str, Array]]
OUTPUTS = {
  "vertices": "(b, v, 3) metres, camera frame: x right, y down, z away",
  "joints": "(b, j, 3) metres, regressed from the vertices",
  "direct_joints": "(b, j, 3) metres, as the network's joint queries give them",
  "camera": "(b, 3) s, tx, ty: x2d = s * (X_xy + (tx, ty)) in the crop's [-1, 1]",
}


def make_forward(network: Network) -> Forward:
  """The network as a pure function of its variables and crops.

  Args:
    network: From a run.

  Returns:
    forward(variables, images) -> `OUTPUTS` by name, for RGB crops (b, px, px, 3) of
    0..255, uint8 or float32. Always float32 or better.
  """
  regressor = network.body.mesh_regressor

  def forward(variables: Any, images: Any) -> dict[str, Array]:
    gain = jnp.ones((images.shape[0], 3), jnp.float32)
    pixels = steps.normalize_images(images, gain)
    prediction = network.model.apply(
      variables, pixels, network.template, None, train=False
    )
    prediction = steps.at_least_float32(prediction)
    vertices = prediction.vertices[-1]
    with jax.default_matmul_precision("highest"):
      regressed = body_model.regress_joints(regressor, vertices)
    return {
      "vertices": vertices,
      "joints": regressed,
      "direct_joints": prediction.joints,
      "camera": prediction.camera,
    }

  return forward
