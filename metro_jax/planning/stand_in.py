"""The network of a config whose licensed body is not there: its shapes are known.

A compiler looks at shapes alone, so that a body of the same shapes stands in for SMPL
or MANO where their files are missing.
"""

import itertools
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from metro_jax.body import humanoid, joints, mesh_levels, template
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.models import metro, setup
from metro_jax.models.setup import Network

SMPL_BENDS = 9 * (len(joints.SMPL24) - 1)  # pose blend shapes
MANO_BENDS = 9 * (len(joints.MANO16) - 1)
MANO_VERTICES, MANO_FACES, SHAPES = 778, 1538, 10


class Found(NamedTuple):
  """A network, and what stands in for what; "" if it is the real body."""

  network: Network
  note: str


def build(config: ConfigDict) -> Found:
  """The config's network, its body replaced if the body's files are missing.

  Raises:
    ValueError: If the body has no such mesh levels, or its files are damaged.
  """
  try:
    return Found(setup.build(config), "")
  except FileNotFoundError:
    pass
  is_hand = config.body.model == "mano"
  body = _hand() if is_hand else _body()
  all_levels = _hand_levels() if is_hand else humanoid.load_levels()
  levels = mesh_levels.choose(all_levels, tuple(config.body.levels))
  network = Network(
    model=metro.build(config, levels),
    body=body,
    levels=levels,
    template=template.make_template(body, levels),
    gendered=(body, body) if config.eval.ground_truth == "gendered" else (),
  )
  stand_in = "a hand of zeros" if is_hand else "the embedded body"
  note = f"{config.body.model}: files not found, {stand_in} of its shapes stands in"
  return Found(network, note)


def _body() -> BodyModel:
  """The embedded body with SMPL's pose blend shapes, all zero."""
  body = humanoid.load()
  bends = np.zeros((*body.template.shape, SMPL_BENDS), np.float32)
  return body.replace(pose_directions=bends)


def _hand() -> BodyModel:
  v, k = MANO_VERTICES, len(joints.MANO16)
  return BodyModel(
    template=np.zeros((v, 3), np.float32),
    shape_directions=np.zeros((v, 3, SHAPES), np.float32),
    pose_directions=np.zeros((v, 3, MANO_BENDS), np.float32),
    joint_regressor=np.zeros((k, v), np.float32),
    skin_weights=np.zeros((v, k), np.float32),
    regressors={"hand21": np.zeros((len(joints.HAND21), v), np.float32)},
    faces=np.zeros((MANO_FACES, 3), np.int32),
    parents=joints.MANO16_PARENTS,
    name="hand",
    pose_mean=np.zeros(3 * k, np.float32),
  )


def _hand_levels() -> MeshLevels:
  """METRO's 778 and 195 vertices, and 49, of no shape."""
  counts = (MANO_VERTICES, 195, 49)
  pairs = tuple(itertools.pairwise(counts))
  return MeshLevels(
    counts,
    tuple(np.arange(coarse, dtype=np.int32) for _, coarse in pairs),
    tuple(np.zeros((fine, 3), np.int32) for fine, _ in pairs),
    tuple(np.full((fine, 3), 1 / 3, np.float32) for fine, _ in pairs),
    tuple(np.zeros((1, 3), np.int32) for _ in counts),
  )
