import json
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax import evaluate
from metro_jax.body import body_model, humanoid, joints, mesh_levels, template
from metro_jax.evaluation import evaluator, runs
from metro_jax.models import setup

EXAMPLES = 5
RNG = np.random.default_rng(3)
POSES = 0.4 * RNG.normal(size=(EXAMPLES, 72)).astype(np.float32)
SHAPES = RNG.normal(size=(EXAMPLES, 10)).astype(np.float32)


class Split:
  """Grey pictures of posed embedded bodies, with exact labels."""

  def __init__(self, name):
    self.name = name
    body = humanoid.load()
    self.vertices_m = body_model.pose_body(body, POSES, SHAPES).vertices
    self.joints_m = body_model.regress_joints(body.regressors["j24"], self.vertices_m)

  def __len__(self):
    return EXAMPLES

  def __getitem__(self, row):
    _, jpeg = cv2.imencode(".jpg", np.full((32, 32, 3), 99, np.uint8))
    yes = np.bool_(True)
    ones = np.ones((24, 1), np.float32)
    return {
      "key": f"{self.name}/{row}",
      "image": jpeg.tobytes(),
      "center_px": np.array([16, 16], np.float32),
      "box_px": np.float32(32),
      "joints_2d_px": np.zeros((24, 3), np.float32),
      "joints_3d_m": np.concatenate([self.joints_m[row], ones], axis=1),
      "pose": POSES[row],
      "shape": SHAPES[row],
      "camera": np.zeros(3, np.float32),
      "has_joints_2d": np.bool_(False),
      "has_joints_3d": yes,
      "has_mesh": yes,
    }


@pytest.fixture
def run_of_one_mesh(monkeypatch):
  """A run whose network says the first test example's mesh for every picture."""
  config = base.get_config()
  config.data.image_px = 32
  config.eval.batch_size = 2 * jax.device_count()
  body = humanoid.load()
  levels = mesh_levels.choose(humanoid.load_levels(), tuple(config.body.levels))
  mesh_m = Split("").vertices_m[0] + np.float32(0.5)  # where it stands is no error
  network = setup.Network(
    evaluator.MeanMesh(len(mesh_m)), body, levels, template.make_template(body, levels)
  )
  run = runs.Run(config, network, {"params": {"vertices": mesh_m}}, 7)
  monkeypatch.setattr(evaluate.runs, "load", lambda *_: run)
  monkeypatch.setattr(
    evaluate.datasets, "open_split", lambda _, dataset: Split(dataset)
  )


def test_evaluating_a_run_writes_its_errors_beside_the_mean_mesh(
  run_of_one_mesh, tmp_path
):
  done = evaluate.evaluate(tmp_path, "test")
  stored = json.loads((tmp_path / "eval" / "test.json").read_text())
  mesh_errors = done.results.errors_mm
  for name in ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"):
    assert mesh_errors[name][0] < 1e-2  # the first example's own mesh
    assert stored[name] == pytest.approx(mesh_errors[name].mean(), rel=1e-5)
    assert stored[name] == done.results.means_mm[name]
  assert stored["examples"] == stored["baseline"]["examples"] == EXAMPLES
  assert (stored["split"], stored["step"]) == ("test", 7)
  assert (tmp_path / "eval" / "mean_mesh.npz").exists()

  split = Split("")
  pelvis = body_model.regress_joints(
    humanoid.load().regressors["h36m"][joints.PELVIS][None], split.vertices_m
  )
  centred = split.vertices_m - pelvis
  gap = np.linalg.norm(centred - centred.mean(0), axis=-1).mean()
  assert stored["baseline"]["mpvpe_mm"] == pytest.approx(1000 * gap, rel=1e-4)


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--config.eval.batch_sized=3", 'Did you mean "batch_size"'),
    ("--checkpoint=last", "expected best, latest or a step, got 'last'"),
  ],
)
def test_a_wrong_flag_is_one_line(tmp_path, flag, message):
  command = [sys.executable, "-m", "metro_jax.evaluate", f"--workdir={tmp_path}", flag]
  done = subprocess.run(command, capture_output=True, text=True)
  lines = done.stderr.strip().splitlines()
  assert done.returncode == 1
  assert len(lines) == 1 and lines[0].startswith("evaluate: ") and message in lines[0]
