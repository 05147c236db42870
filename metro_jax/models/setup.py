"""From a config to everything that a command needs to run the network."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from metro_jax.body import humanoid, mesh_levels, smpl_files, template
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import metro

Array = Any  # np.ndarray or jax.Array


class Geometry(NamedTuple):
  """The body's constant arrays, handed to every step as an argument.

  Attributes:
    body: The articulated mesh.
    template: The network's queries.
    level_rows: Per mesh level, coarse to fine, which vertices of the full mesh it
      keeps.
    gendered: The male and the female body where truth is theirs, otherwise none.
  """

  body: BodyModel
  template: Template
  level_rows: tuple[Array, ...]
  gendered: tuple[BodyModel, ...] = ()


class Network(NamedTuple):
  """The model and the body that it draws; arrays are NumPy's."""

  model: nn.Module
  body: BodyModel
  levels: MeshLevels
  template: Template
  gendered: tuple[BodyModel, ...] = ()  # male and female, where errors are theirs

  @property
  def geometry(self) -> Geometry:
    """What the steps need of the body."""
    rows = mesh_levels.rows_of_levels(self.levels)
    return Geometry(self.body, self.template, rows, self.gendered)


def build(config: ConfigDict) -> Network:
  """Loads the body and makes the network for it; allocates nothing on a device.

  Raises:
    FileNotFoundError: If a licensed body's files are missing, with where to get them.
    ValueError: If such a file is damaged, or the body has no such mesh levels.
  """
  body, levels = _load(config.body)
  levels = mesh_levels.choose(levels, tuple(config.body.levels))
  return Network(
    model=metro.build(config, levels),
    body=body,
    levels=levels,
    template=template.make_template(body, levels),
    gendered=_load_gendered(config),
  )


def make_variables(
  model: nn.Module, template: Template, image_px: int, key: Array
) -> dict[str, Any]:
  """Draws a network's first parameters, and BatchNorm's statistics or {}."""
  image = jnp.zeros((1, image_px, image_px, 3), jnp.float32)
  variables = model.init(key, image, template, None, train=False)
  return {
    "params": variables["params"],
    "batch_stats": variables.get("batch_stats", {}),
  }


def variable_shapes(network: Network, config: ConfigDict) -> dict[str, Any]:
  """Gives the network's variables as `jax.ShapeDtypeStruct`s; allocates nothing."""

  def init(key: Array) -> dict[str, Any]:
    px = config.data.image_px
    return make_variables(network.model, network.template, px, key)

  return jax.eval_shape(init, jax.random.key(0))


def _load(config: ConfigDict) -> tuple[BodyModel, MeshLevels]:
  """The body that the config's section names, with all its mesh levels."""
  if config.model == "smpl":
    return smpl_files.load_smpl(config.gender, config.assets_dir)
  if config.model == "mano":
    return smpl_files.load_mano("right", config.assets_dir)
  return humanoid.load(), humanoid.load_levels()


def _load_gendered(config: ConfigDict) -> tuple[BodyModel, ...]:
  if config.eval.ground_truth != "gendered":
    return ()
  load, folder = smpl_files.load_smpl, config.body.assets_dir
  return tuple(load(gender, folder).body for gender in ("male", "female"))
