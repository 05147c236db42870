"""Parts of a step take gradients of what trains, inner modules included."""

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.benchmarking import parts
from metro_jax.models import setup
from metro_jax.training import optimizer, state


@pytest.fixture(scope="module")
def config():
  config = base.get_config()
  config.model.update(backbone="resnet18", backbone_width=8)
  config.model.update(hidden_widths=(16, 16), output_widths=(8, 3))
  config.model.update(feedforward_widths=(16, 16), num_layers=1, num_heads=2)
  config.data.image_px = 64
  config.train.batch_size = jax.local_device_count()
  return config


@pytest.mark.parametrize(
  "frozen",
  ((), ("backbone",), ("backbone/conv1", "encoder/block1/head", "token_mixing")),
)
def test_each_part_has_gradients_of_its_moving_parameters_alone(config, frozen):
  config.optimizer.frozen = frozen
  network = setup.build(config)
  shapes = state.shapes(
    network.model,
    optimizer.make_optimizer(config),
    network.template,
    config.data.image_px,
  )
  start = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  found = {part.name: part for part in parts.of(config, network, start)}
  moving = optimizer.trained(start.params, frozen)
  encoder = moving.pop("encoder")
  wanted = {
    "backbone": moving.pop("backbone", {}),
    "encoder block 0": encoder["block0"],
    "encoder block 1": encoder["block1"],
    "heads": moving,
  }
  for name, params in wanted.items():
    if params:
      made = jax.eval_shape(found[name].function, *found[name].arguments)
      assert jax.tree.structure(made[0]) == jax.tree.structure(params), name
