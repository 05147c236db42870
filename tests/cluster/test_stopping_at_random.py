"""SIGTERM at random moments from start to report, with one and two processes."""

import os
import pathlib
import random
import runpy
import shutil
import signal
import time

import pytest

HERE = pathlib.Path(__file__).parent
Runner = runpy.run_path(str(HERE / "test_several_processes.py"))["Runner"]
expect_same_run = runpy.run_path(str(HERE / "test_stopping.py"))["expect_same_run"]
STOPPED, LIMIT_S = 75, 25.0
MOMENTS = int(os.environ.get("METRO_STOP_MOMENTS", "40"))
FLAGS = (
  f"--stopped_exit_code={STOPPED}",
  "--config.train.num_steps=40",
  "--config.train.validate_every=4",
  "--config.train.checkpoint_every=5",
  "--config.train.pictures=1",
  "--config.eval.batch_size=2",
)


def listens(process) -> bool:
  """Whether the command's first line has run: SIGTERM is kept, or handled."""
  masks = {}
  with open(f"/proc/{process.pid}/status") as file:
    for line in file:
      name, _, value = line.partition(":")
      if name in ("SigBlk", "SigCgt"):
        mask = int(value, 16)
        masks[name] = {n for n in signal.Signals if mask >> (n - 1) & 1}
  # A process that is being made blocks all.
  return masks["SigBlk"] == {signal.SIGTERM} or signal.SIGTERM in masks["SigCgt"]


def wait_for_first_line(begun) -> None:
  while not all(listens(process) for process in begun):
    time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_asked_at_any_moment_it_stops_in_time_and_ends_as_if_it_had_not(
  processes, tmp_path
):
  runner, layout = Runner(tmp_path), (processes, 2 // processes)
  runner.run("warm", *layout, FLAGS)  # compiles
  runner.data_dir = tmp_path / "data of undisturbed"
  begun = runner.start("undisturbed", *layout, FLAGS)
  wait_for_first_line(begun)
  start = time.monotonic()
  assert not any(process.communicate() and process.returncode for process in begun)
  whole_s, rng = time.monotonic() - start, random.Random(processes)
  stops, chain, slowest_s, asking = 0, 0, 0.0, True
  while asking:
    asking = stops < MOMENTS
    runner.data_dir = tmp_path / f"data {chain}"
    begun = runner.start(f"run {chain}", *layout, FLAGS)
    wait_for_first_line(begun)
    if asking:
      moment_s = rng.uniform(0, whole_s)
      time.sleep(moment_s)
      for process in begun if rng.random() < 0.3 else [rng.choice(begun)]:
        process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    printed = [process.communicate(timeout=300)[0] for process in begun]
    seconds, codes = time.monotonic() - start, {p.returncode for p in begun}
    if codes == {STOPPED}:
      print(f"run {chain}: asked after {moment_s:.2f} s, ended in {seconds:.2f} s")
      assert seconds < LIMIT_S, printed
      stops, slowest_s = stops + 1, max(slowest_s, seconds)
      continue
    assert codes == {0}, printed  # it was done before it was asked
    expect_same_run(tmp_path / f"run {chain}", tmp_path / "undisturbed")
    shutil.rmtree(runner.data_dir)
    chain += 1
  print(f"{stops} stops in {chain} runs, the slowest took {slowest_s:.2f} s")
