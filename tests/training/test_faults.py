"""What goes wrong in a run stops it with a step, a cause and a good checkpoint."""

import dataclasses
import importlib.util
import os
import pathlib
import runpy
import signal
import sys
import threading

import numpy as np
import pytest

from metro_jax import train as command
from metro_jax.models import setup
from metro_jax.training import checkpoint, watch

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "synthetic.py"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture
def config(data_dir, monkeypatch):
  """A run of a tiny stand-in for the network."""
  monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
  build = runpy.run_path(str(HERE / "in_processes.py"))["build"]
  monkeypatch.setattr(setup, "build", build)
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("tiny")
  config.data.data_dir = str(data_dir)
  config.optimizer.frozen = ()
  config.train.num_steps = 8
  config.train.log_every = config.train.checkpoint_every = 3
  config.train.validate_every = 100
  config.train.pictures = 0
  return config


def latest(workdir):
  return checkpoint.restore_variables(workdir / "checkpoints", "latest").step


def test_a_loss_that_is_not_finite_names_step_checkpoint_and_batch(
  config, tmp_path, monkeypatch
):
  seen, batches = {}, command._batches

  def poisoned(job, first):
    for number, batch in enumerate(batches(job, first), first + 1):
      seen[number] = batch
      gain = np.full_like(batch.color_gain, np.nan) if number == 5 else batch.color_gain
      yield dataclasses.replace(batch, color_gain=gain)

  monkeypatch.setattr(command, "_batches", poisoned)
  with pytest.raises(FloatingPointError) as caught:
    command.train(config, tmp_path)
  file = tmp_path / "batch_of_step_5.npz"
  assert str(caught.value).startswith(
    f"step 5: expected a finite loss, got nan; step 3 is saved; the batch is in {file};"
  )
  assert latest(tmp_path) == 3
  with np.load(file) as kept:
    for name, want in vars(seen[5]).items():
      np.testing.assert_array_equal(kept[name], want)


def test_input_that_hangs_ends_the_run_and_names_the_batch(
  config, tmp_path, monkeypatch
):
  released, batches = threading.Event(), command.pipeline.train_batches

  def hanging(*arguments):
    for number, batch in enumerate(batches(*arguments)):
      if number == 4:
        released.wait()
      yield batch

  monkeypatch.setattr(command.pipeline, "train_batches", hanging)
  config.train.stall_limit_s = 2.0
  with pytest.raises(watch.StalledError, match="expected batch 5 of synthetic/train "):
    command.train(config, tmp_path)
  released.set()
  assert latest(tmp_path) == 3


def test_sigterm_saves_after_the_step_and_ends_unfinished(
  config, tmp_path, monkeypatch
):
  add, steps = command.Window.add, []

  def ask_in_the_fourth_step(self, metrics):
    steps.append(metrics)
    if len(steps) == 4:
      os.kill(os.getpid(), signal.SIGTERM)
    add(self, metrics)

  monkeypatch.setattr(command.Window, "add", ask_in_the_fourth_step)
  assert command.train(config, tmp_path) is False
  assert latest(tmp_path) == 4
  assert len(steps) == 4
  assert not (tmp_path / "report.html").exists()
