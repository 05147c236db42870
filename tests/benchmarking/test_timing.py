"""Medians, quartiles and turns; nothing here looks at a real clock."""

import numpy as np
import pytest

from metro_jax.benchmarking import timing


def test_a_summary_is_median_and_quartiles():
  seconds = [5.0, 1.0, 4.0, 2.0, 9.0, 3.0]
  found = timing.summary(seconds)
  assert found.seconds == np.median(seconds)
  assert (found.low, found.high) == tuple(np.quantile(seconds, [0.25, 0.75]))
  assert found.repeats == 6
  assert found.spread == pytest.approx((found.high - found.low) / np.median(seconds))


def test_one_duration_has_no_spread():
  assert timing.summary([2.0]) == timing.Timing(2.0, 2.0, 2.0, 1)


def test_functions_take_turns_after_one_run_that_does_not_count():
  calls, now = [], [0.0]

  def run(name, seconds):
    def call():
      calls.append(name)
      now[0] += seconds * (100 if len(calls) <= 2 else 1)

    return call

  found = timing.interleaved(
    {"a": run("a", 1.0), "b": run("b", 3.0)}, budget_s=0.0, clock=lambda: now[0]
  )
  assert calls == ["a", "b"] * (1 + timing.FEWEST)
  assert (found["a"].seconds, found["b"].seconds) == (1.0, 3.0)
  assert found["a"].repeats == timing.FEWEST
