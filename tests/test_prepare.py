"""The command: from files to a dataset, and what became of it in one line."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from metro_jax import prepare
from metro_jax.data.builders import prepared
from metro_jax.data.readers import formats

HERE = pathlib.Path(__file__).parent
rows = runpy.run_path(str(HERE / "data" / "tsv_rows.py"))


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "metro_jax.prepare", *map(str, arguments)],
    env=os.environ | {"PYTHONPATH": str(HERE.parent)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command_prepares_and_says_what_it_read_kept_and_refused(tmp_path):
  label = rows["label_row"](3, rows["label"](3) | {"scale": "wide"})
  path = rows["write"](tmp_path / "source", range(8), labels={3: label})
  arguments = [
    "--format=tsv", f"--source={path}", "--name=h36m", "--split=train",
    f"--data_dir={tmp_path}", "--workers=1", "--max_refused=0.2",
  ]  # fmt: skip
  done = run(*arguments)
  assert done.returncode == 0, done.stderr
  assert done.stderr == ""
  first, last = done.stdout.splitlines()
  assert first.startswith("h36m/train: read 8 of 8 rows, ")
  folder = prepared.folder_of(tmp_path, "h36m", "train")
  assert last.startswith(f"{folder}: 7 of 8 rows, 1 refused (refused.tsv); 7 with 2D")
  assert "7 with pose and shape of a body" in last
  assert len(prepared.open_split(tmp_path, "h36m", "train")) == 7
  again = run(*arguments)
  assert again.returncode == 0 and again.stdout.splitlines() == [last]


def test_a_fault_is_one_line_and_exit_code_1(tmp_path):
  path = rows["write"](tmp_path, range(4), labels={2: rows["label_row"](2, {})})
  done = run(
    "--format=tsv",
    f"--source={path}",
    "--name=a",
    "--split=b",
    f"--data_dir={tmp_path}",
    "--workers=1",
  )
  assert done.returncode == 1
  assert done.stderr.count("\n") == 1
  assert done.stderr.startswith("prepare: a/b: 1 of 4 rows are bad so far, more than ")
  assert "train.label.tsv row 2: label: expected the field has_" in done.stderr


def test_a_bucket_is_refused_before_anything_is_read(tmp_path):
  source = formats.Source(tmp_path / "x.yaml", "train")
  with pytest.raises(ValueError, match=r"gs:/bucket/data: expected a local folder"):
    prepare.prepare("tsv", source, pathlib.Path("gs://bucket/data"), "x")


def test_the_drawn_dataset_keeps_its_name(tmp_path):
  source = formats.Source(tmp_path / "x.yaml", "train")
  with pytest.raises(ValueError, match="--name: synthetic is the dataset that we draw"):
    prepare.prepare("tsv", source, tmp_path, "synthetic")


def test_indices_go_to_the_data_folder_where_the_source_takes_none(tmp_path):
  path = rows["write"](tmp_path / "source", range(3))
  (tmp_path / "source" / "train.img.lineidx").mkdir()
  source = formats.Source(path, "train")
  prepare.prepare("tsv", source, tmp_path / "data", "x", workers=1)
  assert len(list((tmp_path / "data" / "indices").glob("train.img-*.lineidx"))) == 1


def test_options_are_keys_and_values():
  assert prepare.parse_options(["a=1", "b=x=y", "c="]) == {
    "a": "1", "b": "x=y", "c": ""
  }  # fmt: skip
  for wrong in ("a", "=1"):
    with pytest.raises(ValueError, match=f"expected KEY=VALUE, got '{wrong}'"):
      prepare.parse_options([wrong])
