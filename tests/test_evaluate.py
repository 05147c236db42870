import contextlib
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import cv2
import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax import evaluate
from metro_jax.body import body_model, humanoid, joints, mesh_levels, template
from metro_jax.checkpoints import origin, runs
from metro_jax.evaluation import baseline
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
      "group": ("even", "odd")[row % 2],
    }


def config_of_the_run():
  config = base.get_config()
  config.data.image_px = 32
  config.eval.batch_size = 2 * jax.device_count()
  return config


@contextlib.contextmanager
def run_of_one_mesh(config):
  """A run whose network says the first test example's mesh for every picture."""
  body = humanoid.load()
  levels = mesh_levels.choose(humanoid.load_levels(), tuple(config.body.levels))
  mesh_m = Split("").vertices_m[0] + np.float32(0.5)  # where it stands is no error
  network = setup.Network(
    baseline.MeanMesh(len(mesh_m)),
    body,
    levels,
    template.make_template(body, levels),
    (),
  )
  own = origin.Training(("mine/train",), "", 7)  # not the evaluation's config
  run = runs.Run(config, network, {"params": {"vertices": mesh_m}}, 7, training=own)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluate.runs, "load", lambda *_: run)
    patch.setattr(evaluate.datasets, "open_split", lambda _, dataset: Split(dataset))
    yield


class Evaluated(NamedTuple):
  outcome: evaluate.Outcome
  folder: pathlib.Path  # the run's eval
  stored: dict  # the JSON file

  @property
  def results(self):
    return self.outcome.assessment.results


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """Evaluated with everything but views."""
  return evaluated(
    tmp_path_factory.mktemp("plain"),
    config_of_the_run(),
    evaluate.Options(tables=True, worst=2),
  )


def evaluated(workdir, config, options):
  with run_of_one_mesh(config):
    outcome = evaluate.evaluate(workdir, "test", options=options)
  stored = json.loads((workdir / "eval" / "test.json").read_text())
  return Evaluated(outcome, workdir / "eval", stored)


def test_evaluating_a_run_writes_its_errors_beside_the_mean_mesh(plain):
  stored, results = plain.stored, plain.results
  for name in ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"):
    assert results.errors[name][0] < 1e-2  # the first example's own mesh
    assert stored[name] == pytest.approx(results.errors[name].mean(), rel=1e-5)
    assert stored[name] == results.means[name]
  assert stored["examples"] == stored["baseline"]["examples"] == EXAMPLES
  assert (stored["split"], stored["step"]) == ("test", 7)
  assert "trained on mine/train, not on this dataset" in stored["protocol"]
  assert (plain.folder / "mean_mesh.npz").exists()

  split = Split("")
  pelvis = body_model.regress_joints(
    humanoid.load().regressors["h36m"][joints.PELVIS][None], split.vertices_m
  )
  centred = split.vertices_m - pelvis
  gap = np.linalg.norm(centred - centred.mean(0), axis=-1).mean()
  assert stored["baseline"]["mpvpe_mm"] == pytest.approx(1000 * gap, rel=1e-4)


def test_errors_are_told_by_joint_and_by_group(plain):
  stored = plain.stored
  assert list(stored["joints"]) == list(joints.J14)
  mean = np.mean([row["mpjpe_mm"] for row in stored["joints"].values()])
  assert mean == pytest.approx(stored["mpjpe_mm"], rel=1e-4)
  groups = stored["groups"]
  assert {name: row["examples"] for name, row in groups.items()} == {
    "even": 3,
    "odd": 2,
  }
  even = plain.results.errors["pa_mpjpe_mm"][::2].mean()
  assert groups["even"]["pa_mpjpe_mm"] == pytest.approx(even, rel=1e-5)
  text = (plain.folder / "test.md").read_text()
  assert "| R_Ankle " in text and "| even " in text
  assert text.split("\n\n")[0] in "\n".join(plain.outcome.notes)


def test_the_worst_examples_are_drawn(plain):
  sheet = cv2.imread(str(plain.folder / "test_worst.jpg"))
  assert sheet.shape[0] > 2 * 224 and sheet.shape[1] > 3 * 224


def test_views_of_a_network_that_always_says_the_same_change_nothing(plain, tmp_path):
  config = config_of_the_run()
  config.eval.averaging = "released"
  seen = evaluated(tmp_path, config, evaluate.Options(tta=True))
  for name in ("mpvpe_mm", "mpjpe_mm", "pa_mpjpe_mm"):
    np.testing.assert_allclose(
      seen.results.errors[name], plain.results.errors[name], atol=5e-3
    )
  # Released: eight ranks of one example each, five examples and the first three again.
  errors = seen.results.errors["mpjpe_mm"]
  expected = (errors.sum() + errors[:3].sum()) / 8
  assert seen.stored["mpjpe_mm"] == pytest.approx(expected, rel=1e-5)
  said = seen.stored["protocol"]
  assert "With test-time augmentation: scales 0.9, 1, 1.1" in said
  assert "not exact" in said


def test_truth_is_only_for_freihand(tmp_path):
  options = evaluate.Options(truth=str(tmp_path))
  with (
    run_of_one_mesh(config_of_the_run()),
    pytest.raises(ValueError, match="--truth: expected a FreiHAND dataset"),
  ):
    evaluate.evaluate(tmp_path, options=options)


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
