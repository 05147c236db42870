"""What examples and batches hold."""

import jax
import jaxtyping
import numpy as np
import pytest

from metro_jax.body import joints
from metro_jax.data import schema
from metro_jax.data.batch import Batch


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
    "dataset": np.zeros(count, np.int32),
    "gender": np.zeros(count, np.int32),
  }


def test_a_batch_is_a_pytree_of_its_fields():
  batch = Batch(**fields(4))
  assert len(jax.tree.leaves(batch)) == len(fields(4))
  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), batch)
  assert halves.pose.shape == (2, 2, 72)


@pytest.mark.parametrize(
  ("name", "wrong"),
  [
    ("joints_3d_m", np.zeros((4, 23, 4), np.float32)),  # 2D joints are 24
    ("pose", np.zeros((5, 72), np.float32)),  # another batch size
    ("image", np.zeros((4, 8, 8, 3), np.float32)),
    ("valid", np.ones(4, np.float32)),
  ],
)
def test_shapes_and_kinds_are_checked_in_tests(name, wrong):
  with pytest.raises(jaxtyping.TypeCheckError):
    Batch(**(fields(4) | {name: wrong}))


def test_the_pipeline_checks_every_field_of_an_example():
  checked = {"key", "image", *schema.example_shapes(schema.BODY)}
  assert checked == schema.Example.__required_keys__


def test_labels_that_a_source_lacks_are_zeros_with_their_flag_off():
  made = schema.make_example(schema.HAND, "a/1", b"jpeg", [3, 4], 5)
  assert made["joints_2d_px"].shape == (21, 3) and made["pose"].shape == (48,)
  assert not any(made[name] for name in made if name.startswith("has_"))
  assert np.isnan(made["camera"]).all() and made["gender"] == 0
  full = schema.make_example(
    schema.BODY,
    "b/2",
    b"jpeg",
    [3, 4],
    5,
    joints_3d_m=np.ones((24, 4)),
    pose=np.ones(72),
    shape=np.ones(10),
    gender="female",
    group="walking",
  )
  assert full["has_joints_3d"] and full["has_mesh"] and not full["has_joints_2d"]
  assert full["gender"] == 2 and full["group"] == "walking"
  assert full["pose"].dtype == np.float32


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"joints_2d_px": np.zeros((21, 3))}, r"joints_2d_px: expected shape \(24, 3\)"),
    ({"joints_2d_px": "none"}, "joints_2d_px: expected numbers"),
    ({"joints_2d_px": np.full((24, 3), 1e300)}, "joints_2d_px: expected finite"),
    ({"joints_3d_m": np.full((24, 4), 2)}, "joints_3d_m: expected confidences 0 to 1"),
    ({"pose": np.zeros(72)}, "shape: expected pose and shape together"),
    ({"gender": "other"}, "gender: expected one of neutral, male, female"),
    ({"box_px": 0}, "box_px: expected a positive side"),
    ({"box_px": float("nan")}, "box_px: expected finite"),
    ({"center_px": [1]}, r"center_px: expected shape \(2,\)"),
  ],
)
def test_an_example_that_cannot_be_is_refused(wrong, message):
  fields = {"key": "a", "image": b"jpeg", "center_px": [3, 4], "box_px": 5} | wrong
  with pytest.raises(ValueError, match=message):
    schema.check_example(schema.make_example(schema.BODY, **fields))


def whole():
  ones = np.ones((24, 1))
  return schema.make_example(
    schema.BODY,
    "a",
    b"jpeg",
    [3, 4],
    5,
    joints_2d_px=np.concatenate([np.full((24, 2), 7.0), ones], 1),
    joints_3d_m=np.concatenate([np.full((24, 3), 0.5), ones], 1),
    pose=np.zeros(72),
    shape=np.zeros(10),
  )


def broken(name, place, value):
  array = np.array(whole()[name])
  array[place] = value
  return {name: array}


@pytest.mark.parametrize(
  ("damaged", "message"),
  [
    (broken("pose", 5, np.nan), r"pose: expected finite numbers, got nan at \[5\]"),
    (broken("joints_2d_px", (2, 1), np.inf), r"joints_2d_px: .* got inf at \[2, 1\]"),
    (broken("joints_3d_m", (0, 3), 1.5), "confidences 0 to 1, got 1.5"),
    ({"shape": np.zeros(11)}, r"shape: expected shape \(10,\), got \(11,\)"),
    ({"box_px": np.float32(-4)}, "box_px: expected a positive side, got -4"),
    ({"center_px": np.array(["a", "b"])}, "center_px: expected numbers, got <U1"),
  ],
)
def test_what_no_reader_may_make_is_named(damaged, message):
  with pytest.raises(ValueError, match=message):
    schema.check_example(whole() | damaged)


def test_a_missing_field_is_named():
  example = whole()
  del example["pose"]
  with pytest.raises(ValueError, match=r"expected the field pose, got \["):
    schema.check_example(example)


def test_other_labels_than_the_datasets_are_refused():
  with pytest.raises(ValueError, match=r"expected shape \(21, 3\)"):
    schema.check_example(whole(), schema.HAND)
