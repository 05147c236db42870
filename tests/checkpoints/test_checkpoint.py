"""Checkpoints survive kills, damage, full disks and other architectures."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metro_jax import folders
from metro_jax.checkpoints import checkpoint, manifest
from metro_jax.training.state import TrainState

PIPELINE = {"step": 7, "seed": 0}


def make_state(seed: int, width: int = 4) -> TrainState:
  """A small state with an optimizer's nested and empty parts, as NumPy arrays."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)

  params = {"a": {"kernel": normal(3, width), "bias": normal(width)}, "b": normal(5000)}
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  state = TrainState(
    params=params,
    batch_stats={"mean": normal(5)},
    opt_state=optimizer.init(params),
    step=jnp.int32(seed),
    key=np.array([seed, 2], np.uint32),
  )
  return jax.tree.map(np.asarray, state)


def assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


def save_all(folder: pathlib.Path, errors: dict[int, float | None], keep_best=1):
  with checkpoint.Checkpoints(folder, keep_best) as checkpoints:
    for step, error in errors.items():
      metrics = None if error is None else {"pa_mpjpe_mm": error}
      checkpoints.save(make_state(step), step, PIPELINE, metrics, {"seed": 3})
    checkpoints.wait()
    return checkpoints.steps()


def largest_file(folder: pathlib.Path) -> pathlib.Path:
  files = [f for f in folder.rglob("*") if f.is_file()]
  return max(files, key=lambda f: f.stat().st_size)


def test_a_state_comes_back_bit_for_bit_with_its_pipeline_position(tmp_path):
  save_all(tmp_path, {7: 50.0})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(make_state(0))
  assert_same(restored.tree, make_state(7))
  assert (restored.step, restored.pipeline) == (7, PIPELINE)
  assert restored.meta["metrics"] == {"pa_mpjpe_mm": 50.0}
  assert restored.meta["config"] == {"seed": 3}
  assert restored.meta["versions"]["jax"] == jax.__version__


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no own priority")
def test_saving_yields_to_the_training_whose_own_priority_stays(tmp_path):
  found = []

  def before_save():
    found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

  here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
  with checkpoint.Checkpoints(tmp_path, before_save=before_save) as checkpoints:
    checkpoints.save(make_state(1), 1, PIPELINE)
  assert found == [checkpoint.LOWEST_PRIORITY]
  assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here


def test_an_empty_folder_restores_nothing(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "new") as checkpoints:
    assert checkpoints.restore(make_state(0)) is None


def test_the_best_and_the_latest_are_kept_also_across_restarts(tmp_path):
  assert save_all(tmp_path, {1: 60.0, 2: 40.0, 3: 50.0}) == [2, 3]
  # A second run must still know that step 2 was best; NaN and nothing rank last.
  assert save_all(tmp_path, {4: 45.0, 5: float("nan"), 6: None}) == [2, 6]
  assert checkpoint.restore_variables(tmp_path, "best").step == 2
  assert checkpoint.restore_variables(tmp_path, "latest").step == 6


def test_saving_returns_before_the_files_are_written(tmp_path, monkeypatch):
  original = manifest.describe
  monkeypatch.setattr(
    manifest, "describe", lambda x: (time.sleep(0.05), original(x))[1]
  )
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    start = time.perf_counter()
    checkpoints.save(make_state(1), 1, PIPELINE)
    assert time.perf_counter() - start < 0.05 * len(jax.tree.leaves(make_state(1))) / 2
    assert checkpoints.steps() == []
    checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_parameters_alone_are_restored_without_an_optimizer(tmp_path):
  save_all(tmp_path, {3: 50.0})
  want = make_state(3).variables
  assert_same(checkpoint.restore_variables(tmp_path, 3).tree, want)
  shapes = jax.eval_shape(lambda: want)
  assert_same(checkpoint.restore_variables(tmp_path, "best", shapes).tree, want)


def flip_bit_of_an_array(step: pathlib.Path) -> None:
  """Changes one bit of one parameter, which Orbax does not notice."""
  parameters = make_state(int(step.name)).params["b"].tobytes()
  files = [f for f in (step / "state").rglob("*") if f.is_file()]
  path = next(f for f in files if parameters in f.read_bytes())
  data = bytearray(path.read_bytes())
  data[data.index(parameters) + len(parameters) // 2] ^= 1
  path.write_bytes(data)


def truncate(step: pathlib.Path) -> None:
  path = largest_file(step / "state")
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_manifest(step: pathlib.Path) -> None:
  (step / "state" / "manifest.ocdbt").unlink()


def garble_meta(step: pathlib.Path) -> None:
  (step / "meta" / "metadata").write_text('{"arrays": ')


def delete_meta(step: pathlib.Path) -> None:
  (step / "meta" / "metadata").unlink()


DAMAGES = (flip_bit_of_an_array, truncate, delete_manifest, garble_meta, delete_meta)


def test_averaged_parameters_are_read_for_the_last_ones_unless_those_are_wanted(
  tmp_path,
):
  state = make_state(5)
  averages = jax.tree.map(lambda x: x + 1, state.params)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(state.replace(ema=averages), 5, PIPELINE)
  like = {"params": state.params, "batch_stats": state.batch_stats}
  read = checkpoint.restore_variables(tmp_path, "latest", like).tree
  assert_same(read, {"params": averages, "batch_stats": state.batch_stats})
  assert_same(checkpoint.restore_variables(tmp_path, "latest").tree, read)
  last = checkpoint.restore_variables(tmp_path, "latest", like, averaged=False).tree
  assert_same(last, like)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_latest_falls_back_to_the_one_before_and_says_so(
  tmp_path, caplog, damage
):
  save_all(tmp_path, {1: 40.0, 2: 50.0})
  damage(tmp_path / "2")
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    restored = checkpoints.restore(make_state(0))
    assert restored.step == 1
    assert_same(restored.tree, make_state(1))
    message = caplog.records[-1].getMessage()
    assert f"{tmp_path / '2'} is damaged" in message
    assert "\n" not in message
    if damage is flip_bit_of_an_array:
      assert "differs from what was saved" in message
    # The step can be reached and saved again.
    checkpoints.save(make_state(2), 2, PIPELINE)
    checkpoints.wait()
  assert_same(checkpoint.restore_variables(tmp_path, 2).tree, make_state(2).variables)


def test_a_damaged_best_is_replaced_when_reading_and_left_in_place(tmp_path, caplog):
  save_all(tmp_path, {1: 40.0, 2: 50.0})
  flip_bit_of_an_array(tmp_path / "1")
  assert checkpoint.restore_variables(tmp_path, "best").step == 2
  assert "1 is damaged" in caplog.records[-1].getMessage()
  assert (tmp_path / "1").is_dir()
  with pytest.raises(ValueError, match="1 is damaged"):
    checkpoint.restore_variables(tmp_path, 1)


def test_when_all_are_damaged_the_error_says_so(tmp_path):
  save_all(tmp_path, {1: 40.0, 2: 50.0})
  for step in "12":
    flip_bit_of_an_array(tmp_path / step)
  with (
    checkpoint.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(ValueError, match=r"all are damaged \(\[1, 2\]\)"),
  ):
    checkpoints.restore(make_state(0))


def test_another_architecture_is_refused_naming_every_array_that_differs(tmp_path):
  save_all(tmp_path, {1: 40.0})
  other = make_state(0, width=6)
  other = other.replace(params={**other.params, "new": np.zeros(2, np.float32)})
  other = other.replace(batch_stats={"mean": np.zeros(5, np.float16)})
  with (
    checkpoint.Checkpoints(tmp_path) as checkpoints,
    pytest.raises(manifest.ArchitectureError) as caught,
  ):
    checkpoints.restore(other)
  first, *rest = str(caught.value).split("\n")
  assert f"{tmp_path / '1'}" in first
  assert "expected the config's architecture" in first
  assert "  params/a/kernel: expected (3, 6) float32, got (3, 4) float32" in rest
  assert "  params/new: expected (2,) float32, got nothing" in rest
  assert "  batch_stats/mean: expected (5,) float16, got (5,) float32" in rest
  # kernel and bias in params, mu and nu; new; mean
  assert len(rest) == 2 * 3 + 1 + 1
  with pytest.raises(manifest.ArchitectureError, match="params/new"):
    checkpoint.restore_variables(tmp_path, "best", other.variables)


def test_missing_checkpoints_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"expected a folder, got .*nowhere"):
    checkpoint.restore_variables(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="found none"):
    checkpoint.restore_variables(tmp_path)
  save_all(tmp_path, {1: 40.0})
  with pytest.raises(FileNotFoundError, match=r"one of the steps \[1\] in .*, got 5"):
    checkpoint.restore_variables(tmp_path, 5)


def test_a_nearly_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
  save_all(tmp_path, {1: 40.0})
  usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(make_state(2), 2, PIPELINE)
    with pytest.raises(OSError) as caught:
      checkpoints.wait()
    message = str(caught.value)
    assert f"checkpoints in {tmp_path}: cannot write" in message
    assert "disk full" in message
    assert message.endswith("at step 2; step 1 is the last good one")
    assert checkpoints.restore(make_state(0)).step == 1


def test_a_disk_that_fills_while_writing_leaves_the_checkpoints_before(tmp_path):
  save_all(tmp_path, {1: 40.0})
  code = """
import resource, signal, sys, pathlib
sys.path[:0] = [sys.argv[2]]
import numpy as np
from metro_jax.checkpoints import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
state = {"params": np.random.default_rng(0).standard_normal(100_000)}
with checkpoint.Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
  checkpoints.save(state, 2, None)
  try:
    checkpoints.wait()
  except checkpoint.CheckpointError as error:
    print(error)
"""
  done = run_python(code, tmp_path)
  assert done.stdout.startswith(f"checkpoints in {tmp_path}: cannot write (")
  assert done.stdout.count("\n") == 1
  assert done.stderr == ""
  assert done.stdout.strip().endswith("at step 2; step 1 is the last good one")
  assert [p.name for p in tmp_path.iterdir() if "2" in p.name] == []
  assert checkpoint.restore_variables(tmp_path, "latest").step == 1


ROOT = pathlib.Path(__file__).parents[2]
ENDLESS = """
import pathlib, sys
sys.path[:0] = [sys.argv[2]]
import numpy as np
from metro_jax.checkpoints import checkpoint
with checkpoint.Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
  like = {"params": np.zeros(200_000, np.float32), "more": np.zeros(9, np.float32)}
  restored = checkpoints.restore(like)
  step = restored.step if restored else 0
  print("from", step, flush=True)
  while True:
    step += 1
    state = {k: np.full_like(v, step) for k, v in like.items()}
    checkpoints.save(state, step, step, {"pa_mpjpe_mm": 100.0 + step})
    print("begun", step, flush=True)
"""


def run_python(code: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, "-c", code, str(folder), str(ROOT)],
    check=True,
    capture_output=True,
    text=True,
  )


def kill_while_saving(folder: pathlib.Path, delay_s: float) -> tuple[int, int]:
  """Kills a process that does nothing but save; its first and last begun steps."""
  command = [sys.executable, "-c", ENDLESS, str(folder), str(ROOT)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    start = int(process.stdout.readline().split()[1])
    while int(process.stdout.readline().split()[1]) < start + 4:
      pass
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    last = [line.split() for line in process.stdout.read().splitlines()]
  done = [int(words[1]) for words in last if len(words) == 2 and words[1].isdigit()]
  return start, max(done, default=start + 4)


def check_kills(folder: pathlib.Path, delays_s: Iterable[float]) -> None:
  like = {"params": np.zeros(200_000, np.float32), "more": np.zeros(9, np.float32)}
  for delay_s in delays_s:
    _, begun = kill_while_saving(folder, delay_s)
    restored = checkpoint.restore_variables(folder, "latest")
    np.testing.assert_array_equal(restored.tree["params"], restored.step)
    # The save before the one that was just begun had to be finished.
    assert restored.step >= begun - 1
    with checkpoint.Checkpoints(folder) as checkpoints:
      again = checkpoints.restore(like)
      assert again.step == again.pipeline == restored.step
      # The best, the latest, and perhaps the one that was being deleted.
      assert 1 in checkpoints.steps()
      assert len(checkpoints.steps()) <= 3
  assert not list(folder.glob("*.damaged"))


def test_killed_during_a_save_the_next_start_goes_on_from_the_save_before(tmp_path):
  check_kills(tmp_path, (0.0, 0.037))


@pytest.mark.slow
def test_killed_at_thirty_moments_it_goes_on_every_time(tmp_path):
  check_kills(tmp_path, np.random.default_rng(0).uniform(0, 0.15, 30))


def test_a_folder_is_absolute_and_a_buckets_address_stays_whole(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert folders.as_folder("a/b") == tmp_path / "a" / "b"
  bucket = folders.as_folder("gs://bucket/run") / "checkpoints"
  assert str(bucket) == "gs://bucket/run/checkpoints"


def test_meta_is_readable_json(tmp_path):
  save_all(tmp_path, {1: 40.0})
  meta = json.loads((tmp_path / "1" / "meta" / "metadata").read_text())
  assert meta["arrays"]["params/a/kernel"]["shape"] == [3, 4]
