"""FreiHAND from pictures to the leaderboard's file, with a hand of nobody's."""

import json
import zipfile

import cv2
import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax import evaluate
from metro_jax.body import body_model, hand, joints, template
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.checkpoints import runs
from metro_jax.evaluation import baseline, freihand
from metro_jax.models import setup

EXAMPLES, VERTICES = 5, 778
RNG = np.random.default_rng(4)
POSES = 0.05 * RNG.normal(size=(EXAMPLES, 48)).astype(np.float32)
SHAPES = np.zeros((EXAMPLES, 10), np.float32)


def make_hand() -> body_model.BodyModel:
  """A cloud of points of a hand's size; joint i of the tree is vertex i."""
  pick = np.eye(VERTICES, dtype=np.float32)[:16]
  return body_model.BodyModel(
    template=(0.04 * RNG.normal(size=(VERTICES, 3))).astype(np.float32),
    shape_directions=np.zeros((VERTICES, 3, 10), np.float32),
    pose_directions=None,
    joint_regressor=pick,
    skin_weights=np.eye(16, dtype=np.float32)[RNG.integers(16, size=VERTICES)],
    regressors={"hand21": hand.regressor(pick)},
    faces=np.array([[0, 1, 2], [3, 4, 5]], np.int32),
    parents=joints.MANO16_PARENTS,
    name="cloud",
  )


HAND = make_hand()
POSED = body_model.pose_body(HAND, POSES, SHAPES)
TRUE_JOINTS = hand.joints21(POSED)
NOISE = 0.003 * RNG.normal(size=(VERTICES, 3)).astype(np.float32)


class Split:
  name = "freihand/test"

  def __len__(self):
    return EXAMPLES

  def __getitem__(self, row):
    _, jpeg = cv2.imencode(".jpg", np.full((32, 32, 3), 99, np.uint8))
    yes = np.bool_(True)
    ones = np.ones((21, 1), np.float32)
    return {
      "key": f"test/{row}",
      "image": jpeg.tobytes(),
      "center_px": np.array([16, 16], np.float32),
      "box_px": np.float32(32),
      "joints_2d_px": np.zeros((21, 3), np.float32),
      "joints_3d_m": np.concatenate([TRUE_JOINTS[row], ones], axis=1),
      "pose": POSES[row],
      "shape": SHAPES[row],
      "camera": np.zeros(3, np.float32),
      "has_joints_2d": np.bool_(False),
      "has_joints_3d": yes,
      "has_mesh": yes,
    }


def make_run() -> runs.Run:
  """A network that says the second example's mesh, a little wrong, every time."""
  config = base.get_config()
  config.body.model, config.body.levels = "mano", (VERTICES, 2)
  config.data.image_px = 32
  config.data.train, config.data.test = ("freihand/train",), Split.name
  config.eval.batch_size = 2 * jax.device_count()
  rows = np.array([5, 7], np.int32)
  levels = MeshLevels((VERTICES, 2), (rows,), (), (), (HAND.faces,))
  network = setup.Network(
    baseline.MeanMesh(VERTICES, 21), HAND, levels, template.make_template(HAND, levels)
  )
  mesh_m = POSED.vertices[1] + NOISE + np.float32(0.5)
  return runs.Run(config, network, {"params": {"vertices": mesh_m}}, 7)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """The run's eval folder after an evaluation against FreiHAND's own files."""
  truth, workdir = tmp_path_factory.mktemp("freihand"), tmp_path_factory.mktemp("run")
  vertices_m = POSED.vertices.tolist()
  (truth / "evaluation_xyz.json").write_text(json.dumps(TRUE_JOINTS.tolist()))
  (truth / "evaluation_verts.json").write_text(json.dumps(vertices_m))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluate.runs, "load", lambda *_: make_run())
    patch.setattr(evaluate.datasets, "open_split", lambda *_: Split())
    evaluate.evaluate(workdir, options=evaluate.Options(truth=str(truth)))
  return workdir / "eval", truth


def test_the_leaderboards_file_holds_every_example_in_order_from_the_wrist(folders):
  with zipfile.ZipFile(folders[0] / "test_pred.zip") as archive:
    joints_m, vertices_m = map(np.array, json.loads(archive.read("pred.json")))
  assert joints_m.shape == (EXAMPLES, 21, 3)
  expected = POSED.vertices[1] + NOISE
  expected = expected - expected[0]  # the wrist is the first vertex
  for row in range(EXAMPLES):
    np.testing.assert_allclose(vertices_m[row], expected, atol=1e-6)
  np.testing.assert_array_equal(joints_m[:, 0], 0)
  thumb_tip = joints.HAND21.index("Thumb_4")
  np.testing.assert_allclose(joints_m[0, thumb_tip], expected[745], atol=1e-6)


def test_our_numbers_are_the_leaderboards(folders):
  stored = json.loads((folders[0] / "test.json").read_text())
  lines = (folders[0] / "test_scores.txt").read_text().splitlines()
  scores = {name: float(value) for name, value in (line.split(": ") for line in lines)}
  pairs = {
    "pa_mpjpe_mm": 10 * scores["xyz_al_mean3d"],
    "pa_mpvpe_mm": 10 * scores["mesh_al_mean3d"],
    "pa_auc_50mm": scores["xyz_al_auc3d"],
    "pa_mesh_auc_50mm": scores["mesh_al_auc3d"],
    "pa_f_5mm": scores["f_al_score_5"],
    "pa_f_15mm": scores["f_al_score_15"],
  }
  for name, expected in pairs.items():
    assert stored[name] == pytest.approx(expected, rel=1e-3), name
  assert 0.1 < stored["pa_f_5mm"] < 0.95 and 0.1 < stored["pa_auc_50mm"] < 0.95
  assert "only aligned numbers compare" in stored["protocol"]
  assert list(stored["joints"]) == list(joints.HAND21)


def test_truth_of_other_examples_is_refused_before_anything_is_computed(
  folders, tmp_path, monkeypatch
):
  for name in freihand.TRUTH_FILES:
    values = json.loads((folders[1] / name).read_text())
    (tmp_path / name).write_text(json.dumps(values[:3]))
  monkeypatch.setattr(evaluate.runs, "load", lambda *_: make_run())
  monkeypatch.setattr(evaluate.datasets, "open_split", lambda *_: Split())
  with pytest.raises(ValueError, match="expected the 5 examples of freihand/test in"):
    evaluate.evaluate(tmp_path, options=evaluate.Options(truth=str(tmp_path)))
