"""Prepared datasets: whole, resumable, and exact about what they leave out."""

import errno
import json
import os
import pathlib
import pickle
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from metro_jax.data import mixture, schema
from metro_jax.data.builders import prepared, shards
from metro_jax.data.readers import formats

HERE = pathlib.Path(__file__).parent
rows = runpy.run_path(str(HERE / "tsv_rows.py"))
ROWS = 23


def open_reader(path):
  return formats.open_reader("tsv", formats.Source(path, "train"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
  """Good rows."""
  folder = tmp_path_factory.mktemp("source")
  return open_reader(rows["write"](folder, range(ROWS)))


@pytest.fixture(scope="module")
def built(reader, tmp_path_factory):
  """A dataset that two processes built, of three files."""
  folder = tmp_path_factory.mktemp("built")
  prepared.build(reader, folder, "3dpw", "train", workers=2, shard_rows=10)
  return folder


@pytest.fixture
def copied(built, tmp_path):
  """The same dataset, to be damaged."""
  shutil.copytree(built, tmp_path / "data")
  return tmp_path / "data"


@pytest.fixture
def odd_readers(monkeypatch):
  monkeypatch.syspath_prepend(HERE)
  import odd_readers

  return odd_readers


def assert_is(source, reader, chosen):
  """The rows of a source are those of a reader."""
  assert len(source) == len(chosen)
  for row, expected_row in enumerate(chosen):
    found, expected = source[row], reader.read(expected_row)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)


def bad_rows(*bad):
  """Label rows without a scale."""
  label = rows["label"](0)
  del label["scale"]
  return {row: rows["label_row"](row, label) for row in bad}


def test_a_dataset_holds_the_rows_of_its_reader_bit_for_bit(reader, built):
  source = prepared.open_split(built, "3dpw", "train")
  assert source.name == "3dpw/train" and source.labels == schema.BODY
  assert_is(source, reader, range(ROWS))
  assert source[-1]["key"] == rows["key"](ROWS - 1)
  with pytest.raises(IndexError, match=f"expected a row below {ROWS}, got {ROWS}"):
    source[ROWS]


def test_plain_tensorflow_datasets_opens_it(reader, built):
  folder = prepared.folder_of(built, "3dpw", "train")
  builder = tfds.builder_from_directory(folder)
  assert builder.info.splits["train"].shard_lengths == [10, 10, 3]
  found = builder.as_data_source("train")
  assert len(found) == ROWS
  expected = reader.read(17)
  assert found[17]["image"].shape == (48, 48, 3)
  np.testing.assert_array_equal(found[17]["joints_3d_m"], expected["joints_3d_m"])
  assert found[17]["key"].decode() == expected["key"]


def test_nothing_but_the_dataset_is_left(built):
  folder = prepared.folder_of(built, "3dpw", "train")
  names = sorted(path.name for path in folder.iterdir())
  assert names[:3] == [f"data_3dpw-train.array_record-0000{i}-of-00003" for i in "012"]
  assert names[3:] == [
    "dataset_info.json", "features.json", "refused.tsv", "summary.json"
  ]  # fmt: skip
  assert not list(folder.parent.glob("*.partial"))


def test_hands_are_stored_as_hands(tmp_path):
  path = rows["write"](tmp_path / "source", range(3), kind="hand")
  summary = prepared.build(open_reader(path), tmp_path, "freihand", "train", workers=1)
  assert summary.labels == "hand" and summary.mesh == 3
  source = prepared.open_split(tmp_path, "freihand", "train")
  assert source.labels == schema.HAND
  assert source[0]["joints_2d_px"].shape == (21, 3)


def test_bad_rows_are_left_out_counted_and_named(tmp_path):
  source = tmp_path / "source"
  half = {11: rows["image_row"](11)[:400]}
  reader = open_reader(
    rows["write"](source, range(20), images=half, labels=bad_rows(3))
  )
  summary = prepared.build(
    reader, tmp_path, "x", "y", workers=2, max_refused=0.1, shard_rows=4
  )
  kept = [row for row in range(20) if row not in (3, 11)]
  assert_is(prepared.open_split(tmp_path, "x", "y"), reader, kept)
  assert (summary.rows, summary.kept, summary.refused) == (20, 18, 2)
  folder = prepared.folder_of(tmp_path, "x", "y")
  assert json.loads((folder / "summary.json").read_text()) == summary._asdict()
  first, second = (folder / "refused.tsv").read_text().splitlines()
  assert first == "train.label.tsv row 3\tlabel: expected the field scale, got none"
  assert second.startswith("train.label.tsv row 11\timage: ")


def test_labels_are_counted(tmp_path):
  labels = {
    row: rows["label_row"](row, rows["label"](row) | {flag: 0})
    for row, flag in enumerate(
      ["has_2d_joints", "has_3d_joints", "has_smpl", "has_smpl"]
    )
  }
  path = rows["write"](tmp_path / "source", range(10), labels=labels)
  summary = prepared.build(open_reader(path), tmp_path, "x", "y", workers=1)
  assert (summary.joints_2d, summary.joints_3d, summary.mesh) == (9, 9, 8)


def test_too_many_bad_rows_stop_the_build_and_the_first_are_named(tmp_path):
  path = rows["write"](tmp_path / "source", range(30), labels=bad_rows(4, 5, 9, 21))
  reader = open_reader(path)
  with pytest.raises(ValueError, match=r"x/y: 4 of 30 rows are bad") as error:
    prepared.build(reader, tmp_path, "x", "y", 1, max_refused=0.1, shard_rows=10)
  named = "train.label.tsv row {}: label: expected the field scale, got none"
  for row in (4, 5, 9):
    assert named.format(row) in str(error.value)
  partial = tmp_path / "x" / "y" / "1.0.0.partial"
  assert str(partial / "refused.tsv") in str(error.value)
  assert len((partial / "refused.tsv").read_text().splitlines()) == 4
  assert not prepared.is_built(tmp_path, "x", "y")
  # What was read stays, for a build that takes more.
  summary = prepared.build(
    reader, tmp_path, "x", "y", 1, max_refused=0.2, shard_rows=10
  )
  assert summary.refused == 4 and summary.kept == 26


def test_one_shard_alone_may_hold_too_many(tmp_path):
  path = rows["write"](tmp_path / "source", range(10), labels=bad_rows(*range(1, 10)))
  with pytest.raises(ValueError, match=r"2 of 10 rows are bad so far"):
    prepared.build(open_reader(path), tmp_path, "x", "y", 1, max_refused=0.1)


def test_a_dataset_of_bad_rows_only_is_none(tmp_path):
  path = rows["write"](tmp_path / "source", range(3))
  (tmp_path / "source" / "train.linelist.tsv").write_text("7\n8\n")
  with open(path, "a") as file:
    file.write("linelist: train.linelist.tsv\n")
  with pytest.raises(ValueError, match=r"expected labels|no row was kept"):
    prepared.build(open_reader(path), tmp_path, "x", "y", 1, max_refused=1.0)
  assert not prepared.is_built(tmp_path, "x", "y")


def test_files_of_which_all_rows_are_bad_do_not_disturb_the_others(tmp_path):
  path = rows["write"](tmp_path / "source", range(8), labels=bad_rows(2, 3))
  reader = open_reader(path)
  prepared.build(reader, tmp_path, "x", "y", 1, max_refused=0.5, shard_rows=2)
  kept = [0, 1, 4, 5, 6, 7]
  assert_is(prepared.open_split(tmp_path, "x", "y"), reader, kept)
  folder = prepared.folder_of(tmp_path, "x", "y")
  plain = tfds.builder_from_directory(folder).as_data_source("y")
  assert [e["key"].decode() for e in plain] == [rows["key"](row) for row in kept]


def test_a_killed_build_goes_on_with_what_is_missing(tmp_path, capfd):
  path = rows["write"](tmp_path / "source", range(150))
  code = f"""
import pathlib
from metro_jax.data.builders import prepared
from metro_jax.data.readers import formats
path = pathlib.Path({str(path)!r})
reader = formats.open_reader("tsv", formats.Source(path, "train"))
prepared.build(reader, pathlib.Path({str(tmp_path)!r}), "x", "y", 1, shard_rows=2)
"""
  environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
  process = subprocess.Popen([sys.executable, "-c", code], env=environment)
  partial = tmp_path / "x" / "y" / "1.0.0.partial"
  while len(done := list(partial.glob("*.report.json"))) < 3:
    assert process.poll() is None, "ended before it was killed"
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not prepared.is_built(tmp_path, "x", "y")
  shard = done[0].with_name(done[0].name.removesuffix(".report.json"))
  before = shard.stat().st_mtime_ns
  reader = open_reader(path)
  prepared.build(reader, tmp_path, "x", "y", 2, shard_rows=2)
  left = int(capfd.readouterr().out.split("read ")[1].split()[0])
  assert 0 < left <= 150 - 6
  assert (tmp_path / "x/y/1.0.0" / shard.name).stat().st_mtime_ns == before
  assert_is(prepared.open_split(tmp_path, "x", "y"), reader, range(150))


def test_a_half_written_shard_is_written_again(reader, tmp_path, monkeypatch):
  monkeypatch.setattr(prepared, "_finish", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    prepared.build(reader, tmp_path, "x", "y", 1, shard_rows=5)
  monkeypatch.undo()
  partial = tmp_path / "x" / "y" / "1.0.0.partial"
  cut, unreported = sorted(partial.glob("*of-00005"))[1:3]
  cut.write_bytes(cut.read_bytes()[:-100])
  unreported.with_name(f"{unreported.name}.report.json").unlink()
  (partial / f".{cut.name}.7.partial").write_bytes(b"half")
  prepared.build(reader, tmp_path, "x", "y", 1, shard_rows=5)
  assert_is(prepared.open_split(tmp_path, "x", "y"), reader, range(ROWS))


def test_what_is_built_is_not_built_again(reader, built, monkeypatch):
  monkeypatch.setattr(shards, "write_all", lambda *_: pytest.fail("wrote something"))
  summary = prepared.build(reader, built, "3dpw", "train", 1)
  assert summary.kept == ROWS


def test_a_dataset_that_was_built_again_can_be_told_from_the_one_before(
  reader, built, copied
):
  first = prepared.open_split(built, "3dpw", "train").built
  assert prepared.open_split(copied, "3dpw", "train").built == first
  shutil.rmtree(copied / "3dpw" / "train")
  prepared.build(reader, copied, "3dpw", "train", workers=1)
  again = prepared.open_split(copied, "3dpw", "train")
  assert again.built != first
  assert mixture.Mixture([again, again]).built == f"{again.built} {again.built}"


def test_other_rows_of_many_are_other_data(odd_readers, tmp_path):
  reader = odd_readers.OddReader()
  reader.index = np.arange(100_000)  # pickles as a buffer
  first = prepared.build(reader, tmp_path, "x", "y", 1)
  assert prepared.build(reader, tmp_path, "x", "y", 1) == first
  reader.index[77_777] = 0
  with pytest.raises(ValueError, match=r"other or older files"):
    prepared.build(reader, tmp_path, "x", "y", 1)


def test_files_that_changed_are_other_data(tmp_path):
  path = rows["write"](tmp_path / "source", range(5))
  prepared.build(open_reader(path), tmp_path, "x", "y", 1)
  rows["write"](tmp_path / "source", range(6))
  with pytest.raises(ValueError, match=r"other or older files .*delete the folder"):
    prepared.build(open_reader(path), tmp_path, "x", "y", 1)


def test_a_folder_that_is_no_dataset_is_not_touched(reader, tmp_path):
  folder = prepared.folder_of(tmp_path, "x", "y")
  folder.mkdir(parents=True)
  (folder / "mine.txt").write_text("mine")
  with pytest.raises(ValueError, match="expected a dataset or nothing"):
    prepared.build(reader, tmp_path, "x", "y", 1)
  assert (folder / "mine.txt").read_text() == "mine"


def test_shards_of_files_that_changed_are_not_kept(tmp_path, monkeypatch):
  path = rows["write"](tmp_path / "source", range(6))
  monkeypatch.setattr(prepared, "_finish", lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    prepared.build(open_reader(path), tmp_path, "x", "y", 1, shard_rows=3)
  monkeypatch.undo()
  rows["write"](tmp_path / "source", range(10, 16))
  reader = open_reader(path)
  prepared.build(reader, tmp_path, "x", "y", 1, shard_rows=3)
  assert_is(prepared.open_split(tmp_path, "x", "y"), reader, range(6))


def test_a_row_that_ends_its_process_twice_is_refused_and_no_other(
  odd_readers, tmp_path
):
  reader = odd_readers.OddReader(deadly=(3, 4), unknown=(7,))
  summary = prepared.build(reader, tmp_path, "x", "y", 1, max_refused=0.3)
  source = prepared.open_split(tmp_path, "x", "y")
  keys = [source[i]["key"] for i in range(len(source))]
  assert keys == [f"odd/{row}" for row in (0, 1, 2, 5, 6, 8, 9)]
  lines = (prepared.folder_of(tmp_path, "x", "y") / "refused.tsv").read_text()
  assert lines.splitlines() == [
    "odd row 3\treading it ended a process twice (Killed)",
    "odd row 4\treading it ended a process twice (Killed)",
    "odd row 7\tRuntimeError: never seen before",
  ]
  assert summary.refused == 3


def test_a_process_that_is_killed_once_loses_no_row(odd_readers, tmp_path):
  reader = odd_readers.OddReader(deadly=(3,), once=str(tmp_path / "died"))
  summary = prepared.build(reader, tmp_path, "x", "y", 1)
  assert (tmp_path / "died").exists() and summary.kept == 10


def test_a_row_that_never_ends_is_refused(odd_readers, tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "PATIENCE_S", 1.0)
  reader = odd_readers.OddReader(endless=(5,))
  summary = prepared.build(reader, tmp_path, "x", "y", 1, max_refused=0.1)
  assert summary.kept == 9
  lines = (prepared.folder_of(tmp_path, "x", "y") / "refused.tsv").read_text()
  assert lines == "odd row 5\treading it took over 1 s twice\n"


def test_a_process_that_is_stopped_lets_go_of_the_thread_that_waits(
  odd_readers, tmp_path
):
  reader, said = odd_readers.OddReader(endless=(0,)), []
  job = pickle.dumps((reader, tmp_path, 0))
  worker = shards._Worker(job, reader, lambda _: None)

  def wait():
    try:
      worker.write(shards.Shard("x", 0, 10))
    except RuntimeError as error:
      said.append(str(error))

  thread = threading.Thread(target=wait, daemon=True)
  thread.start()
  time.sleep(0.5)
  worker.stop()
  thread.join(20)
  worker.close()
  assert said == ["the build was stopped"]


def test_a_process_that_cannot_start_is_reported(odd_readers, tmp_path, monkeypatch):
  reader = odd_readers.OddReader()
  monkeypatch.setattr(shards.sys, "path", [str(HERE.parents[1]), *sys.path[2:]])
  with pytest.raises(RuntimeError, match="a reading process did not start"):
    prepared.build(reader, tmp_path, "x", "y", 1)


@pytest.mark.parametrize("place", ["an import", "the reader"])
def test_a_process_that_hangs_while_it_starts_ends_the_build(
  odd_readers, tmp_path, monkeypatch, place
):
  monkeypatch.setattr(shards, "START_PATIENCE_S", 1.0)
  reader = odd_readers.OddReader()
  if place == "the reader":
    reader = odd_readers.SlowToOpen()
  else:
    (tmp_path / "array_record.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(TimeoutError, match="to start within 1 s"):
    prepared.build(reader, tmp_path, "x", "y", 1)


def test_a_full_disk_names_the_folder(reader, tmp_path, monkeypatch):
  def fail(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(shards, "write_all", fail)
  with pytest.raises(OSError, match=r"the disk is full after .* MB are free") as error:
    prepared.build(reader, tmp_path, "x", "y", 1)
  assert error.value.errno == errno.ENOSPC
  assert str(prepared.folder_of(tmp_path, "x", "y")) in str(error.value)
  assert not prepared.is_built(tmp_path, "x", "y")


def test_what_was_not_built_is_named_with_the_command_that_does(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"python -m metro_jax.prepare --name=x"):
    prepared.open_split(tmp_path, "x", "y")


@pytest.mark.parametrize("damage", ["cut", "missing", "info", "summary", "features"])
def test_a_damaged_dataset_fails_when_it_is_opened(copied, damage):
  folder = prepared.folder_of(copied, "3dpw", "train")
  last = sorted(folder.glob("*array_record*"))[-1]
  if damage == "cut":
    last.write_bytes(last.read_bytes()[:1000])
  elif damage == "missing":
    last.unlink()
  elif damage == "features":
    (folder / "features.json").write_text("{}")
  else:
    name = {"info": "dataset_info.json", "summary": "summary.json"}[damage]
    (folder / name).write_text('{"name": ')
  with pytest.raises(
    ValueError, match=r"dataset 3dpw/train in .*delete the fol"
  ) as error:
    prepared.open_split(copied, "3dpw", "train")
  assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_damaged_record_is_named_by_row(reader, copied):
  (file,) = prepared.folder_of(copied, "3dpw", "train").glob("*-00001-of-*")
  data = bytearray(file.read_bytes())
  place = data.find(reader.read(12)["image"][-100:-40])
  assert place > 0
  data[place] ^= 255
  file.write_bytes(data)
  source = prepared.open_split(copied, "3dpw", "train")
  assert source[11]["key"] == rows["key"](11)
  with pytest.raises(ValueError, match="row 12: damaged record"):
    source[12]


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    ({"name": "a/b"}, "--name: expected letters, digits and _, got 'a/b'"),
    ({"split": ""}, "--split: expected letters"),
    ({"max_refused": 1.5}, "--max_refused: expected a share 0 to 1"),
    ({"data_dir": pathlib.Path("gs://bucket/data")}, "expected a local folder"),
  ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
  reader, tmp_path, changes, problem
):
  arguments = {"data_dir": tmp_path, "name": "x", "split": "y"} | changes
  with pytest.raises(ValueError, match=problem):
    prepared.build(reader, **arguments)
  assert not list(tmp_path.iterdir())
