"""What is timed is the training step itself, whole and in parts."""

import jax
import pytest

from metro_jax.benchmarking import parts
from metro_jax.planning import products, programs
from tests.fixtures import tiny_network


def test_the_parts_have_the_steps_operations():
  config, network, start = tiny_network.make()
  size = config.train.batch_size // jax.local_device_count()
  step = programs.train_step(config, network, size)
  arguments = (step.state, step.batch, step.geometry)
  whole = products.of_step(step.function, "data", *arguments)
  found = {
    part.name: sum(p.flops for p in products.of(part.function, *part.arguments))
    for part in parts.of(config, network, start)
  }
  assert list(found) == [
    *("backbone", "encoder block 0", "encoder block 1"),
    *("heads", "body model", "loss", "optimizer"),
  ]
  assert sum(found.values()) == pytest.approx(sum(p.flops for p in whole), rel=0.05)
  by_part = products.by_part(whole)
  for name in ("backbone", "encoder/block0", "encoder/block1"):
    mine = found[name.replace("/block", " block ")]
    assert mine == pytest.approx(by_part[name], rel=0.05)
