"""From a config to everything that a command needs to run the network."""

from typing import NamedTuple

from ml_collections import ConfigDict

from metro_jax.body import humanoid, mesh_levels, smpl_files, template
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import metro


class Network(NamedTuple):
  """The model and the body that it draws; arrays are NumPy's."""

  model: metro.METRO
  body: BodyModel
  levels: MeshLevels
  template: Template


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
  )


def _load(config: ConfigDict) -> tuple[BodyModel, MeshLevels]:
  """The body that the config's section names, with all its mesh levels."""
  if config.model == "smpl":
    return smpl_files.load_smpl(config.gender, config.assets_dir)
  if config.model == "mano":
    return smpl_files.load_mano("right", config.assets_dir)
  return humanoid.load(), humanoid.load_levels()
