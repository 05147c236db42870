"""The network as `predict` and `export` run it: pictures in, named arrays out."""

from collections.abc import Callable
from typing import Any

from metro_jax.models.forward import predict
from metro_jax.models.setup import Network

Array = Any  # np.ndarray or jax.Array
Forward = Callable[[Any, Array], dict[str, Array]]
OUTPUTS = {
  "vertices": "(b, v, 3) metres, camera frame: x right, y down, z away",
  "joints": "(b, j, 3) metres, regressed from the vertices",
  "direct_joints": "(b, j, 3) metres, as the network's joint queries give them",
  "camera": "(b, 3) s, tx, ty: x2d = s * (X_xy + (tx, ty)) in the crop's [-1, 1]",
}


def make_forward(network: Network) -> Forward:
  """Makes the network a pure function of its variables and crops.

  Args:
    network: From a run.

  Returns:
    forward(variables, images) -> `OUTPUTS` by name, for RGB crops (b, px, px, 3) of
    0..255, uint8 or float32. Always float32 or better.
  """
  geometry = network.geometry

  def forward(variables: Any, images: Any) -> dict[str, Array]:
    made = predict(network.model, variables, images, geometry)
    return {
      "vertices": made.vertices,
      "joints": made.joints,
      "direct_joints": made.query_joints,
      "camera": made.camera,
    }

  return forward
