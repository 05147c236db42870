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
