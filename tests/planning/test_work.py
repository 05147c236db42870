"""A training's operations are those of the step that it takes."""

import jax
import numpy as np
import pytest

from metro_jax.benchmarking import pictures
from metro_jax.planning import chips, products, programs, work
from tests.fixtures import tiny_network


def by_part(config, network):
  """The operations of one device's step on pictures."""
  step = programs.train_step(config, network, 8)
  arguments = (step.state, step.batch, step.geometry)
  return products.by_part(products.of_step(step.function, "data", *arguments))


def test_an_images_operations_are_the_steps_over_its_examples():
  config, network, _ = tiny_network.make()
  batch = pictures.batch(config, config.train.batch_size)
  found = work.of_training(config, network, batch)
  assert found.flops_per_image == pytest.approx(
    sum(by_part(config, network).values()) / 8
  )
  assert found.peak_flops == 0  # of a CPU nothing is published


def test_maps_in_the_place_of_pictures_take_no_backbone(monkeypatch):
  config, network, _ = tiny_network.make()
  config.optimizer.frozen = (*config.optimizer.frozen, "backbone")
  batch = pictures.batch(config, config.train.batch_size)
  maps = np.zeros((len(batch.valid), 1, 1, 64), np.float16)
  chip = chips.CHIPS["TPU v5 lite"]
  monkeypatch.setattr(chips, "of", lambda kind: chip)
  found = work.of_training(config, network, batch.replace(image=maps))
  parts = by_part(config, network)
  assert parts.pop("backbone") > 0
  assert found.flops_per_image == pytest.approx(sum(parts.values()) / 8)
  assert found.peak_flops == 197e12 * jax.device_count()
