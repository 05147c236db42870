"""Expected values are computed by hand: two ranks with batches of two."""

import numpy as np
import pytest

from metro_jax.evaluation import averaging

NAN = np.nan


def mean(name, *values):
  return averaging.original_means({name: np.array(values)}, 2, ranks=2)[name]


def test_ranks_take_turns_repeat_the_first_and_count_alike():
  # Rank 0: 1 3 | 5, rank 1: 2 4 | 1 again; (9/3 + 7/3) / 2, where the mean is 3.
  assert mean("mpjpe_mm", 1.0, 2.0, 3.0, 4.0, 5.0) == pytest.approx(8 / 3)


def test_other_errors_count_labelled_examples_only():
  # Rank 0: 3 | 5, rank 1: 2 4 | nothing.
  assert mean("mpjpe_mm", NAN, 2.0, 3.0, 4.0, 5.0) == pytest.approx(3.5)


def test_pa_mpjpe_takes_zeros_for_unlabelled_examples():
  # Rank 0: (0 + 3) / 2 weighing 1, then 5 weighing 1; rank 1: 3 weighing 2.
  assert mean("pa_mpjpe_mm", NAN, 2.0, 3.0, 4.0, 5.0) == pytest.approx(3.125)


def test_a_split_that_divides_and_is_labelled_has_the_exact_mean():
  values = np.random.default_rng(0).uniform(size=8 * 30 * 2)
  got = averaging.original_means({"pa_mpjpe_mm": values}, 30)
  assert got["pa_mpjpe_mm"] == pytest.approx(values.mean(), rel=1e-12)


def test_a_metric_without_labels_is_nan():
  assert np.isnan(mean("mpvpe_mm", NAN, NAN, NAN))
