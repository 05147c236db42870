"""A fresh state follows from the seed; copies do not share memory."""

import pathlib

import jax
import numpy as np
import optax
import pytest

from metro_jax import config as base
from metro_jax.cluster import parallel
from metro_jax.models import setup
from metro_jax.training import state
from metro_jax.training.state import TrainState


@pytest.fixture
def on_devices(monkeypatch):
  monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[1] / "fixtures")
  import on_devices

  return on_devices


def test_a_fresh_state_follows_its_seed_and_has_the_shapes_foretold(on_devices):
  model, adam = on_devices.StandIn(), optax.adam(1e-3)
  template = jax.tree.map(np.float32, on_devices.make_geometry().template)
  first, other = (
    state.create(model, adam, template, on_devices.PX, seed) for seed in (0, 1)
  )
  assert set(first.variables) == {"params", "batch_stats"}
  assert first.step == 0
  assert (first.key != other.key).any()
  kernels = [s.params["Dense_0"]["kernel"] for s in (first, other)]
  assert (kernels[0] != kernels[1]).any()
  config = base.get_config()
  config.data.image_px = on_devices.PX
  network = setup.Network(model, None, None, template)
  told = setup.variable_shapes(network, config)
  assert jax.tree.structure(told) == jax.tree.structure(first.variables)
  for x, y in zip(jax.tree.leaves(told), jax.tree.leaves(first.variables), strict=True):
    assert (x.shape, x.dtype) == (y.shape, y.dtype)


def test_given_weights_replace_only_the_networks_own():
  fresh = TrainState({"a": 1}, {"b": 2}, "adam", 0, "key")
  got = state.with_weights(fresh, {"params": {"a": 3}, "batch_stats": {"b": 4}})
  assert got == TrainState({"a": 3}, {"b": 4}, "adam", 0, "key")


def test_donating_a_replicated_state_leaves_the_original_and_saved_copies_alone():
  original = np.arange(4.0, dtype=np.float32)
  on_device = jax.numpy.asarray(original)

  def add(x, batch, geometry):
    return x + batch.sum() + geometry.level_rows[0].sum()

  geometry = setup.Geometry(None, None, (np.ones(1, np.float32),))
  mapped = parallel.map_step(add, geometry, donate=True)
  first = parallel.replicate(on_device)
  saved = parallel.unreplicate(first)
  second = mapped(first, parallel.shard(np.ones((2, 1), np.float32)))
  np.testing.assert_array_equal(parallel.unreplicate(second), original + 3)
  np.testing.assert_array_equal(saved, original)
  np.testing.assert_array_equal(on_device, original)
