"""The leaderboard's formulae written out over all points at once, in float64."""

import json
import zipfile

import numpy as np
import pytest

from metro_jax.evaluation import freihand

RNG = np.random.default_rng(5)
COUNT, VERTICES = 37, 60  # more than one batch of examples


def cloud(*shape):
  return 0.05 * RNG.normal(size=shape)


TRUE_JOINTS, TRUE_VERTICES = cloud(COUNT, 21, 3), cloud(COUNT, VERTICES, 3)


def near(points):
  """Predictions: turned, scaled, shifted, and some millimetres off."""
  angle = 0.7
  turn = np.array(
    [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
  )
  return 1.3 * (points + 0.003 * RNG.normal(size=points.shape)) @ turn + 0.02


JOINTS, VERTICES_M = near(TRUE_JOINTS), near(TRUE_VERTICES)


def leaderboard_align(target, predicted):
  t1, t2 = target.mean(0), predicted.mean(0)
  a, b = target - t1, predicted - t2
  s1, s2 = np.linalg.norm(a) + 1e-8, np.linalg.norm(b) + 1e-8
  u, w, vt = np.linalg.svd((b / s2).T @ (a / s1))
  rotation, scale = vt.T @ u.T, w.sum()  # whatever its determinant
  return b / s2 @ rotation.T * scale * s1 + t1


def leaderboard_auc(distances):
  """Mean over keypoints of the area of each one's curve; metres (n, k)."""
  grid = np.linspace(0.0, 0.05, 100)
  areas = []
  for k in range(distances.shape[1]):
    curve = np.array([np.mean(distances[:, k] <= t) for t in grid])
    areas.append(np.trapezoid(curve, grid) / np.trapezoid(np.ones(100), grid))
  return np.mean(areas)


def leaderboard_f(target, predicted, threshold):
  gaps = np.linalg.norm(target[:, None] - predicted[None], axis=-1)
  precision = np.mean(gaps.min(1) < threshold)
  recall = np.mean(gaps.min(0) < threshold)
  total = precision + recall
  return 2 * precision * recall / total if total else 0.0


def leaderboard(joints, vertices):
  scores = {}
  pairs = {"xyz": (TRUE_JOINTS, joints), "mesh": (TRUE_VERTICES, vertices)}
  moved = {}
  for name, (target, predicted) in pairs.items():
    aligned = [leaderboard_align(*p) for p in zip(target, predicted, strict=True)]
    moved[name] = np.stack(aligned)
    for suffix, points in (("", predicted), ("_al", moved[name])):
      distances = np.linalg.norm(points - target, axis=-1)
      scores[f"{name}{suffix}_mean3d"] = 100 * distances.mean(0).mean()
      scores[f"{name}{suffix}_auc3d"] = leaderboard_auc(distances)
  for infix, points in (("", vertices), ("al_", moved["mesh"])):
    for threshold in (0.005, 0.015):
      found = [
        leaderboard_f(t, p, threshold)
        for t, p in zip(TRUE_VERTICES, points, strict=True)
      ]
      scores[f"f_{infix}score_{round(threshold * 1000)}"] = np.mean(found)
  return scores


def test_scores_equal_the_leaderboards_formulae():
  got = freihand.score(JOINTS, VERTICES_M, TRUE_JOINTS, TRUE_VERTICES)
  expected = leaderboard(JOINTS, VERTICES_M)
  assert got == pytest.approx(expected, rel=2e-4)
  assert 0.2 < expected["f_al_score_5"] < 0.9  # neither all nor nothing
  assert 0.2 < expected["xyz_al_auc3d"] < 0.95


def test_the_leaderboards_alignment_lets_a_mirror_image_through():
  mirrored = TRUE_VERTICES * [-1, 1, 1]
  got = freihand.score(JOINTS, mirrored, TRUE_JOINTS, TRUE_VERTICES)
  assert got["mesh_al_mean3d"] < 1e-4 and got["f_al_score_5"] == 1
  assert got["mesh_mean3d"] > 1


def test_perfect_predictions_score_1_and_0():
  got = freihand.score(TRUE_JOINTS, TRUE_VERTICES, TRUE_JOINTS, TRUE_VERTICES)
  for name, value in got.items():
    expected = 0 if name.endswith("mean3d") else 1
    # Rounding leaves aligned points above the AUC's first threshold, which is 0.
    assert value == pytest.approx(expected, abs=0.5 / 99 + 1e-4), name


def test_a_submission_holds_joints_then_vertices_in_metres(tmp_path):
  path = tmp_path / "pred.zip"
  freihand.write_zip(path, JOINTS.astype(np.float32), VERTICES_M.astype(np.float32))
  with zipfile.ZipFile(path) as archive:
    assert archive.namelist() == ["pred.json"]
    first, second = json.loads(archive.read("pred.json"))
  np.testing.assert_allclose(first, JOINTS, atol=1e-7)
  np.testing.assert_allclose(second, VERTICES_M, atol=1e-7)


def test_a_submission_with_nan_is_refused_and_not_written(tmp_path):
  bad = JOINTS.copy()
  bad[3, 4, 1] = np.nan
  with pytest.raises(ValueError, match="finite joints, got others in example 3"):
    freihand.write_zip(tmp_path / "pred.zip", bad, VERTICES_M)
  assert list(tmp_path.iterdir()) == []


def test_the_truth_is_read_from_the_datasets_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"xyz\.json and evaluation_ver"):
    freihand.read_truth(tmp_path)
  (tmp_path / "evaluation_xyz.json").write_text(json.dumps(TRUE_JOINTS.tolist()))
  (tmp_path / "evaluation_verts.json").write_text(json.dumps(TRUE_VERTICES.tolist()))
  joints, vertices = freihand.read_truth(tmp_path)
  np.testing.assert_array_equal(joints, TRUE_JOINTS)
  np.testing.assert_array_equal(vertices, TRUE_VERTICES)
  (tmp_path / "evaluation_xyz.json").write_text("[[[1, 2]]]")
  with pytest.raises(ValueError, match=r"xyz.json: expected points \(n, 21, 3\)"):
    freihand.read_truth(tmp_path)


def test_predictions_of_other_examples_are_refused():
  with pytest.raises(ValueError, match=r"joints: expected shape \(37, 21, 3\)"):
    freihand.score(JOINTS[:5], VERTICES_M[:5], TRUE_JOINTS, TRUE_VERTICES)
