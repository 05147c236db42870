"""METRO: one image and a template in, joints, meshes and a camera out.

Source: Lin, Wang and Liu, "End-to-End Human Pose and Mesh Reconstruction with
  Transformers", CVPR 2021, section 3.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from metro_jax.body import mesh_levels
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import resnet
from metro_jax.models.blazepose import BlazePose
from metro_jax.models.encoder import Encoder, EncoderSettings
from metro_jax.models.hrnet import WIDTHS, HRNet
from metro_jax.models.layers import EXACT, Axis, TokenLinear, torch_uniform

BACKBONES = (*resnet.VARIANTS, *WIDTHS, "blazepose")
AXIS = "data"  # of the devices that train together
FEATURE_SCALES = {"blazepose": 1 / 32}  # its map's deviation is 20 to 37
IMAGE_CHANNELS = 3
MASKED = 0.01  # what every channel of a masked token is set to

AnyArray = Any  # NumPy's or JAX's


class Prediction(flax.struct.PyTreeNode):
  """What the network says of a batch; metres, camera frame, pelvis near the origin.

  Attributes:
    camera: s, tx, ty of the weak perspective, in the crop's [-1, 1].
    query_joints: As the joint queries give them, in the template's order.
    vertices: Per mesh level, coarse to fine.
  """

  camera: Float[AnyArray, "*b 3"]
  query_joints: Float[AnyArray, "*b j 3"]
  vertices: tuple[Float[AnyArray, "*b _ 3"], ...]


class METRO(nn.Module):
  """The whole network, for a body or a hand.

  Attributes:
    backbone: Images (b, h, w, 3) and `train` to a feature map (b, gh, gw, c).
    encoder: Tokens (b, t, 3 + c) to coordinates (b, t, 3).
    upsampled: Vertices of the mesh levels above the template's, coarse to fine.
    upsampling_inits: First values of their kernels; empty for PyTorch's default and
      otherwise one a level, with zero biases.
    token_source: "grid" mixes the map's positions into one image vector a token;
      "pooled" gives every token the map's mean.
    camera_tokens: The camera is read off the "vertices" or off "all" tokens.
    camera_hidden_width: Inner width of the camera's head.
    camera_init: The camera's first weights: PyTorch's default ("torch"), or those that
      see a crop 2 m wide ("unit").
    feature_scale: Factor of the map, which brings it to the template's size.
    dtype: Type of the token mixing's arithmetic; None follows the parameters. The
      heads that give coordinates always follow them.
  """

  backbone: nn.Module
  encoder: nn.Module
  upsampled: tuple[int, ...]
  upsampling_inits: tuple[Initializer, ...] = ()
  token_source: str = "grid"
  camera_tokens: str = "vertices"
  camera_hidden_width: int = 250
  camera_init: str = "torch"
  feature_scale: float = 1.0
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self,
    images: Float[AnyArray, "b h w c"],
    template: Template,
    token_mask: Bool[AnyArray, "b t"] | None = None,
    train: bool = False,
  ) -> Prediction:
    """Runs the network.

    Args:
      images: Crops, normalised by ImageNet's mean and deviation; or, of more channels,
        what the backbone makes of them.
      template: The queries' coordinates, j joints and v vertices.
      token_mask: True where mask modelling hides one of the t = j + v tokens.
      train: Whether dropout is on (needs the "dropout" key) and BatchNorm uses, and
        moves, the batch's statistics.

    Returns:
      In at least float32, whatever the type of the arithmetic.
    """
    num_joints = template.joints.shape[0]
    queries = jnp.concatenate([template.joints, template.vertices])
    images = jnp.asarray(images)
    are_maps = images.shape[-1] != IMAGE_CHANNELS
    features = images if are_maps else self.backbone(images, train)
    if self.feature_scale != 1:
      features = features * self.feature_scale
    tokens = self._image_tokens(features, len(queries))
    queries = jnp.broadcast_to(queries, (tokens.shape[0], *queries.shape))
    tokens = jnp.concatenate([queries.astype(tokens.dtype), tokens], axis=-1)
    if token_mask is not None:
      tokens = jnp.where(token_mask[..., None], MASKED, tokens)
    points = self.encoder(tokens, train)
    points = points.astype(jnp.promote_types(points.dtype, jnp.float32))
    joints, vertices = points[:, :num_joints], points[:, num_joints:]
    camera = self._camera(vertices if self.camera_tokens == "vertices" else points)
    return Prediction(camera, joints, self._upsample(vertices))

  def _image_tokens(self, features: Array, count: int) -> Float[Array, "b t c"]:
    """One image vector a token; the rows of the grid come one after another."""
    batch, height, width, channels = features.shape
    if self.token_source == "pooled":
      pooled = features.mean((1, 2))
      return jnp.broadcast_to(pooled[:, None], (batch, count, channels))
    grid = features.reshape(batch, height * width, channels)
    return TokenLinear(count, dtype=self.dtype, name="token_mixing")(grid)

  def _camera(self, points: Float[Array, "b n 3"]) -> Float[Array, "b 3"]:
    x = _exact_dense(1, 3, "camera_coordinates")(points)[..., 0]
    x = _exact_dense(self.camera_hidden_width, x.shape[-1], "camera_hidden")(x)
    if self.camera_init == "torch":
      return _exact_dense(3, x.shape[-1], "camera_output")(x)
    zeros, unit = nn.initializers.zeros, _unit_camera
    return nn.Dense(
      3, precision=EXACT, kernel_init=zeros, bias_init=unit, name="camera_output"
    )(x)

  def _upsample(self, vertices: Float[Array, "b v 3"]) -> tuple[Array, ...]:
    levels = [vertices]
    for n, count in enumerate(self.upsampled):
      init = self.upsampling_inits[n] if self.upsampling_inits else None
      bias_init = nn.initializers.zeros if init else None
      raised = TokenLinear(
        count, init, bias_init, precision=EXACT, name=f"upsampling{n}"
      )
      levels.append(raised(levels[-1]))
    return tuple(levels)


def _unit_camera(
  key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Array:
  """s = 1 and no shift: the crop's [-1, 1] are metres."""
  del key, shape
  return jnp.array([1.0, 0.0, 0.0], dtype)


def _exact_dense(features: int, fan_in: int, name: str) -> nn.Dense:
  init = torch_uniform(fan_in)
  return nn.Dense(
    features, precision=EXACT, kernel_init=init, bias_init=init, name=name
  )


def build(
  config: ConfigDict, levels: MeshLevels, axis_name: str | None = AXIS
) -> METRO:
  """Makes the network that a config describes; allocates nothing on a device.

  Args:
    config: The whole config.
    levels: The body's mesh levels, those of `config.body.levels`.
    axis_name: The mapped axis over which BatchNorm shares its statistics in
      training; None where the step is not mapped.

  Returns:
    The module. Its parameters come from `init` or a checkpoint.

  Raises:
    ValueError: If the levels are not the config's.
  """
  counts, model = tuple(levels.counts), config.model
  if counts != tuple(config.body.levels):
    raise ValueError(
      f"config.body.levels: expected the mesh's levels {counts}, "
      f"got {tuple(config.body.levels)}"
    )
  axis = Axis(axis_name, model.batch_norm_group) if axis_name else None
  dtype = _dtype(model)
  return METRO(
    backbone=_backbone(model, axis, dtype),
    encoder=Encoder(encoder_settings(model)),
    upsampled=counts[-2::-1],
    upsampling_inits=_upsampling_inits(model.upsampling_init, levels),
    token_source=model.token_source,
    camera_tokens=model.camera_tokens,
    camera_hidden_width=model.camera_hidden_width,
    camera_init=model.camera_init,
    feature_scale=FEATURE_SCALES.get(model.backbone, 1.0),
    dtype=dtype,
  )


def encoder_settings(model: ConfigDict) -> EncoderSettings:
  """Takes the settings of the same names from a config's model section."""
  names = {field.name for field in dataclasses.fields(EncoderSettings)} - {"dtype"}
  return EncoderSettings(**{name: model[name] for name in names}, dtype=_dtype(model))


def _dtype(model: ConfigDict) -> DTypeLike | None:
  return None if model.compute_dtype == "float32" else jnp.dtype(model.compute_dtype)


def _backbone(
  model: ConfigDict, axis: Axis | None, dtype: DTypeLike | None
) -> nn.Module:
  name, width = model.backbone, model.backbone_width
  if name in WIDTHS:
    return HRNet(WIDTHS[name], width, axis, dtype)
  if name == "blazepose":
    return BlazePose(normalized=True, dtype=dtype)
  return resnet.ResNet(name, width, axis, dtype)


def _upsampling_inits(name: str, levels: MeshLevels) -> tuple[Initializer, ...]:
  """One initializer a step up; none for PyTorch's default."""
  if name == "torch":
    return ()
  steps = range(len(levels.counts) - 2, -1, -1)
  return tuple(_geometry(levels, step) for step in steps)


def _geometry(levels: MeshLevels, step: int) -> Initializer:
  """A kernel that starts as the mesh's own interpolation."""

  def init(
    key: Array, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None
  ) -> Array:
    del key, out_sharding
    matrix = np.asarray(mesh_levels.upsample_matrix(levels, step)).T
    if matrix.shape != tuple(shape):
      raise ValueError(f"upsampling kernel: expected {shape}, got {matrix.shape}")
    return jnp.asarray(matrix, dtype or jnp.float32)

  return init


def parameter_counts(params: Mapping[str, Any]) -> dict[str, int]:
  """Numbers in each of the network's modules.

  Args:
    params: The "params" collection: arrays, or shapes from `jax.eval_shape`.

  Returns:
    By name of the module, in the network's order, with the sum as "total".
  """
  counts = {
    name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(module))
    for name, module in params.items()
  }
  return {**counts, "total": sum(counts.values())}
