"""Steps beside a save are those that begin before it is on disk."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from metro_jax.benchmarking import runners
from metro_jax.checkpoints.checkpoint import Checkpoints
from tests.benchmarks import saving


def test_saves_are_real_and_steps_go_on_beside_them(monkeypatch):
  written = []
  save = Checkpoints.save

  def seen(self, state, step, *arguments):
    written.append((step, jax.tree.map(np.array, state)))
    save(self, state, step, *arguments)

  monkeypatch.setattr(Checkpoints, "save", seen)
  count = jax.local_device_count()
  step = jax.jit(lambda state, batch: ({"n": state["n"] + batch}, state["n"]))
  trainer = runners.Trainer(step, {"n": jnp.zeros((count, 3))}, jnp.ones(()))
  found = saving.measure(trainer, budget_s=0.0)
  assert found.saves == len(written) >= 1
  assert found.alone.repeats >= 3 and found.beside.repeats >= 3
  assert found.ratio == found.beside.seconds / found.alone.seconds
  # The state went on between the saves, one device's copy of it.
  assert [n for n, _ in written] == list(range(1, found.saves + 1))
  counts = [state["n"][0] for _, state in written]
  assert all(later > earlier for earlier, later in itertools.pairwise(counts))
  assert written[0][1]["n"].shape == (3,)
