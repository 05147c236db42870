"""Tables and JSON of results that were made up by hand."""

import json

import pytest

from metro_jax.benchmarking import report, suite
from metro_jax.benchmarking.ceiling import Ceiling
from metro_jax.benchmarking.timing import Timing


def taken(seconds, repeats=5):
  return Timing(seconds, 0.9 * seconds, 1.1 * seconds, repeats)


def rows(train_s=0.5):
  return [
    suite.Row("train step", 16, taken(train_s), 20e9, 2.0 * 2**30, 9.0),
    suite.Row("input, all threads", 64, taken(0.1), per_core=320.0),
    suite.Row("backbone", 16, taken(0.3), 12e9, is_part=True),
    suite.Row("optimizer", 16, taken(0.1), is_part=True),
  ]


def reported(measured, old=None):
  """The results, and all lines about them."""
  found = report.values(Ceiling(100e9, 1024, "float32"), {"backbone": "resnet18"})
  texts = [report.heading(found)]
  texts += [report.add(found, row, old) for row in measured]
  return found, "\n".join([*texts, report.closing(found)]).splitlines()


def test_speeds_and_shares_follow_from_the_times():
  found, _ = reported(rows())
  row = found["rows"]["train step"]
  assert row["images_per_second"] == 32
  assert row["flops_per_second"] == 40e9
  assert row["share_of_ceiling"] == 0.4
  assert found["input_images_per_second_and_core"] == pytest.approx(320)
  assert list(found["parts"]) == ["backbone", "optimizer"]
  assert json.loads(json.dumps(found)) == found


def test_the_tables_say_what_was_found():
  _, lines = reported(rows())
  assert lines[1].startswith("matmul ceiling: 100 GFLOP/s a device, float32, 1024")
  row = next(line for line in lines if line.startswith("| train step"))
  assert row == "| train step | 32.0 | 500.00 | ±10% of 5 | 2.00 GiB | 40.0 | 40% |"
  optimizer = next(line for line in lines if line.startswith("| optimizer"))
  assert optimizer == "| optimizer | 160.0 | 100.00 | ±10% of 5 |  |  |  |"
  assert "parts together: 400.00 ms, 80% of the training step" in lines
  assert lines[-1] == "input: 320 images/s a core, from JPEGs of 500 pixels"


def test_each_table_has_one_head_over_its_first_line():
  _, lines = reported(rows())
  assert [
    line.split("|")[1] for line in lines if line.endswith("of the ceiling |")
  ] == [
    "  ",
    " part of the training step ",
  ]
  heads = [n for n, line in enumerate(lines) if line.startswith("|---")]
  assert lines[heads[0] + 1].startswith("| train step")
  assert lines[heads[1] + 1].startswith("| backbone")
  assert all(not lines[n - 2] for n in heads)  # Markdown wants an empty line before


def test_a_comparison_shows_how_many_times_faster_it_is_now():
  old, _ = reported(rows(train_s=1.0))
  del old["parts"]["backbone"]
  _, lines = reported(rows(), old)
  assert next(x for x in lines if x.startswith("| train step")).endswith("| 2.00 x |")
  assert next(x for x in lines if x.startswith("| backbone")).endswith("| new |")
  columns = [line.count("|") for line in lines if line.startswith("|")]
  assert len(set(columns)) == 1


def test_what_was_not_asked_for_is_left_out():
  found, lines = reported(rows()[:1])
  assert "input_images_per_second_and_core" not in found
  assert not any("part" in line for line in lines)


def test_a_file_to_compare_with_must_be_one_of_ours(tmp_path):
  with pytest.raises(FileNotFoundError, match="--compare: expected a file of --json"):
    report.read(tmp_path / "none.json")
  for text in ("{", "[]", '{"rows": []}', "{}"):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected results of --json"):
      report.read(path)
