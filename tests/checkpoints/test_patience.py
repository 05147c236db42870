"""What cannot be read now is no damage: it is tried again, and costs no checkpoint."""

import errno
import json
import os
import pathlib
from types import SimpleNamespace

import numpy as np
import orbax.checkpoint as ocp
import pytest

from metro_jax import export
from metro_jax.checkpoints import checkpoint, orbax_folder, patience, runs

HERE = pathlib.Path(__file__).parent
PASSING = (
  OSError(errno.ESTALE, "Stale file handle"),
  OSError(errno.EIO, "Input/output error"),
  PermissionError(errno.EACCES, "Permission denied"),
  TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
  ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
  MemoryError(),
  RuntimeError("Reauthentication is needed: the access token has expired"),
  ValueError('UNAVAILABLE: Error reading "params": HTTP response code: 503'),
  ValueError('PERMISSION_DENIED: Error reading "params": HTTP response code: 401'),
  ValueError("DEADLINE_EXCEEDED: Timeout was reached"),
  ValueError("RESOURCE_EXHAUSTED: Too many open files [os_error_code='24']"),
  ValueError("NOT_FOUND: No such device or address [os_error_code='6']"),
)
DAMAGE = (
  FileNotFoundError(errno.ENOENT, "No such file or directory"),
  json.JSONDecodeError("Expecting value", "{", 1),
  UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
  ValueError("DATA_LOSS: Error decoding manifest: CRC-32C checksum"),
  ValueError('OUT_OF_RANGE: Error reading "b/0": Requested byte range [0, 9)'),
  ValueError("NOT_FOUND: does not exist [os_error_code='2']"),
)
SEAMS = (
  (pathlib.Path, "read_text"),
  (pathlib.Path, "iterdir"),
  (ocp.CheckpointManager, "__init__"),
  (ocp.CheckpointManager, "restore"),
)


def state(step):
  params = {"a": np.full((3, 4), step, np.float32)}
  return {"params": params, "batch_stats": {"m": np.zeros(3, np.float32)}}


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A workdir with two good checkpoints, of which the first is the best."""
  monkeypatch.setattr(patience, "DELAYS_S", (0.0, 0.0))
  monkeypatch.setattr(orbax_folder, "LATE_READS_S", 0.0)
  (tmp_path / "config.json").write_text(json.dumps({"train": {"num_steps": 7}}))
  (tmp_path / "eval").mkdir()
  (tmp_path / "eval" / "test.json").write_text("{}")
  with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
    for step, error_mm in ((1, 40.0), (2, 50.0)):
      checkpoints.save(state(step), step, {"step": step}, {"pa_mpjpe_mm": error_mm})
  return tmp_path


def restore(run):
  with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
    return checkpoints.restore(state(0)).step


def load(run):
  """What `evaluate` and `predict` read."""
  runs.load_config(run)
  return checkpoint.restore_variables(run / "checkpoints", "best").step


def load_and_measure(run):
  """What `export` reads."""
  export.measured_mm(run)
  return load(run)


def failing(patch, error, first, last=None):
  """Has reads number `first` to `last`, or all from then on, fail; counts them."""
  counter = SimpleNamespace(reads=0)

  def wrap(owner, name):
    original = getattr(owner, name)

    def read(*arguments, **options):
      counter.reads += 1
      if first <= counter.reads <= (last or counter.reads):
        raise error
      return original(*arguments, **options)

    patch.setattr(owner, name, read)

  for owner, name in SEAMS:
    wrap(owner, name)
  return counter


def names(run):
  return sorted(os.listdir(run / "checkpoints"))


@pytest.mark.parametrize(
  ("command", "step", "fewest"),
  [(restore, 2, 5), (load, 1, 6), (load_and_measure, 1, 7)],
  ids=["restore", "evaluate", "export"],
)
def test_each_error_at_each_read_leaves_every_checkpoint_where_it_was(
  run, monkeypatch, command, step, fewest
):
  monkeypatch.setattr(export.metrics, "NAMES", ())
  with monkeypatch.context() as patch:
    counter = failing(patch, None, 10**9)
    assert command(run) == step
  assert counter.reads >= fewest
  for read in range(1, counter.reads + 1):
    for error in PASSING:
      with monkeypatch.context() as patch:
        failing(patch, error, read)
        with pytest.raises(OSError, match="cannot be read now") as caught:
          command(run)
        assert "\n" not in str(caught.value)
      assert names(run) == ["1", "2"]
    with monkeypatch.context() as patch:  # a passing one is not even seen
      failing(patch, error, read, read)
      assert command(run) == step
  assert restore(run) == 2


def test_what_says_damage_is_listed_and_nothing_else_does():
  assert not any(map(orbax_folder.says_damage, PASSING))
  assert all(map(orbax_folder.says_damage, DAMAGE))


def test_attempts_become_rarer_and_end_with_the_reason(monkeypatch, caplog):
  waited = []
  monkeypatch.setattr(patience.time, "sleep", waited.append)
  with pytest.raises(patience.UnreadableError) as caught:
    patience.patiently("a file", lambda: 1 / 0)
  assert str(caught.value) == (
    "a file: cannot be read now (ZeroDivisionError: division by zero)"
  )
  assert waited == sorted(waited) and 20 < sum(waited) < 60
  assert len(caplog.records) == len(waited)


def test_what_cannot_be_ranked_just_now_is_not_pruned(run, monkeypatch):
  original = pathlib.Path.read_text

  def stale(path, *arguments, **options):
    if path.parts[-3:-1] == ("1", "meta"):
      raise OSError(errno.ESTALE, "Stale file handle")
    return original(path, *arguments, **options)

  with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
    with monkeypatch.context() as patch:
      patch.setattr(pathlib.Path, "read_text", stale)
      checkpoints.save(state(3), 3, None, {"pa_mpjpe_mm": 45.0})
      checkpoints.wait()
    assert checkpoints.steps() == [1, 3]
    checkpoints.save(state(4), 4, None, {"pa_mpjpe_mm": 47.0})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4]


def change_meta(folder, old, new):
  path = folder / "meta" / "metadata"
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
  ("old", "new"), [("[3, 4]", "[3, 5]"), ('"shape"', '"shapf"'), ("50.0", "10.0")]
)
def test_meta_that_is_still_json_but_not_what_was_saved_is_damage(
  run, old, new, caplog
):
  change_meta(run / "checkpoints" / "2", old, new)
  assert restore(run) == 1
  assert "2 is damaged: meta differs from what was saved" in caplog.text
  assert names(run) == ["1", "2.damaged"]


def test_a_best_whose_errors_are_damaged_is_named_beside_the_step_taken(run, caplog):
  (run / "checkpoints" / "1" / "meta" / "metadata").write_text("{")
  assert load(run) == 2
  line = caplog.records[-1].getMessage()
  assert "checkpoints/1 is damaged" in line
  assert line.endswith("step 2 is taken for the best")


def test_when_all_are_damaged_none_is_set_aside_unless_asked_for(run):
  for step in ("1", "2"):
    (run / "checkpoints" / step / "meta" / "metadata").unlink()
  with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
    with pytest.raises(ValueError, match=r"all are damaged .* --start_over begins"):
      checkpoints.restore(state(0))
    assert names(run) == ["1", "2"]
    assert checkpoints.restore(state(0), start_over=True) is None
    assert names(run) == ["1.damaged", "2.damaged"]
  with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
    with pytest.raises(ValueError, match=r"\(1.damaged, 2.damaged\); --start_over"):
      checkpoints.restore(state(0))
    assert checkpoints.restore(state(0), start_over=True) is None


def test_what_a_killed_first_save_left_does_not_hinder_the_next_start(run):
  folder = run / "new"
  (folder / "3.orbax-checkpoint-tmp").mkdir(parents=True)
  (folder / ".nfs0001").write_text("")
  with checkpoint.Checkpoints(folder) as checkpoints:
    assert checkpoints.restore(state(0)) is None
