import numpy as np
import pytest

from metro_jax.evaluation import protocols, tables
from tests.fixtures.in_memory import InMemory

NAN = np.nan
PROTOCOL = protocols.SYNTHETIC._replace(
  joints=("Left", "Right"), metrics=("mpjpe_mm", "pck_150mm"), group="action"
)
ERRORS = {
  "mpjpe_mm": np.array([10.0, 20.0, 60.0, NAN]),
  "pck_150mm": np.array([1.0, 0.5, 0.25, NAN]),
}
JOINTS = {
  "mpjpe_mm": np.array([[1.0, 10.0], [3.0, NAN], [5.0, 20.0], [NAN, NAN]]),
  "pa_mpjpe_mm": np.array([[0.5, NAN], [0.5, NAN], [2.0, NAN], [NAN, NAN]]),
}


def made(groups):
  return tables.make(ERRORS, JOINTS, groups, PROTOCOL)


def test_means_per_joint_leave_out_what_is_not_labelled():
  joints = made([""] * 4).joints
  assert joints["Left"] == {"mpjpe_mm": 3.0, "pa_mpjpe_mm": 1.0}
  assert joints["Right"]["mpjpe_mm"] == 15.0
  assert np.isnan(joints["Right"]["pa_mpjpe_mm"])


def test_means_per_group_are_over_its_labelled_examples():
  found = made(["walk", "sit", "walk", "walk"])
  assert list(found.groups) == ["sit", "walk"]
  assert found.groups["walk"] == {"mpjpe_mm": 35.0, "pck_150mm": 0.625}
  assert found.examples == {"sit": 1, "walk": 3}


def test_examples_without_a_group_are_told_apart_unless_none_has_one():
  assert made([""] * 4).groups == {}
  found = made(["walk", "", "walk", ""])
  assert found.examples == {"walk": 2, "no action": 2}


def test_markdown_ends_with_the_mean_of_the_groups_and_dashes_what_is_missing():
  text = tables.as_markdown(made(["walk", "sit", "walk", "walk"]))
  assert "| joint |   MPJPE | PA-MPJPE |" in text
  assert "| Right | 15.0 mm |        – |" in text
  assert "| action        | examples |   MPJPE | 3D PCK |" in text
  assert "| mean of these |        4 | 27.5 mm |  0.562 |" in text
  lines = text.splitlines()
  assert len({len(line) for line in lines[:4]}) == 1 and lines[1].startswith("|---")


def test_json_has_null_where_nothing_was_measured():
  content = tables.as_json(made(["walk", "sit", "walk", "walk"]))
  assert content["joints"]["Right"]["pa_mpjpe_mm"] is None
  assert content["groups"]["walk"] == {
    "examples": 3,
    "mpjpe_mm": 35.0,
    "pck_150mm": 0.625,
  }


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0]])
def test_groups_are_read_by_row_as_text(rows):
  split = InMemory("fake/test", [{"group": "walk"}, {"group": b"sit"}, {}])
  expected = [["walk", "sit", ""][row] for row in rows]
  assert tables.groups_of(split, np.array(rows)) == expected
