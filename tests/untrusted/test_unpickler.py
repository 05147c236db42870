"""Pickles of plain values are read as Python's own pickle reads them."""

import pickle

import pytest

from metro_jax.untrusted.unpickler import RefusedError, Unpickler, Unread

VALUES = (
  [None, True, False, 0, -1, 255, 256, 70_000, -(2**31), 2**40, -(2**2100), 0.1],
  ["a", "ä\n", "x" * 300, b"ab\xff", b"y" * 300],
  {"a": {"b": [1, (2,), (3, 4), (5, 6, 7), (8, 9, 10, 11), ()]}, 1: {}},
)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", VALUES, ids=("numbers", "texts", "containers"))
def test_plain_values_come_back_whatever_the_protocol(value, protocol):
  if protocol < 3 and value is VALUES[1]:
    value = [x for x in value if isinstance(x, str)]  # bytes need a call there
  reader, data = Unpickler(1000), pickle.dumps(value, protocol)
  assert reader.load(data + b"more") == value
  assert reader.length == len(data)


@pytest.mark.parametrize("protocol", range(6))
def test_a_tuple_that_holds_itself_comes_back(protocol):
  inner = []
  value = (inner, 1, 2, 3)
  inner.append(value)
  found = Unpickler(1000).load(pickle.dumps(value, protocol))
  assert found[0][0] is found
  assert found[1:] == (1, 2, 3)


def test_sets_are_not_made_and_calls_refused():
  assert Unpickler(99).load(pickle.dumps([{1, 2}], 4)) == [Unread("builtins.set")]
  with pytest.raises(RefusedError, match=r"calls builtins\.complex"):
    Unpickler(99).load(pickle.dumps(1j, 4))


def test_a_pickle_that_asks_for_what_is_outside_is_refused():
  with pytest.raises(RefusedError, match="more than itself"):
    Unpickler(99).load(b"\x80\x02K\x01Q.")
  with pytest.raises(RefusedError, match="instruction PERSID"):
    Unpickler(99).load(b"Pa\n.")
