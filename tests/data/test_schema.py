"""What examples and batches hold."""

import jax
import jaxtyping
import numpy as np
import pytest

from metro_jax.body import joints
from metro_jax.data import pipeline, schema


def fields(count):
  return {
    "image": np.zeros((count, 8, 8, 3), np.uint8),
    "color_gain": np.ones((count, 3), np.float32),
    "joints_2d": np.zeros((count, len(joints.J24), 3), np.float32),
    "joints_3d_m": np.zeros((count, len(joints.J24), 4), np.float32),
    "pose": np.zeros((count, 3 * len(joints.SMPL24)), np.float32),
    "shape": np.zeros((count, 10), np.float32),
    "has_joints_2d": np.ones(count, bool),
    "has_joints_3d": np.ones(count, bool),
    "has_mesh": np.ones(count, bool),
    "valid": np.ones(count, bool),
    "index": np.arange(count, dtype=np.int32),
  }


def test_a_batch_is_a_pytree_of_its_fields():
  batch = schema.Batch(**fields(4))
  assert len(jax.tree.leaves(batch)) == len(fields(4))
  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
  assert halves.pose.shape == (2, 2, 72)


@pytest.mark.parametrize(
  ("name", "wrong"),
  [
    ("pose", np.zeros((4, 71), np.float32)),
    ("pose", np.zeros((5, 72), np.float32)),  # another batch size
    ("image", np.zeros((4, 8, 8, 3), np.float32)),
    ("valid", np.ones(4, np.float32)),
  ],
)
def test_shapes_and_kinds_are_checked_in_tests(name, wrong):
  with pytest.raises(jaxtyping.TypeCheckError):
    schema.Batch(**(fields(4) | {name: wrong}))


def test_the_pipeline_checks_every_field_of_an_example():
  checked = {"key", "image", *pipeline._SHAPES}
  assert checked == set(schema.Example.__annotations__)
