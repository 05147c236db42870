"""Several processes train as one does, whatever happens to them."""

import contextlib
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from metro_jax.checkpoints import checkpoint

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAM = runpy.run_path(str(HERE.parent / "fixtures" / "in_processes.py"))
EXAMPLES, BATCH = 24, 8  # of configs/synthetic.py:tiny


def free_port() -> int:
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


class Runner:
  """Starts the program as processes of one run, as launch/local.sh does."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.data_dir = folder, folder / "data"

  def start(self, name, processes, devices, flags=(), others=(), **variables):
    """The started processes of a run; `others` are flags of all but the first."""
    port = free_port()
    return [
      subprocess.Popen(
        [
          sys.executable,
          HERE.parent / "fixtures" / "in_processes.py",
          ROOT,
          *PROGRAM["FLAGS"],
          f"--config.data.data_dir={self.data_dir}",
          f"--workdir={self.folder / name}",
          *flags,
          *(others if index else ()),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {
          "JAX_PLATFORMS": "cpu",
          "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
          + PROGRAM["QUICK_COMPILATION"],
          "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
          "METRO_COORDINATOR": f"127.0.0.1:{port}",
          "METRO_PROCESSES": str(processes),
          "METRO_PROCESS": str(index),
        }
        | variables,
      )
      for index in range(processes)
    ]

  def run(self, name, processes, devices, flags=(), **variables) -> str:
    """What the first process printed, when all ended well."""
    begun = self.start(name, processes, devices, flags, **variables)
    printed = [process.communicate()[0] for process in begun]
    for process, text in zip(begun, printed, strict=True):
      assert process.returncode == 0, text
    return printed[0]

  def curve(self, name, key="loss") -> np.ndarray:
    """A training metric by step; every step must stand there once."""
    lines = read_lines(self.folder / name / "metrics.jsonl")
    train = [line for line in lines if line["group"] == "train"]
    assert [line["step"] for line in train] == list(range(1, len(train) + 1))
    return np.array([line[key] for line in train])

  def final(self, name):
    return checkpoint.restore_variables(self.folder / name / "checkpoints", "latest")


def read_lines(path: pathlib.Path) -> list:
  """Lines of JSON; the last one may be half written."""
  found = []
  if path.exists():
    for line in path.read_text().splitlines():
      with contextlib.suppress(json.JSONDecodeError):
        found.append(json.loads(line))
  return found


def wait_for_step(path: pathlib.Path, step: int, processes) -> None:
  """Returns when the metrics file has a training step, or a process has ended."""
  while all(process.poll() is None for process in processes):
    lines = read_lines(path)
    if any(line["step"] >= step for line in lines if line["group"] == "train"):
      return
    time.sleep(0.02)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
  return Runner(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def alone(runner):
  """The undisturbed run of one process with two devices."""
  runner.run("alone", 1, 2)
  return "alone"


def test_two_processes_stopped_by_sigterm_and_continued_by_one_end_like_one(
  runner, alone
):
  begun = runner.start("two", 2, 1)
  wait_for_step(runner.folder / "two" / "metrics.jsonl", 6, begun)
  begun[1].send_signal(signal.SIGTERM)  # one is asked, both stop after the same step
  printed = [process.communicate()[0] for process in begun]
  assert [process.returncode for process in begun] == [0, 0], printed
  stopped = runner.final("two").step
  assert f"Stopped after step {stopped}, which is saved" in printed[0]
  assert 6 <= stopped < 20
  assert "Going on from step" in runner.run("two", 1, 2)  # saved by two, read by one
  np.testing.assert_allclose(runner.curve("two"), runner.curve(alone), atol=1e-5)
  ours, theirs = (runner.final(name).tree for name in ("two", alone))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), ours, theirs)
  files = [
    sorted(path.name for path in (runner.folder / name).iterdir())
    for name in ("two", alone)
  ]
  assert files[0] == files[1]


# Sums over four devices round by who adds first, which a large rate amplifies.
PAPERS_RATE = ("--config.optimizer.learning_rate=1e-4",)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("devices", [1, 2])
def test_processes_have_the_loss_curve_of_one_with_their_devices(
  runner, processes, devices
):
  one, name = f"1x{processes * devices}", f"{processes}x{devices}"
  if not (runner.folder / one).exists():
    runner.run(one, 1, processes * devices, PAPERS_RATE)
  runner.run(name, processes, devices, PAPERS_RATE)
  np.testing.assert_allclose(runner.curve(name), runner.curve(one), atol=1e-5)
  reports = [
    json.loads((runner.folder / x / "eval" / "test.json").read_text())
    for x in (name, one)
  ]
  for key in ("examples", "mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"):
    assert reports[0][key] == pytest.approx(reports[1][key], rel=1e-4)


@pytest.mark.slow
def test_two_processes_under_shard_map_end_as_under_pmap(runner):
  """Training, validation, checkpoints and the report, bit for bit."""
  for mapping in ("pmap", "shard_map"):
    runner.run(mapping, 2, 2, (f"--config.train.mapping={mapping}",))
  curves = [runner.curve(mapping) for mapping in ("pmap", "shard_map")]
  np.testing.assert_array_equal(*curves)
  jax.tree.map(
    np.testing.assert_array_equal,
    *(runner.final(mapping).tree for mapping in ("pmap", "shard_map")),
  )
  reports = [
    (runner.folder / mapping / "eval" / "test.json").read_text()
    for mapping in ("pmap", "shard_map")
  ]
  assert reports[0] == reports[1]


@pytest.mark.slow
def test_one_layouts_checkpoint_goes_on_in_every_other(runner):
  flags = (*PAPERS_RATE, "--config.optimizer.schedule=constant")
  runner.run("unmoved", 1, 4, flags)
  for number, layout in enumerate(((1, 4), (4, 1), (2, 2), (1, 4)), start=1):
    last = f"--config.train.num_steps={5 * number}"
    printed = runner.run("moving", *layout, (*flags, last))
    assert f"Going on from step {5 * number - 5}" in printed or number == 1
  np.testing.assert_allclose(runner.curve("moving"), runner.curve("unmoved"), atol=1e-5)


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_curve_of_an_undisturbed_run(runner):
  flags = (
    "--config.train.num_steps=150",
    "--config.train.checkpoint_every=4",
    "--config.train.validate_every=1000",
    "--config.train.wait_limit_s=50.0",  # a kill may fall into the start
  )
  runner.run("undisturbed", 1, 2, flags)
  rng = np.random.default_rng(0)
  rows = runner.folder / "rows"
  rows.mkdir()
  path, kills = runner.folder / "killed" / "metrics.jsonl", 0
  while kills < 10:
    begun = runner.start("killed", 2, 1, flags, NOTE_ROWS=str(rows))
    target = max([0, *(line["step"] for line in read_lines(path))])
    wait_for_step(path, target + int(rng.integers(-3, 12)), begun)
    time.sleep(rng.uniform(0, 0.3))
    victim = begun[rng.integers(2)]
    assert all(process.poll() is None for process in begun), "finished too early"
    victim.kill()
    killed, kills = time.monotonic(), kills + 1
    printed = [process.communicate(timeout=90)[0] for process in begun]
    survivor = begun[1 - begun.index(victim)]
    assert survivor.returncode not in (0, None), printed
    assert time.monotonic() - killed < 60
    text = printed[begun.index(survivor)]
    causes = ("stopped: not heard of", "another task died", "missing process")
    assert any(cause in text for cause in causes), text
  printed = runner.run("killed", 2, 1, flags, NOTE_ROWS=str(rows))
  assert "Going on from step" in printed
  np.testing.assert_allclose(
    runner.curve("killed"), runner.curve("undisturbed"), atol=1e-5
  )
  expect_every_example_once_an_epoch(rows, 150)


def expect_every_example_once_an_epoch(folder: pathlib.Path, steps: int) -> None:
  """Of what counts, that is every step's last try."""
  shares = [dict(read_lines(folder / f"{index}.jsonl")) for index in range(2)]
  steps_rows = [share[step] for step in range(1, steps + 1) for share in shares]
  seen = [row for rows in steps_rows for row in rows]
  assert len(seen) == steps * BATCH
  for start in range(0, len(seen) - EXAMPLES + 1, EXAMPLES):
    assert sorted(seen[start : start + EXAMPLES]) == list(range(EXAMPLES))


def test_a_process_with_other_settings_is_named_by_all(runner):
  begun = runner.start("differing", 2, 1, others=("--config.seed=5",))
  printed = [process.communicate()[0] for process in begun]
  assert [process.returncode for process in begun] == [1, 1]
  for text in printed:
    assert "train: settings, code and machines: expected what process 0" in text
    assert f"process 1 ({socket.gethostname()}): config.seed is 5, expected 0" in text
    assert "Traceback" not in text
  assert not (runner.folder / "differing").exists()
