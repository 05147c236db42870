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


def functions(monkeypatch, **seconds):
  """Functions that take so long by a clock of their own, the first time much longer."""
  calls, now = [], [0.0]

  def run(name):
    def call():
      calls.append(name)
      now[0] += seconds[name] * (100 if len(calls) <= len(seconds) else 1)

    return call

  monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
  return {name: run(name) for name in seconds}, calls, lambda: now[0]


def test_functions_take_turns_after_one_run_that_does_not_count(monkeypatch):
  runs, calls, clock = functions(monkeypatch, a=1.0, b=3.0)
  found = timing.interleaved(runs, budget_s=400.0, clock=clock)
  repeats = found["a"].repeats
  assert calls == ["a", "b"] * (1 + repeats)
  assert (found["a"].seconds, found["b"].seconds) == (1.0, 3.0)
  assert repeats == found["b"].repeats == 101  # 100 turns of 4 s fill the budget


def test_what_takes_longer_than_the_budget_is_repeated_once(monkeypatch):
  runs, calls, clock = functions(monkeypatch, a=1.0)
  found = timing.one(runs["a"], budget_s=0.9, clock=clock)
  assert found == timing.Timing(1.0, 1.0, 1.0, 1)
  assert calls == ["a", "a"]


def test_what_does_not_is_repeated_thrice_at_least(monkeypatch):
  runs, calls, clock = functions(monkeypatch, a=1.0)
  calls.append("before")  # so that the first run is as fast as the others
  found = timing.one(runs["a"], budget_s=1.0, clock=clock)
  assert found.repeats == timing.FEWEST == 3
