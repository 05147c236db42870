"""Tables and JSON of results that were made up by hand."""

import json

import pytest

from metro_jax.benchmarking import report, suite
from metro_jax.benchmarking.ceiling import Ceiling
from metro_jax.benchmarking.input_speed import InputSpeed
from metro_jax.benchmarking.saving import Saving
from metro_jax.benchmarking.timing import Timing


def taken(seconds, repeats=5):
  return Timing(seconds, 0.9 * seconds, 1.1 * seconds, repeats)


def measured(train_s=0.5):
  return suite.Measured(
    ceiling=Ceiling(100e9, 1024, "float32"),
    rows=[suite.Row("train step", 16, taken(train_s), 20e9, 2.0 * 2**30, 9.0)],
    parts=[
      suite.Row("backbone", 16, taken(0.3), 12e9),
      suite.Row("optimizer", 16, taken(0.1)),
    ],
    pmap={"pmap": taken(0.51), "jit": taken(0.50)},
    input=InputSpeed(taken(0.2), taken(0.5), taken(0.1), 64, 2),
    saving=Saving(taken(0.5), taken(0.7), taken(0.05), 2),
  )


def test_speeds_and_shares_follow_from_the_times():
  found = report.values(measured(), {"backbone": "resnet18"})
  row = found["rows"]["train step"]
  assert row["images_per_second"] == 32
  assert row["flops_per_second"] == 40e9
  assert row["share_of_ceiling"] == 0.4
  assert found["ratios"]["pmap_over_jit"] == pytest.approx(1.02)
  assert found["ratios"]["step_beside_save_over_alone"] == pytest.approx(1.4)
  assert found["ratios"]["input_over_original"] == pytest.approx(2.5)
  assert found["input_images_per_second_and_core"] == pytest.approx(320)
  assert json.loads(json.dumps(found)) == found


def test_the_tables_say_what_was_found_and_which_bars_are_missed():
  lines = report.text(report.values(measured(), {})).splitlines()
  row = next(line for line in lines if line.startswith("| train step"))
  assert row == "| train step | 32.0 | 500.00 | ±10% of 5 | 2.00 GiB | 40.0 | 40% |"
  optimizer = next(line for line in lines if line.startswith("| optimizer"))
  assert optimizer == "| optimizer | 160.0 | 100.00 | ±10% of 5 |  |  |  |"
  assert "parts together: 400.00 ms, 80% of the training step" in lines
  assert "pmap over jit: 1.020 (bar: at most 1.02)" in lines
  assert "step beside save over alone: 1.400 (bar: at most 1.2, missed)" in lines
  assert "input over original: 2.500 (bar: at least 3, missed)" in lines


def test_a_comparison_shows_how_many_times_faster_it_is_now():
  old = report.values(measured(train_s=1.0), {})
  del old["parts"]["backbone"]
  lines = report.text(report.values(measured(), {}), old).splitlines()
  assert next(x for x in lines if x.startswith("| train step")).endswith("| 2.00 x |")
  assert next(x for x in lines if x.startswith("| backbone")).endswith("| new |")
  columns = [line.count("|") for line in lines if line.startswith("|")]
  assert len(set(columns)) == 1


def test_what_was_not_asked_for_is_left_out():
  nothing = measured()._replace(parts=[], pmap={}, input=None, saving=None)
  found = report.values(nothing, {})
  assert found["ratios"] == {} and "saving" not in found
  assert "part of the training step" not in report.text(found)


def test_a_file_to_compare_with_must_be_one_of_ours(tmp_path):
  with pytest.raises(FileNotFoundError, match="--compare: expected a file of --json"):
    report.read(tmp_path / "none.json")
  for text in ("{", "[]", '{"rows": []}', "{}"):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected results of --json"):
      report.read(path)
