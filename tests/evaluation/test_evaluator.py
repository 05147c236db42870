import functools
import json
import math
import operator
import os
import pathlib
import socket
import subprocess
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.body import body_model, joints
from metro_jax.cluster import parallel
from metro_jax.data.batch import Batch
from metro_jax.evaluation import assessment, baseline, evaluator, protocols
from metro_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD
from metro_jax.models.metro import Prediction
from metro_jax.models.setup import Geometry

EXAMPLES, VERTICES, PX = 10, 30, 2
RNG = np.random.default_rng(7)


def floats(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def shares(*shape):
  weights = RNG.uniform(size=shape).astype(np.float32)
  return weights / weights.sum(1, keepdims=True)


BODY = body_model.BodyModel(
  template=floats(VERTICES, 3),
  shape_directions=0.1 * floats(VERTICES, 3, 10),
  pose_directions=None,
  joint_regressor=shares(24, VERTICES),
  skin_weights=shares(VERTICES, 24),
  regressors={"h36m": shares(17, VERTICES), "j24": shares(24, VERTICES)},
  faces=np.zeros((1, 3), np.int32),
  parents=joints.SMPL24_PARENTS,
  name="tiny",
)
GEOMETRY = Geometry(
  body=BODY,
  template=np.zeros(3, np.float32),
  level_rows=(np.arange(VERTICES, dtype=np.int32),),
)
MESHES_M = floats(256, VERTICES, 3)
POSE, SHAPE = 0.3 * floats(EXAMPLES, 72), floats(EXAMPLES, 10)
JOINTS_M = floats(EXAMPLES, 24, 3)
HAS_MESH = np.arange(EXAMPLES) != 4
HAS_JOINTS = np.arange(EXAMPLES) > 1


class Lookup(nn.Module):
  """Says the mesh whose number the picture's first byte is."""

  @nn.compact
  def __call__(self, images, template, mask, train):
    pixels = images[:, 0, 0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    meshes = self.param("meshes", nn.initializers.zeros, MESHES_M.shape)
    row = jnp.rint(pixels * 255).astype(int)
    zeros = jnp.zeros((len(images), 14, 3))
    return Prediction(camera=zeros[:, 0], query_joints=zeros, vertices=(meshes[row],))


def batches(size):
  """Batches of the ten examples; what fills up the last one is nonsense."""
  for first in range(0, EXAMPLES, size):
    rows = np.arange(first, first + size)
    valid = rows < EXAMPLES
    rows = np.minimum(rows, EXAMPLES - 1)
    image = np.broadcast_to(rows[:, None, None, None], (size, PX, PX, 3))
    confidence = np.ones((size, 24, 1), np.float32)
    yield Batch(
      image=image.astype(np.uint8),
      color_gain=np.ones((size, 3), np.float32),
      joints_2d=np.zeros((size, 24, 3), np.float32),
      joints_3d_m=np.concatenate([JOINTS_M[rows], confidence], axis=-1),
      pose=POSE[rows],
      shape=SHAPE[rows],
      has_joints_2d=np.ones(size, bool),
      has_joints_3d=HAS_JOINTS[rows],
      has_mesh=HAS_MESH[rows],
      valid=valid,
      index=np.where(valid, rows, -1).astype(np.int32),
      dataset=np.zeros(len(rows), np.int32),
      gender=np.zeros(len(rows), np.int32),
    )


@functools.cache
def run(size):
  eval_step = evaluator.map_eval_step(Lookup(), GEOMETRY)
  state = parallel.replicate({"params": {"meshes": MESHES_M}})
  return evaluator.evaluate(eval_step, state, batches(size))


def expected_errors(meshes_m):
  """MPVPE and MPJPE of every example by NumPy, in float64."""
  h36m = BODY.regressors["h36m"].astype(np.float64)
  truth = body_model.pose_body(BODY, POSE, SHAPE).vertices
  hips = [joints.J14.index("R_Hip"), joints.J14.index("L_Hip")]
  mpvpe, mpjpe = [], []
  for i in range(EXAMPLES):
    predicted, target = meshes_m[i].astype(np.float64), truth[i].astype(np.float64)
    gap = (predicted - h36m[0] @ predicted) - (target - h36m[0] @ target)
    mpvpe.append(1000 * np.linalg.norm(gap, axis=1).mean())
    mine = (h36m @ predicted)[joints.J14_FROM_H36M]
    true = JOINTS_M[i, joints.J14_FROM_J24].astype(np.float64)
    gap = (mine - mine[hips].mean(0)) - (true - true[hips].mean(0))
    mpjpe.append(1000 * np.linalg.norm(gap, axis=1).mean())
  return np.array(mpvpe), np.array(mpjpe)


@pytest.mark.parametrize("size", [4, 16])
def test_every_example_counts_once_whatever_the_batch_size(size):
  results = run(size)
  mpvpe, mpjpe = expected_errors(MESHES_M)
  assert results.means["mpvpe_mm"] == pytest.approx(mpvpe[HAS_MESH].mean(), rel=1e-5)
  assert results.means["mpjpe_mm"] == pytest.approx(mpjpe[HAS_JOINTS].mean(), rel=1e-5)
  assert results.examples == 9


def test_errors_of_every_example_are_kept_in_order():
  results = run(4)
  mpvpe, mpjpe = expected_errors(MESHES_M)
  np.testing.assert_array_equal(results.rows, np.arange(EXAMPLES))
  expected = np.where(HAS_MESH, mpvpe, np.nan)
  np.testing.assert_allclose(results.errors["mpvpe_mm"], expected, rtol=1e-5)
  expected = np.where(HAS_JOINTS, mpjpe, np.nan)
  np.testing.assert_allclose(results.errors["mpjpe_mm"], expected, rtol=1e-5)
  own = results.errors["pa_mpjpe_mm"]
  assert results.means["pa_mpjpe_mm"] == pytest.approx(np.nanmean(own), rel=1e-6)


def test_true_joints_are_those_of_the_true_mesh_where_the_config_says_so():
  eval_step = evaluator.map_eval_step(Lookup(), GEOMETRY, "mesh")
  state = parallel.replicate({"params": {"meshes": MESHES_M}})
  results = evaluator.evaluate(eval_step, state, batches(16))
  truth = body_model.pose_body(BODY, POSE, SHAPE).vertices
  regressor = BODY.regressors["h36m"][joints.J14_FROM_H36M]
  hips = [joints.J14.index("R_Hip"), joints.J14.index("L_Hip")]
  gap = regressor @ (MESHES_M[:EXAMPLES] - truth)
  gap = gap - gap[:, hips].mean(1, keepdims=True)
  expected = 1000 * np.linalg.norm(gap, axis=-1).mean(-1)
  expected = np.where(HAS_MESH, expected, np.nan)  # whether or not it has joints
  np.testing.assert_allclose(results.errors["mpjpe_mm"], expected, rtol=1e-4)


def test_eight_devices_give_what_one_gives():
  environment = {
    **os.environ,
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(pathlib.Path(evaluator.__file__).parents[2]),
  }
  done = subprocess.run(
    [sys.executable, __file__], env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  devices, means, errors = json.loads(done.stdout)
  here = run(16)
  assert devices == 8
  assert means == pytest.approx(here.means, rel=1e-6)
  np.testing.assert_allclose(errors, here.errors["pa_mpjpe_mm"], rtol=1e-5)


def test_two_processes_give_what_one_gives_each_with_all_examples():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  root = str(pathlib.Path(evaluator.__file__).parents[2])
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
  started = [
    subprocess.Popen(
      [sys.executable, __file__, str(process), str(port)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  try:
    said = [process.communicate(timeout=300) for process in started]
  finally:
    for process in started:
      process.kill()
  here = run(16)
  for out, err in said:
    lines = out.strip().splitlines()  # gloo tells of its connections here too
    assert lines, err
    devices, means, errors = json.loads(lines[-1])
    assert devices == 1
    assert means == pytest.approx(here.means, rel=1e-6)
    np.testing.assert_allclose(errors, here.errors["pa_mpjpe_mm"], rtol=1e-5)


class Split:
  """Poses of a training split; every third example has only 2D labels."""

  def __init__(self, count, name="tiny/train"):
    self.name, self.count, self.read = name, count, 0

  def __len__(self):
    return self.count

  def __getitem__(self, row):
    self.read += 1
    i = row % EXAMPLES
    return {"pose": POSE[i], "shape": SHAPE[i] + row, "has_mesh": row % 3 != 0}


def expected_mean_mesh(count):
  rows = np.array([row for row in range(count) if row % 3])
  i = rows % EXAMPLES
  meshes = body_model.pose_body(BODY, POSE[i], SHAPE[i] + rows[:, None]).vertices
  pelvis = np.einsum("v,bvc->bc", BODY.regressors["h36m"][0], meshes)
  return (meshes - pelvis[:, None]).mean(0)


@pytest.mark.parametrize("count", [5, 48, 49])
def test_mean_mesh_is_the_mean_over_labelled_examples_from_their_pelvis(count):
  mean_m = baseline.mean_mesh(Split(count), BODY)
  np.testing.assert_allclose(mean_m, expected_mean_mesh(count), rtol=1e-4, atol=1e-4)


def test_mean_mesh_is_computed_once_for_a_split(tmp_path):
  cache = tmp_path / "eval" / "mean_mesh.npz"
  split = Split(12)
  first = baseline.mean_mesh(split, BODY, cache)
  read = split.read
  np.testing.assert_array_equal(baseline.mean_mesh(split, BODY, cache), first)
  assert split.read - read == 2  # only the two that tell splits apart
  other = baseline.mean_mesh(Split(13), BODY, cache)
  np.testing.assert_allclose(other, expected_mean_mesh(13), rtol=1e-4, atol=1e-4)


def test_a_dataset_that_was_built_again_has_its_own_mean_mesh(tmp_path):
  before, after = Split(12), Split(12)
  before.built, after.built = "1", "2"
  inner = range(1, 11)  # the first and the last example stay as they are
  changed = {row: before[row] | {"has_mesh": row == 5} for row in inner}
  after.__class__ = type(
    "Changed", (Split,), {"__getitem__": lambda s, r: changed.get(r) or before[r]}
  )
  baseline.mean_mesh(before, BODY, tmp_path / "mean_mesh.npz")
  got = baseline.mean_mesh(after, BODY, tmp_path / "mean_mesh.npz")
  np.testing.assert_array_equal(got, baseline.mean_mesh(after, BODY))


def test_a_split_without_meshes_gives_the_upright_mean_body():
  upright = BODY.template * [1, -1, -1]  # half a turn about x, into the camera frame
  expected = upright - BODY.regressors["h36m"][0] @ upright
  np.testing.assert_allclose(baseline.mean_mesh(Split(1), BODY), expected, atol=1e-3)


def test_of_a_large_split_rows_are_read_that_are_spread_evenly(monkeypatch):
  monkeypatch.setattr(baseline, "MOST_EXAMPLES", 4)
  split = Split(40)
  mean_m = baseline.mean_mesh(split, BODY)
  assert split.read == 4 + 2  # rows 0, 10, 20, 30, and two for the fingerprint
  rows = np.array([10, 20])  # those of them with a mesh
  meshes = body_model.pose_body(
    BODY, POSE[rows % EXAMPLES], SHAPE[rows % EXAMPLES] + rows[:, None]
  ).vertices
  pelvis = np.einsum("v,bvc->bc", BODY.regressors["h36m"][0], meshes)
  expected = (meshes - pelvis[:, None]).mean(0)
  np.testing.assert_allclose(mean_m, expected, rtol=1e-4, atol=1e-4)


def test_the_baseline_says_the_mean_mesh_for_every_example():
  mean_m = floats(VERTICES, 3)
  results = baseline.mean_mesh_baseline(mean_m, GEOMETRY, batches(4))
  mpvpe, mpjpe = expected_errors(np.broadcast_to(mean_m, (EXAMPLES, *mean_m.shape)))
  assert results.means["mpvpe_mm"] == pytest.approx(mpvpe[HAS_MESH].mean(), rel=1e-5)
  assert results.means["mpjpe_mm"] == pytest.approx(mpjpe[HAS_JOINTS].mean(), rel=1e-5)


def made_up(mpvpe, mpjpe, pa_mpjpe):
  means = dict.fromkeys(protocols.BODY_METRICS, 0.25)
  means |= {"mpvpe_mm": mpvpe, "mpjpe_mm": mpjpe, "pa_mpjpe_mm": pa_mpjpe}
  return evaluator.Results(means, 1234, np.zeros(0, np.int64), {}, {})


def made_up_assessment():
  worse = made_up(200.0, 150.0, 60.0)
  better = made_up(90.0, 60.0, math.nan)
  return assessment.Assessment("test", better, worse, protocols.SYNTHETIC)


def test_the_json_file_holds_both_and_the_protocol(tmp_path):
  path = assessment.write(made_up_assessment(), tmp_path, 7)
  assert path == tmp_path / "eval" / "test.json"
  stored = json.loads(path.read_text())
  assert stored["mpvpe_mm"] == 90.0 and stored["mpjpe_mm"] == 60.0
  assert stored["pa_mpjpe_mm"] is None and stored["examples"] == 1234
  assert stored["pck_150mm"] == 0.25 and stored["step"] == 7
  beside = stored["baseline"]
  assert beside["mpjpe_mm"] == 150.0 and beside["examples"] == 1234
  assert stored["protocol"] == protocols.describe(protocols.SYNTHETIC)


def test_the_table_says_errors_change_and_protocol():
  table = made_up_assessment().table()
  assert "MPJPE            60.0 mm     150.0 mm  -60.0 %" in table
  assert "PA-MPJPE               –      60.0 mm        –" in table
  assert "3D PCK             0.250        0.250   +0.000" in table
  assert "1,234 examples" in table
  assert protocols.describe(protocols.SYNTHETIC) in " ".join(table.split())


def run_as_one_of_two(process, port):
  """The same examples, half of every batch a process."""
  parallel.jax.distributed.initialize(f"localhost:{port}", 2, process)
  eval_step = evaluator.map_eval_step(Lookup(), GEOMETRY)
  state = parallel.replicate({"params": {"meshes": MESHES_M}})
  mine = slice(8 * process, 8 * (process + 1))
  shares = (parallel.jax.tree.map(operator.itemgetter(mine), b) for b in batches(16))
  return evaluator.evaluate(eval_step, state, shares)


if __name__ == "__main__":
  found = run_as_one_of_two(*map(int, sys.argv[1:])) if sys.argv[1:] else run(16)
  count = parallel.jax.local_device_count()
  errors_mm = found.errors["pa_mpjpe_mm"].tolist()
  print(json.dumps([count, found.means, errors_mm]))
