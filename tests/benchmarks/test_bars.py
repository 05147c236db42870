"""Ratios follow from their times; both sides do the same work."""

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.benchmarking import runners
from metro_jax.benchmarking.timing import Timing
from metro_jax.data import augment, exact_crop
from tests.benchmarks import bars, original_input, plain_jit
from tests.fixtures import tiny_network

QUICK = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


def taken(seconds):
  return Timing(seconds, 0.9 * seconds, 1.1 * seconds, 5)


@pytest.mark.parametrize(
  ("question", "first", "second", "line"),
  [
    ("pmap", "pmap", "jit", "pmap over jit: 1.020 (bar: at most 1.02)"),
    ("saving", "beside", "alone", "beside over alone: 1.020 (bar: at most 1.2)"),
    (
      *("input", "original", "ours"),
      "original over ours: 1.020 (bar: at least 3, missed)",
    ),
  ],
)
def test_a_ratio_is_that_of_the_first_two_times(question, first, second, line):
  found = {first: taken(0.51), second: taken(0.5), "other": taken(9.0)}
  lines = bars.text(question, found).splitlines()
  assert lines[0] == line
  assert lines[1] == f"  {first}: 510.00 ms, ±10% of 5"


def test_a_missed_bar_is_said_on_both_sides():
  slow = {"beside": taken(0.7), "alone": taken(0.5)}
  assert "1.400 (bar: at most 1.2, missed)" in bars.text("saving", slow)
  fast = {"original": taken(1.6), "ours": taken(0.5)}
  assert "3.200 (bar: at least 3)" in bars.text("input", fast)


def test_both_sides_do_the_same_number_of_pictures(monkeypatch):
  config = base.get_config()
  config.train.batch_size, config.data.image_px = 2, 32
  ours, theirs = [], []
  crop, sample = exact_crop.views, original_input.sample
  way = augment.ARITHMETICS["exact"]._replace(
    views=lambda *a: ours.append(0) or crop(*a)
  )
  monkeypatch.setitem(augment.ARITHMETICS, "exact", way)
  monkeypatch.setattr(
    original_input, "sample", lambda *a: theirs.append(0) or sample(*a)
  )
  found = bars.input_over_original(config, budget_s=0.0, examples=5)
  # Two batches of two, each time and before the first.
  assert len(theirs) == 4 * (1 + found["original"].repeats)
  assert len(ours) == 4 * (1 + found["ours"].repeats)


@pytest.mark.slow
@pytest.mark.skipif(jax.local_device_count() != 1, reason="plain jit knows one device")
def test_pmap_and_plain_jit_take_the_same_steps(monkeypatch):
  compile_ = jax.stages.Lowered.compile
  monkeypatch.setattr(
    jax.stages.Lowered, "compile", lambda self: compile_(self, compiler_options=QUICK)
  )
  tiny = tiny_network.make()
  _, mapped = runners.training(*tiny)
  plain = plain_jit.training(*tiny)
  for _ in range(2):
    ours, theirs = mapped(), plain()
    for name, tolerance in (("loss", 1e-4), ("gradient_norm", 1e-2)):
      np.testing.assert_allclose(
        np.asarray(ours[name])[0], np.asarray(theirs[name]), rtol=tolerance
      )
  assert int(np.asarray(mapped.state.step)[0]) == int(plain.state.step) == 2
