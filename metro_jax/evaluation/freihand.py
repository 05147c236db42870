"""FreiHAND's leaderboard: the file it takes and the scores that it gives.

A submission is a zip with pred.json: [joints, vertices], each a list over the
evaluation's examples in order, metres. Joints stand in the order of
`joints.HAND21`, vertices in MANO's. The scores are the leaderboard's own formulae, on
this machine, for those who have the ground truth.

Source: FreiHAND, pred.py and eval.py; its joint order is that of `HAND21`.
"""

import io
import json
import os
import pathlib
import zipfile
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from metro_jax import files
from metro_jax.body import joints
from metro_jax.cluster import parallel
from metro_jax.evaluation import gathering, metrics, thresholds
from metro_jax.evaluation.eval_step import Evaluation

MEMBER = "pred.json"
TRUTH_FILES = ("evaluation_xyz.json", "evaluation_verts.json")
_AT_ONCE = 32
_DECIMALS = 7  # of metres


class Predictions:
  """Keeps what the network says of every example, from its wrist.

  An `evaluator.evaluate`'s `on_batch`.
  """

  def __init__(self):
    self._rows, self._joints, self._vertices = [], [], []

  def __call__(self, batch: Any, done: Evaluation) -> None:
    """Takes a batch and what it gave, stacked by device."""
    valid = np.asarray(batch.valid)
    made = done.predicted
    joints_m, vertices_m = parallel.gather((made.joints, made.vertices))
    wrist = joints_m[valid][:, joints.WRIST : joints.WRIST + 1]
    self._rows.append(np.asarray(batch.index)[valid])
    self._joints.append(joints_m[valid] - wrist)
    self._vertices.append(vertices_m[valid] - wrist)

  def everywhere(
    self,
  ) -> tuple[Float[np.ndarray, "n 21 3"], Float[np.ndarray, "n v 3"]]:
    """Joints and vertices of all processes' examples in the order of the split."""
    parts = (self._joints, self._vertices)
    mine = tuple(np.concatenate(part) for part in parts)
    return gathering.everywhere(np.concatenate(self._rows), mine)[1]


def write_zip(
  path: str | os.PathLike[str],
  joints_m: Float[np.ndarray, "n 21 3"],
  vertices_m: Float[np.ndarray, "n v 3"],
) -> None:
  """Writes a submission as a whole.

  Args:
    path: The zip file.
    joints_m: In the order of the evaluation's examples.
    vertices_m: Likewise.

  Raises:
    ValueError: If a number is not finite.
  """
  for name, points in (("joints", joints_m), ("vertices", vertices_m)):
    if not np.isfinite(points).all():
      row = int(np.argwhere(~np.isfinite(points))[0][0])
      raise ValueError(f"{path}: expected finite {name}, got others in example {row}")
  with (
    files.replacing(path) as partial,
    zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    archive.open(MEMBER, "w", force_zip64=True) as raw,
    io.TextIOWrapper(raw, "ascii") as text,
  ):
    text.write("[[")
    _write_points(text, joints_m)
    text.write("], [")
    _write_points(text, vertices_m)
    text.write("]]")


def _write_points(text: Any, points: np.ndarray) -> None:
  for row, example in enumerate(points):
    rounded = np.round(example.astype(np.float64), _DECIMALS)
    text.write((", " if row else "") + json.dumps(rounded.tolist()))


def read_truth(
  folder: str | os.PathLike[str],
) -> tuple[Float[np.ndarray, "n 21 3"], Float[np.ndarray, "n v 3"]]:
  """Reads the evaluation's true joints and vertices, metres.

  Args:
    folder: Of the dataset; it holds `TRUTH_FILES`.

  Raises:
    FileNotFoundError: If a file is missing.
    ValueError: If a file is damaged.
  """
  folder = pathlib.Path(folder).expanduser()
  missing = [name for name in TRUTH_FILES if not (folder / name).is_file()]
  if missing:
    raise FileNotFoundError(
      f"{folder}: expected FreiHAND's {' and '.join(missing)}, found none"
    )
  found = []
  for name, count in zip(TRUTH_FILES, (21, None), strict=True):
    try:
      values = json.loads((folder / name).read_text())
    except ValueError as error:
      raise ValueError(f"{folder / name}: expected JSON, {error}") from error
    found.append(_points(folder / name, values, count))
  return found[0], found[1]


def _points(path: Any, values: Any, count: int | None = None) -> np.ndarray:
  try:
    points = np.asarray(values, np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(f"{path}: expected lists of points, got others") from error
  if points.ndim != 3 or points.shape[2] != 3 or count not in (None, points.shape[1]):
    wanted = f"(n, {count or 'v'}, 3)"
    raise ValueError(f"{path}: expected points {wanted}, got shape {points.shape}")
  return points


def score(
  joints_m: Float[np.ndarray, "n 21 3"],
  vertices_m: Float[np.ndarray, "n v 3"],
  true_joints_m: Float[np.ndarray, "t 21 3"],
  true_vertices_m: Float[np.ndarray, "t w 3"],
) -> dict[str, float]:
  """Computes the leaderboard's scores, by its names and in its units.

  "xyz" is of joints, "mesh" of vertices, "al" after aligning each example; means in
  centimetres, AUC and F-scores between 0 and 1. The leaderboard's alignment lets
  through mirror images, unlike the one of PA-MPJPE; of hands that look like hands the
  best alignment is none.

  Args:
    joints_m: Predicted, in the order of the evaluation.
    vertices_m: Likewise.
    true_joints_m: Ground truth.
    true_vertices_m: Ground truth.

  Raises:
    ValueError: If there are not as many predictions as examples, or other vertices.

  Source: FreiHAND, eval.py; of meshes that are not MANO's it compares less.
  """
  shapes = {
    "joints": (joints_m, true_joints_m),
    "vertices": (vertices_m, true_vertices_m),
  }
  for name, (predicted, target) in shapes.items():
    if predicted.shape != target.shape:
      raise ValueError(
        f"{name}: expected shape {target.shape} of the truth, got {predicted.shape}"
      )
  totals: dict[str, float] = {}
  for start in range(0, len(joints_m), _AT_ONCE):
    some = slice(start, start + _AT_ONCE)
    batch = (joints_m[some], vertices_m[some])
    for name, values in _score(*batch, true_joints_m[some], true_vertices_m[some]):
      totals[name] = totals.get(name, 0.0) + float(np.asarray(values, np.float64).sum())
  return {name: total / len(joints_m) for name, total in totals.items()}


def _score(joints: Any, vertices: Any, true_joints: Any, true_vertices: Any):
  """Yields each score of each example."""
  names = {"xyz": (joints, true_joints), "mesh": (vertices, true_vertices)}
  for name, (predicted, target) in names.items():
    for suffix, moved in (("", predicted), ("_al", _align(predicted, target))):
      distances_mm = metrics.distances_mm(moved, target)
      yield f"{name}{suffix}_mean3d", distances_mm.mean(-1) / 10
      yield f"{name}{suffix}_auc3d", thresholds.hand_auc(distances_mm)
  for infix, moved in (("", vertices), ("al_", _align(vertices, true_vertices))):
    found = _f_scores(moved, true_vertices)
    for column, limit in enumerate(thresholds.F_SCORES_MM):
      yield f"f_{infix}score_{limit:.0f}", found[:, column]


@jax.jit
def _align(predicted: Any, target: Any) -> Any:
  return metrics.aligned(predicted, target, proper=False)


@jax.jit
def _f_scores(predicted: Any, target: Any) -> Any:
  return thresholds.f_scores(predicted, target)


def format_scores(scores: dict[str, float]) -> str:
  """Writes one line a score, as the leaderboard's scores.txt has them."""
  return "\n".join(f"{name}: {value:f}" for name, value in scores.items())
