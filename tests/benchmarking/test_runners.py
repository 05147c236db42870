"""What is timed is the training step itself, under pmap and under plain jit."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from metro_jax.benchmarking import parts, runners
from metro_jax.planning import products, programs, stand_in

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "synthetic.py"
QUICK = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


@pytest.fixture(scope="module")
def tiny():
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("tiny")
  config.model.dropout = 0.1
  config.model.mask_fraction = 0.3
  config.train.batch_size = 8 * jax.local_device_count()
  network = stand_in.build(config).network
  return config, network, runners.fresh_state(config, network)


@pytest.fixture
def quick_compilation(monkeypatch):
  compile_ = jax.stages.Lowered.compile
  monkeypatch.setattr(
    jax.stages.Lowered, "compile", lambda self: compile_(self, compiler_options=QUICK)
  )


@pytest.mark.slow
@pytest.mark.skipif(jax.local_device_count() != 1, reason="plain jit knows one device")
def test_pmap_and_plain_jit_take_the_same_steps(tiny, quick_compilation):
  _, mapped = runners.training(*tiny)
  plain = runners.plain_training(*tiny)
  for _ in range(2):
    ours, theirs = mapped(), plain()
    for name, tolerance in (("loss", 1e-4), ("gradient_norm", 1e-2)):
      np.testing.assert_allclose(
        np.asarray(ours[name])[0], np.asarray(theirs[name]), rtol=tolerance
      )
  assert int(np.asarray(mapped.state.step)[0]) == int(plain.state.step) == 2


def test_the_parts_have_the_steps_operations(tiny):
  config, network, start = tiny
  size = config.train.batch_size // jax.local_device_count()
  step = programs.train_step(config, network, size)
  whole = products.of_step(step.function, "data", step.state, step.batch, step.geometry)
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
