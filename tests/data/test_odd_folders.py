"""Made-up folders go through prepare: good rows come out whole, all else is named."""

import errno
import os
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest

from metro_jax import prepare
from metro_jax.data.builders import prepared, shards
from metro_jax.data.readers import formats

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
odd = runpy.run_path(str(FIXTURES / "odd_folders.py"))
QUICK, WHOLE = range(36), range(36, 1236)
opened: list[str] = []  # by Python, while `watching` is set
watching = False


def _notice(event: str, arguments: tuple) -> None:
  if watching and event in ("open", "os.listdir", "os.scandir", "os.rename"):
    path = arguments[0]
    if isinstance(path, str | bytes | os.PathLike):
      opened.append(os.path.realpath(os.fsdecode(path)))


sys.addaudithook(_notice)


@pytest.fixture
def in_process(monkeypatch):
  """Writes shards here, without the second that starting a process takes."""

  def write_all(reader, folder, missing, workers, most, done, rows_read):
    for shard in missing:
      shards.write_shard(reader, folder, shard, most, {}, lambda row: None)
      done(shard, shards.read_report(folder, shard))

  monkeypatch.setattr(shards, "write_all", write_all)


def contents(folder: pathlib.Path) -> dict[str, tuple]:
  """What lies in a folder, but for the indices that may be written there."""
  found = {}
  for path in sorted(folder.rglob("*")):
    status = path.lstat()
    if path.suffix != ".lineidx" and not path.is_dir():
      found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
  return found


def run(made, folder: pathlib.Path) -> prepared.Summary:
  global watching
  source = formats.Source(made.source, "test", made.images)
  opened.clear()
  watching = True
  try:
    return prepare.prepare(made.format, source, folder / "data", "x", max_refused=1.0)
  finally:
    watching = False


def fail_once(monkeypatch, rng) -> OSError:
  """The disk is full, or may not be written, at some file of the build."""
  code = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)[rng.integers(3)]
  error, left = OSError(code, os.strerror(code)), [int(rng.integers(3))]
  replacing = shards.files.replacing

  def failing(path):
    if left[0] == 0:
      raise error
    left[0] -= 1
    return replacing(path)

  monkeypatch.setattr(shards.files, "replacing", failing)
  return error


def check(seed: int, folder: pathlib.Path, capsys) -> None:
  made = odd["make"](folder, seed)
  before = contents(folder)
  if seed % 5 == 0:
    with pytest.MonkeyPatch.context() as patch:
      error = fail_once(patch, np.random.default_rng(seed))
      with pytest.raises(OSError) as caught:
        run(made, folder)
      assert caught.value.errno in (error.errno, errno.ENOSPC)
    assert not prepared.is_built(folder / "data", "x", "test")
  summary = run(made, folder)
  out, err = capsys.readouterr()
  after = {path: x for path, x in contents(folder).items() if "/data/" not in path}
  assert after == before, "a file was written outside of --data_dir"
  assert not [path for path in opened if f"{folder}/outside" in path or "/dev" in path]
  assert "Traceback" not in out + err
  assert (summary.kept, summary.refused) == (len(made.good), made.refused)
  stored = prepared.folder_of(folder / "data", "x", "test")
  told = (stored / "refused.tsv").read_text(encoding="utf-8").splitlines()
  assert len(told) == made.refused and all(line.count("\t") == 1 for line in told)
  left_out = [int(x.split("left out ")[1].split()[0]) for x in out.splitlines()
              if "left out" in x]  # fmt: skip
  assert sum(left_out) == made.left_out
  expect_rows(made, prepared.open_split(folder / "data", "x", "test"))


def expect_rows(made, source) -> None:
  """The good rows in their order, each with its own numbers and picture."""
  names = source.labels.joints
  for row, (points, center, side, jpeg) in enumerate(made.good):
    example = source[row]
    found = example["joints_2d_px"]
    if made.joints:
      kept = [i for i, name in enumerate(made.joints) if name in names]
      found = found[[names.index(made.joints[i]) for i in kept]]
      points = points[kept]
    seen = points[:, 2] > 0
    np.testing.assert_array_equal(found[:, 2] > 0, seen)
    np.testing.assert_allclose(found[seen, :2], points[seen, :2], rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(example["center_px"], center, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(example["box_px"], side, rtol=1e-4, atol=2e-3)
    if jpeg is not None:
      assert example["image"] == jpeg
    assert example["image"].startswith(b"\xff\xd8")


@pytest.mark.parametrize("seed", QUICK)
def test_some_dozens_of_folders(seed, tmp_path, capsys, in_process):
  check(seed, tmp_path, capsys)


@pytest.mark.slow
def test_more_than_a_thousand_folders(tmp_path, capsys, in_process):
  failed = []
  for seed in WHOLE:
    folder = tmp_path / str(seed)
    try:
      check(seed, folder, capsys)
    except Exception as error:  # all of them, with what reproduces each
      failed.append(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}")
    shutil.rmtree(folder)
  assert not failed, "\n".join(failed)
