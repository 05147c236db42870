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
  gendered: tuple[BodyModel, ...] = ()  # male and female, where errors are theirs


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
