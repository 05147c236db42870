import json

import pytest

from metro_jax import files


def test_a_file_changes_only_when_all_of_it_is_written(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  with pytest.raises(RuntimeError), files.replacing(path) as partial:
    partial.write_text("half")
    raise RuntimeError
  assert path.read_text() == "old"
  with files.replacing(path) as partial:
    partial.write_text("new")
    assert path.read_text() == "old"
  assert path.read_text() == "new"
  assert list(tmp_path.iterdir()) == [path]


def test_json_that_may_not_hold_nan_leaves_the_file_as_it_was(tmp_path):
  path = tmp_path / "a.json"
  files.write_json(path, {"a": [1, None]}, allow_nan=False)
  with pytest.raises(ValueError):
    files.write_json(path, {"a": float("nan")}, allow_nan=False)
  assert json.loads(path.read_text()) == {"a": [1, None]}
  assert list(tmp_path.iterdir()) == [path]
