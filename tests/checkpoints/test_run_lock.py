"""Two starts in one workdir: the second is refused, unless the first is dead."""

import contextlib
import importlib.util
import json
import os
import pathlib
import runpy
import subprocess
import sys
import time

import numpy as np
import pytest

from metro_jax import train as command
from metro_jax.checkpoints import bucket, checkpoint, run_lock
from metro_jax.checkpoints.run_lock import HeldError, RunLock

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
FAKE = runpy.run_path(str(ROOT / "tests" / "fixtures" / "fake_bucket.py"))


@pytest.fixture(scope="module")
def storage():
  """What is in a bucket that every client is sent to."""
  if importlib.util.find_spec("gcsfs") is None:
    pytest.skip("needs the extra gcs")
  with FAKE["Bucket"]() as made, pytest.MonkeyPatch.context() as patch:
    for name, value in made.environment.items():
      patch.setenv(name, value)
    bucket.expect_usable("gs://bucket/run")
    yield made.storage


@pytest.fixture(params=["folder", "bucket"])
def workdir(request, tmp_path):
  if request.param == "folder":
    return str(tmp_path / "run")
  storage = request.getfixturevalue("storage")
  storage.objects.clear()
  return "gs://bucket/run"


@pytest.fixture
def quick(monkeypatch):
  """A beat and a lease so short that tests can wait for them."""
  monkeypatch.setattr(run_lock, "BEAT_S", 0.1)
  monkeypatch.setattr(run_lock, "LEASE_S", 1.5)


@contextlib.contextmanager
def holder(workdir):
  started = [sys.executable, HERE / "lock_holder.py", ROOT, workdir, "0.1"]
  with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as process:
    try:
      assert process.stdout.readline() == "held\n"
      yield process
    finally:
      process.kill()


def change_record(workdir, **values):
  path = pathlib.Path(workdir) / run_lock.FILE
  record = {**json.loads(path.read_text()), **values}
  path.write_text(json.dumps(record).ljust(run_lock.RECORD_BYTES))


def test_a_second_start_is_refused_naming_the_holder_until_that_ends(workdir, quick):
  with RunLock(workdir):
    with pytest.raises(HeldError) as caught, RunLock(workdir):
      pass
    text = str(caught.value)
    assert f"process {os.getpid()} on " in text and "started 20" in text
    assert "\n" not in text
  with RunLock(workdir) as again:
    again.expect_held()
  leftovers = [] if "://" in workdir else list(pathlib.Path(workdir).parent.iterdir())
  assert leftovers == []  # a workdir that only the lock made is gone with it


def test_a_second_start_is_refused_and_after_kill_9_goes_on(workdir, quick):
  with holder(workdir) as process:
    with pytest.raises(HeldError) as caught, RunLock(workdir):
      pass
    assert f"process {process.pid} on " in str(caught.value)
    process.kill()
    process.wait()
    start = time.monotonic()
    with RunLock(workdir) as lock:
      lock.expect_held()
      if "://" not in workdir:  # the system knows; nobody waits for the lease
        assert time.monotonic() - start < run_lock.LEASE_S


def test_a_holder_elsewhere_is_alive_while_its_record_is_renewed(
  tmp_path, quick, monkeypatch
):
  monkeypatch.setattr(run_lock.files, "lock_now", lambda _: True)  # seen by no lock
  with RunLock(tmp_path):
    change_record(tmp_path, machine="another")
    with pytest.raises(HeldError), RunLock(tmp_path):
      pass


def test_a_silent_holder_elsewhere_is_taken_over_after_its_lease(tmp_path, quick):
  with RunLock(tmp_path):
    text = (tmp_path / run_lock.FILE).read_text()
  (tmp_path / run_lock.FILE).write_text(text)
  change_record(tmp_path, machine="another", renewed_s=time.time())
  start = time.monotonic()
  with RunLock(tmp_path):
    assert time.monotonic() - start >= run_lock.LEASE_S
  (tmp_path / run_lock.FILE).write_text(text)
  change_record(tmp_path, machine="another", renewed_s=time.time() - 3600)
  start = time.monotonic()
  with RunLock(tmp_path):
    assert time.monotonic() - start < run_lock.LEASE_S


def test_where_the_file_system_knows_no_locks_the_lease_decides(
  tmp_path, quick, monkeypatch
):
  def none_here(descriptor):
    raise OSError("No locks available")

  monkeypatch.setattr(run_lock.files, "lock_now", none_here)
  with RunLock(tmp_path), pytest.raises(HeldError), RunLock(tmp_path):
    pass


def test_whoever_was_taken_over_saves_nothing_more(tmp_path, quick):
  with RunLock(tmp_path) as lock:
    folder = tmp_path / "checkpoints"
    with checkpoint.Checkpoints(folder, 1, lock.expect_held) as checkpoints:
      checkpoints.save({"params": np.zeros(3)}, 1, None)
      checkpoints.wait()
      change_record(tmp_path, token="of another", pid=4711)
      checkpoints.save({"params": np.zeros(3)}, 2, None)
      with pytest.raises(
        checkpoint.CheckpointError, match="taken over by process 4711"
      ):
        checkpoints.wait()
      assert checkpoints.steps() == [1]
  assert not lock.is_held()
  assert (tmp_path / run_lock.FILE).exists()  # the other's


def test_only_the_first_process_of_a_run_takes_it(tmp_path):
  with RunLock(tmp_path / "run", here=False) as lock:
    lock.expect_held()
    assert not (tmp_path / "run").exists()


def test_train_is_refused_before_it_touches_anything(tmp_path):
  spec = importlib.util.spec_from_file_location("x", ROOT / "configs" / "synthetic.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("tiny")
  config.data.data_dir = str(tmp_path / "data")
  with RunLock(tmp_path / "run"):
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 6}\n')
    with pytest.raises(HeldError, match="stop that one or give another --workdir"):
      command.train(config, tmp_path / "run")
  names = sorted(path.name for path in (tmp_path / "run").iterdir())
  assert names == ["metrics.jsonl"]
  assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 6}\n'
