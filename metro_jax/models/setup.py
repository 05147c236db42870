"""From a config to everything that a command needs to run the network."""

from typing import NamedTuple

from ml_collections import ConfigDict

from metro_jax.body import humanoid, mesh_levels, template
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
    ValueError: If the body has no such mesh levels.
  """
  body = humanoid.load()
  levels = mesh_levels.choose(humanoid.load_levels(), tuple(config.body.levels))
  return Network(
    model=metro.build(config, levels),
    body=body,
    levels=levels,
    template=template.make_template(body, levels),
  )
