"""Mixtures of datasets: rows, shares, epochs, names, complaints."""

import collections
import itertools
from types import SimpleNamespace

import pytest

from metro_jax.data import mixture
from metro_jax.data.mixture import Mixture
from metro_jax.data.pipeline import Source
from tests.fixtures.in_memory import InMemory


def named(name, count):
  """Makes examples that are their own names."""
  return InMemory(name, [{"key": f"{name}{row}"} for row in range(count)])


def of(*counts, weights=()):
  names = itertools.islice("abcdef", len(counts))
  return Mixture([named(*pair) for pair in zip(names, counts, strict=True)], weights)


def rows(source, places):
  order = mixture.order(source, seed=3)
  return [int(order[place]) for place in places]


def test_rows_count_through_the_datasets_in_order():
  source = of(2, 3, 1)
  keys = [source[i]["key"] for i in range(6)]
  assert keys == ["a0", "a1", "b0", "b1", "b2", "c0"]
  assert source[-1]["key"] == "c0"
  assert [mixture.part(source, i) for i in range(6)] == [0, 0, 1, 1, 1, 2]
  with pytest.raises(IndexError):
    source[6]


def test_a_single_dataset_is_part_0():
  assert mixture.part(named("a", 5), 4) == 0


def test_without_weights_an_epoch_is_every_example_once_shuffled_together():
  source = of(5, 9, 3)
  first, second = rows(source, range(17)), rows(source, range(17, 34))
  assert sorted(first) == sorted(second) == list(range(17))
  assert first != second
  parts = [source.part(row) for row in first]
  assert parts != sorted(parts)


def test_weights_are_the_shares_at_any_time_to_within_one():
  source = of(40, 5, 7, weights=(1, 2, 1))
  taken = collections.Counter()
  for place, row in enumerate(rows(source, range(400)), 1):
    taken[source.part(row)] += 1
    for part, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
      assert abs(taken[part] - share * place) <= 1


def test_with_weights_each_dataset_has_epochs_of_its_own():
  source = of(6, 4, weights=(1, 3))
  taken = [row for row in rows(source, range(160)) if source.part(row) == 1]
  assert len(taken) == 120
  for epoch in range(30):
    assert sorted(taken[4 * epoch : 4 * epoch + 4]) == [6, 7, 8, 9]


def test_any_place_is_found_without_those_before():
  source = of(6, 4, weights=(1, 3))
  assert rows(source, [97]) == [rows(source, range(98))[-1]]


def test_the_name_says_datasets_and_weights():
  assert of(2, 3).name == "a + b"
  assert of(2, 3, weights=(0.5, 2)).name == "0.5 a + 2 b"


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -1)])
def test_weights_that_do_not_fit_are_refused(weights):
  with pytest.raises(ValueError, match=r"config\.data\.weights: expected 2 positive"):
    of(2, 3, weights=weights)


def test_an_empty_dataset_is_named():
  with pytest.raises(ValueError, match="b: expected at least one example"):
    of(2, 0)


def test_a_mixture_is_a_source():
  assert isinstance(of(2, 3), Source)
  assert not isinstance(SimpleNamespace(name="x"), Source)
