"""What goes wrong in a run stops it with a step, a cause and a good checkpoint."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import runpy
import signal
import sys
import threading

import numpy as np
import pytest

from metro_jax import export
from metro_jax import train as command
from metro_jax.checkpoints import checkpoint, runs
from metro_jax.cluster import watch
from metro_jax.models import setup

HERE = pathlib.Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "synthetic.py"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture
def config(data_dir, monkeypatch):
  """A run of a tiny stand-in for the network."""
  monkeypatch.setattr(sys, "path", [str(HERE.parent / "fixtures"), *sys.path])
  build = runpy.run_path(str(HERE.parent / "fixtures" / "in_processes.py"))["build"]
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

  def hanging(*arguments, **options):
    for number, batch in enumerate(batches(*arguments, **options)):
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


def snapshot(workdir):
  return {
    path.relative_to(workdir): path.read_bytes()
    for path in workdir.rglob("*")
    if path.is_file()
  }


def train_three_steps(config, workdir):
  config.train.num_steps = config.train.validate_every = 3
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
  assert command.train(config, workdir)


def rates_of(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  return [line["learning_rate"] for line in lines if line["group"] == "train"]


def test_a_start_that_trains_nothing_changes_nothing(config, tmp_path, capsys):
  train_three_steps(config, tmp_path)
  assert rates_of(tmp_path) == [pytest.approx(1e-3)]
  before = snapshot(tmp_path)
  config.train.num_steps = 2
  config.optimizer.learning_rate = 0.5
  assert command.train(config, tmp_path)
  assert snapshot(tmp_path) == before
  assert f"Nothing to train: {tmp_path} is at step 3 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_states_the_settings_of_the_steps_that_made_its_weights(
  config, tmp_path, capsys
):
  train_three_steps(config, tmp_path)
  config.train.num_steps = 6
  config.train.keep_best = 2
  config.optimizer.learning_rate = 1e-2
  assert command.train(config, tmp_path)
  printed = capsys.readouterr().out
  assert "  optimizer.learning_rate: 0.01, was 0.001\n" in printed
  assert rates_of(tmp_path) == pytest.approx([1e-3, 1e-2])
  made = {step: runs.load(tmp_path, step) for step in (3, 6)}
  rates = {step: run.config.optimizer.learning_rate for step, run in made.items()}
  assert rates == {3: 1e-3, 6: 1e-2}
  settings = {"optimizer.learning_rate": 1e-3, "train.num_steps": 3}
  assert made[6].earlier == [{"until": 3, **settings, "train.keep_best": 1}]
  assert runs.load_config(tmp_path).optimizer.learning_rate == 1e-2
  best = runs.load(tmp_path, "best").step
  page = (tmp_path / "report.html").read_text()
  assert f"--config.optimizer.learning_rate={rates[best]!r}" in page
  assert (tmp_path / "report.1.html").exists()
  export.export(made[3], tmp_path / "out", export.Choice("npz"))
  card = json.loads((tmp_path / "out" / "model.json").read_text())
  assert card["config"]["optimizer"]["learning_rate"] == 1e-3
  assert card["config"]["train"]["num_steps"] == 3
