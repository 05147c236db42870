"""Our own messages and tensorflow-datasets' are the same, both ways."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from metro_jax.data import schema
from metro_jax.data.builders import records, split_source


def example(labels, **fields):
  rng = np.random.default_rng(3)
  count = len(labels.joints)
  return schema.make_example(
    labels,
    "S9_Straße.jpg",
    bytes(rng.integers(0, 256, 20_000, dtype=np.uint8)),
    rng.uniform(0, 300, 2),
    123.25,
    joints_2d_px=rng.uniform(0, 1, (count, 3)),
    joints_3d_m=rng.uniform(0, 1, (count, 4)),
    pose=rng.normal(size=3 * len(labels.tree)),
    shape=rng.normal(size=10),
    gender="female",
    group="Walking",
    **fields,
  )


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("labels", [schema.BODY, schema.HAND])
def test_what_is_written_is_read_back_bit_for_bit(labels):
  for one in (
    example(labels),
    example(labels, camera=[1, 2, 3]),
    schema.make_example(labels, "", b"\xff", [0, 0], 1),
  ):
    found = split_source.parse(records.writer(labels)(one), labels)
    assert_same(found, one)
    for name, value in one.items():
      assert type(found[name]) is type(value), name
      assert getattr(found[name], "dtype", None) == getattr(value, "dtype", None), name
    found["pose"][0] = 7  # callers may write into it


@pytest.mark.parametrize("labels", [schema.BODY, schema.HAND])
def test_tensorflow_datasets_reads_what_is_written(labels):
  one = example(labels)
  skip = {"image": tfds.decode.SkipDecoding()}
  found = records.features(labels).deserialize_example_np(
    records.writer(labels)(one), decoders=skip
  )
  assert found["key"].decode() == "S9_Straße.jpg" and found["group"] == b"Walking"
  texts = {name: one[name] for name in ("key", "group")}
  assert_same(found | texts, one)


def test_what_tensorflow_datasets_writes_is_read():
  one = example(schema.BODY)
  features = records.features(schema.BODY)
  message = features.serialize_example(features.encode_example(dict(one)))
  assert_same(split_source.parse(message, schema.BODY), one)


def test_a_cut_message_is_never_an_example():
  message = records.writer(schema.BODY)(example(schema.BODY))
  for end in [*range(0, 200, 7), *range(1_000, len(message), 997)]:
    with pytest.raises((ValueError, IndexError)):
      split_source.parse(message[:end], schema.BODY)


def test_features_tell_bodies_from_hands():
  for labels in (schema.BODY, schema.HAND):
    assert records.labels_of(records.features(labels).shape) == labels
  assert records.labels_of({"pose": (3,)}) is None
