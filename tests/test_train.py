"""The whole run on a tiny network: it resumes to the bit, and fails with one line."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from metro_jax import train as command
from metro_jax.checkpoints import checkpoint

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "synthetic.py"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def tiny_config(data_dir):
  spec = importlib.util.spec_from_file_location("synthetic", CONFIG)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config("tiny")
  config.data.data_dir = str(data_dir)
  return config


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """A run that was never interrupted."""
  workdir = tmp_path_factory.mktemp("uninterrupted")
  command.train(tiny_config(data_dir), workdir)
  return workdir


def latest(workdir):
  return checkpoint.restore_variables(workdir / "checkpoints", "latest")


def test_a_run_leaves_errors_a_report_and_checkpoints(finished):
  errors = json.loads((finished / "eval" / "test.json").read_text())
  assert errors["examples"] == errors["baseline"]["examples"] == 10
  for name in ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"):
    assert 0 < errors[name] < 5_000
    assert 0 < errors["baseline"][name] < 2_000
  assert latest(finished).step == 6
  page = (finished / "report.html").read_text()
  assert page.count("data:image/jpeg") == 3 * 6  # input, overlay and side view
  assert list((finished / "tensorboard").iterdir())
  lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
  assert [x["step"] for x in lines if x["group"] == "train"] == [2, 3, 4, 6]
  assert [x["step"] for x in lines if x["group"] == "validation"] == [3, 6]


def test_a_stopped_and_resumed_run_ends_with_the_same_bits(
  finished, data_dir, tmp_path, monkeypatch
):
  add, seen = command.Window.add, []

  def stop_in_the_fifth_step(self, metrics):
    seen.append(metrics)
    if len(seen) == 5:
      raise KeyboardInterrupt
    add(self, metrics)

  with monkeypatch.context() as patch:
    patch.setattr(command.Window, "add", stop_in_the_fifth_step)
    with pytest.raises(KeyboardInterrupt):
      command.train(tiny_config(data_dir), tmp_path)
  assert latest(tmp_path).step == 3
  command.train(tiny_config(data_dir), tmp_path)
  ours, theirs = latest(tmp_path), latest(finished)
  assert ours.step == theirs.step == 6
  jax.tree.map(np.testing.assert_array_equal, ours.tree, theirs.tree)
  logged = [
    (w / "metrics.jsonl").read_text().splitlines() for w in (tmp_path, finished)
  ]
  steps = [[json.loads(line)["step"] for line in lines] for lines in logged]
  assert steps[0] == steps[1]


def test_a_checkpoint_of_another_architecture_is_refused(finished, data_dir, tmp_path):
  shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
  config = tiny_config(data_dir)
  config.model.output_widths = (24, 3)
  with pytest.raises(ValueError, match="expected the config's architecture"):
    command.train(config, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.optimizer.learning_rate = 1e30
  with pytest.raises(FloatingPointError, match=r"step [23]: expected a finite loss"):
    command.train(config, tmp_path)


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("--workdir=s3://bucket/run", "expected a folder or gs://BUCKET/FOLDER, got 's3"),
    ("--config.model.backbon=resnet50", 'Did you mean "backbone"'),
    ("--config.model.backbone=resnet51", "config.model.backbone: expected one of"),
    ("--config.train.batch_size=many", "config.train.batch_size"),
    ("--config.train.batch_size=-8", "config.train.batch_size: expected a positive"),
  ],
)
def test_a_wrong_setting_fails_with_one_line_before_any_device(override, message):
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "metro_jax.train",
      f"--config={CONFIG}:tiny",
      "--workdir=/nonexistent/run",
      override,
    ],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env={"JAX_PLATFORMS": "no_such_platform", "PATH": ""},  # any use of a device fails
  )
  assert done.returncode != 0
  assert message in done.stderr
  assert "Traceback" not in done.stderr
