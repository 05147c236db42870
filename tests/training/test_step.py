"""One device and eight take the same step; a resumed run goes on bit for bit."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import config_checks
from metro_jax.body import hand, joints, template
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels, rows_of_levels
from metro_jax.body.template import Template
from metro_jax.data.batch import Batch
from metro_jax.models import forward
from metro_jax.models.setup import Geometry
from metro_jax.models.targets import Targets, make_targets
from metro_jax.training import step
from metro_jax.training.state import TrainState

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, dict[str, np.ndarray]]:
  """What `on_devices.py` found on one device and on eight."""
  folder = tmp_path_factory.mktemp("devices")
  begun = {count: start_on(count, folder / f"{count}.npz") for count in (1, 8)}
  for process in begun.values():
    assert process.wait() == 0
  found = {}
  for count in begun:
    with np.load(folder / f"{count}.npz") as file:
      found[count] = dict(file)
    assert found[count]["devices"] == count
  return found


def start_on(count: int, output: pathlib.Path) -> subprocess.Popen:
  devices = f"--xla_force_host_platform_device_count={count}"
  return subprocess.Popen(
    [
      sys.executable,
      HERE.parent / "fixtures" / "on_devices.py",
      HERE.parents[1],
      output,
    ],
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{devices} {QUICK_COMPILATION}"},
  )


def select(found: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  chosen = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
  assert chosen
  return chosen


@pytest.mark.parametrize("recipe", ("paper", "released"))
def test_loss_gradient_and_statistics_on_eight_devices_equal_those_on_one(runs, recipe):
  # Labels are spread so that some devices have none: local means would differ.
  one, eight = (select(runs[count], f"{recipe}/") for count in (1, 8))
  assert one.keys() == eight.keys()
  scale = one["['metrics']['gradient_norm']"]
  for key, want in one.items():
    tolerance = 1e-10 * (scale if "gradient" in key else 1)
    np.testing.assert_allclose(
      eight[key], want, rtol=1e-10, atol=tolerance, err_msg=key
    )


def test_the_recipes_differ(runs):
  paper, released = (runs[1][f"{r}/['metrics']['loss']"] for r in ("paper", "released"))
  assert released > 10 * paper


def test_gradient_norm_is_that_of_the_update(runs):
  gradient = select(runs[8], "paper/['gradient']")
  norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
  np.testing.assert_allclose(runs[8]["paper/['metrics']['gradient_norm']"], norm)


def test_a_resumed_run_ends_bit_identical_to_an_uninterrupted_one(runs):
  straight, resumed = (select(runs[8], f"{name}/") for name in ("straight", "resumed"))
  assert straight.keys() == resumed.keys()
  assert straight[".step"] == 6
  for key, want in straight.items():
    np.testing.assert_array_equal(resumed[key], want, err_msg=key)


def test_evaluation_counts_every_valid_labelled_example_once_on_any_devices(runs):
  found = select(runs[8], "eval/")
  on_one = select(runs[1], "eval/")
  valid = np.arange(16) < 11
  labelled = {
    "mpvpe_mm": valid & (np.arange(16) % 3 == 0),
    "mpjpe_mm": valid,
    "pa_mpjpe_mm": valid,
  }
  for name, counted in labelled.items():
    errors = found[f"['errors']['{name}']"]
    np.testing.assert_array_equal(np.isfinite(errors), counted)
    assert found[f"['totals']['count']['{name}']"] == counted.sum()
    mean = found[f"['means']['{name}']"]
    np.testing.assert_allclose(mean, errors[counted].mean(), rtol=1e-12)
    np.testing.assert_allclose(on_one[f"['means']['{name}']"], mean, rtol=1e-12)
  np.testing.assert_allclose(
    on_one["['predicted'].vertices"],
    found["['predicted'].vertices"],
    rtol=1e-10,
    atol=1e-12,
  )


def test_evaluation_errors_equal_numpy_on_the_predicted_meshes(runs, monkeypatch):
  monkeypatch.syspath_prepend(FIXTURES)
  import on_devices

  found = select(runs[8], "eval/")
  geometry = on_devices.make_geometry()
  batch = on_devices.make_batch(2, valid=11)
  regressor = geometry.body.regressors["h36m"]
  vertices = found["['predicted'].vertices"]
  all_joints = np.einsum("jv,bvc->bjc", regressor, vertices)
  # J14 by METRO's published indices into the H36M and the J24 sets.
  predicted = all_joints[:, [3, 2, 1, 4, 5, 6, 16, 15, 14, 11, 12, 13, 8, 10]]
  np.testing.assert_allclose(found["['predicted'].joints"], predicted, atol=1e-9)
  target = batch.joints_3d_m[:, [*range(13), 18], :3]

  def hips(x):
    return x - (x[:, 2:3] + x[:, 3:4]) / 2

  mpjpe = np.linalg.norm(hips(predicted) - hips(target), axis=-1).mean(-1) * 1000
  np.testing.assert_allclose(found["['errors']['mpjpe_mm']"][:11], mpjpe[:11])
  true = make_targets(batch, geometry).vertices[-1]
  centred = vertices - all_joints[:, :1]
  mpvpe = np.linalg.norm(centred - true, axis=-1).mean(-1) * 1000
  np.testing.assert_allclose(found["['errors']['mpvpe_mm']"][:11:3], mpvpe[:11:3])


def test_pairs_of_devices_share_batch_norms_statistics_and_no_others(runs):
  found = select(runs[8], "groups/")
  assert found["refused"] == (
    "config.model.batch_norm_group: expected a divisor of the 8 devices, got 3"
  )

  def of_a_pair(x, weights):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + 1e-5) * np.arange(1.0, 5) + 1
    return (weights * y**2).sum(), (y, mean)

  shape = (4, 6, *found["x"].shape[2:])
  pairs, weights = (found[name].reshape(shape) for name in ("x", "weights"))
  for n in range(4):
    dx, (y, mean) = jax.grad(of_a_pair, has_aux=True)(pairs[n], weights[n])
    np.testing.assert_allclose(found["y"].reshape(shape)[n], y, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["mean"][2 * n], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["dx"].reshape(shape)[n], dx, rtol=1e-2, atol=1e-3)
  assert np.abs(found["mean"][0] - found["mean"][2]).max() > 0.01


def test_batches_are_split_in_order_and_copies_are_whole(runs):
  found = select(runs[8], "moved/")
  rows = np.arange(48).reshape(24, 2)
  np.testing.assert_array_equal(found["sharded"], rows.reshape(8, 3, 2))
  np.testing.assert_array_equal(found["gathered"], rows)
  np.testing.assert_array_equal(found["replicated"], np.stack([rows] * 8))
  np.testing.assert_array_equal(found["unreplicated"], rows)


def test_a_batch_that_does_not_divide_by_the_devices_is_refused(runs):
  found = select(runs[8], "moved/")
  wanted = "expected a multiple of the 8 devices"
  assert str(found["shard"]) == f"batch of 12 examples: {wanted}"
  assert str(found["check"]) == f"config.train.batch_size: {wanted}, got 12"


def keys_of(seed: int, number: int, devices: int = 3) -> np.ndarray:
  state = TrainState({}, {}, {}, np.int32(number), np.array([seed, 7], np.uint32))

  def one(_):
    return jax.random.key_data(step.step_key(state))

  return np.asarray(jax.vmap(one, axis_name="data")(np.arange(devices)))


def test_keys_differ_by_run_step_and_device_and_only_by_these():
  keys = np.concatenate([keys_of(s, n) for s in (0, 1) for n in (0, 1, 2)])
  assert len(np.unique(keys, axis=0)) == 2 * 3 * 3
  np.testing.assert_array_equal(keys_of(1, 2), keys_of(1, 2))


@pytest.mark.parametrize("prng", config_checks.DROPOUT_PRNGS)
def test_dropouts_key_is_of_the_asked_generator_and_follows_the_steps_key(prng):
  first, again, other = (
    step.as_dropout_key(jax.random.key(seed), prng) for seed in (0, 0, 1)
  )
  assert str(jax.random.key_impl(first)) == prng
  bits = [np.asarray(jax.random.bits(key, (8,))) for key in (first, again, other)]
  np.testing.assert_array_equal(bits[0], bits[1])
  assert not np.any(bits[0] == bits[2])


def test_images_are_gained_clipped_and_normalised():
  image = np.array([[[[10, 200, 255]]], [[[0, 128, 255]]]], np.uint8)
  gain = np.array([[1.0, 1.4, 0.6], [1.0, 0.5, 1.0]], np.float32)
  pixels = np.array([[10, 255, 153], [0, 64, 255]]) / 255
  want = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  got = forward.normalize_images(image, gain)[:, 0, 0]
  np.testing.assert_allclose(got, want, rtol=1e-5)


def small_geometry() -> Geometry:
  """Four vertices on one bone chain; each regressor row picks vertex row % 4."""
  count = len(joints.SMPL24)
  vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
  pick = np.eye(4, dtype=np.float32)[np.arange(24) % 4]
  weights = np.zeros((4, count), np.float32)
  weights[:, 0] = 1
  body = BodyModel(
    template=vertices,
    shape_directions=np.stack([vertices] * 10, axis=-1),
    pose_directions=None,
    joint_regressor=np.eye(4, dtype=np.float32)[np.zeros(count, int)],
    skin_weights=weights,
    regressors={"h36m": pick[1:18], "j24": pick},
    faces=np.array([[0, 1, 2]], np.int32),
    parents=joints.SMPL24_PARENTS,
    name="four",
  )
  select_ = (np.array([3, 1, 0], np.int32), np.array([2, 0], np.int32))
  faces = (body.faces,) * 3
  levels = MeshLevels((4, 3, 2), select_, (), (), faces)
  queries = Template(np.zeros((14, 3), np.float32), np.zeros((2, 3), np.float32))
  return Geometry(body, queries, rows_of_levels(levels))


def small_targets() -> tuple[Batch, Targets]:
  rng = np.random.default_rng(0)

  def uniform(*shape):
    return rng.uniform(0.1, 1, shape).astype(np.float32)

  pose = np.zeros((3, 72), np.float32)
  pose[:, 2] = np.pi / 2  # a quarter turn about z: x becomes y
  shape = np.zeros((3, 10), np.float32)
  shape[1, 4] = 1  # twice the size
  batch = Batch(
    image=np.zeros((3, 2, 2, 3), np.uint8),
    color_gain=np.ones((3, 3), np.float32),
    joints_2d=uniform(3, 24, 3),
    joints_3d_m=uniform(3, 24, 4),
    pose=pose,
    shape=shape,
    has_joints_2d=np.array([True, False, True]),
    has_joints_3d=np.array([True, True, True]),
    has_mesh=np.array([False, True, True]),
    valid=np.array([True, True, False]),
    index=np.arange(3),
    dataset=np.zeros(3, np.int32),
    gender=np.zeros(3, np.int32),
  )
  return batch, make_targets(batch, small_geometry())


def test_target_meshes_are_posed_centred_on_the_pelvis_and_coarse_to_fine():
  _, targets = small_targets()
  # H36M's pelvis is vertex 1 here, which the turn takes to (0, 1, 0).
  turned = np.array([[0.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]]) - [0, 1, 0]
  coarse, middle, fine = targets.vertices
  np.testing.assert_allclose(fine[0], turned, atol=1e-6)
  np.testing.assert_allclose(fine[1], 2 * turned, atol=1e-6)
  np.testing.assert_allclose(middle[1], 2 * turned[[3, 1, 0]], atol=1e-6)
  np.testing.assert_allclose(coarse[1], 2 * turned[[0, 3]], atol=1e-6)


def test_target_joints_are_the_j14_and_padding_has_no_labels():
  batch, targets = small_targets()
  order = [*range(13), 18]
  np.testing.assert_array_equal(targets.joints_3d, batch.joints_3d_m[:, order])
  np.testing.assert_array_equal(targets.joints_2d[:2], batch.joints_2d[:2, order])
  np.testing.assert_array_equal(targets.joints_2d[2], 0)
  np.testing.assert_array_equal(targets.has_mesh, [False, True, False])
  np.testing.assert_array_equal(targets.has_joints_3d, [True, True, False])
  np.testing.assert_array_equal(targets.has_joints_2d, [True, False, False])


def hand_geometry() -> Geometry:
  """A hand whose joints are vertices of its own: joint i of the tree is vertex i."""
  rng = np.random.default_rng(1)
  count = 778
  pick = np.eye(count, dtype=np.float32)
  body = BodyModel(
    template=rng.normal(size=(count, 3)).astype(np.float32),
    shape_directions=np.zeros((count, 3, 10), np.float32),
    pose_directions=None,
    joint_regressor=pick[:16],
    skin_weights=np.eye(16, dtype=np.float32)[np.zeros(count, int)],
    regressors={"hand21": hand.regressor(pick[:16])},
    faces=np.array([[0, 1, 2]], np.int32),
    parents=joints.MANO16_PARENTS,
    name="points",
  )
  levels = MeshLevels((count, 2), (np.array([5, 7], np.int32),), (), (), (body.faces,))
  return Geometry(body, template.make_template(body, levels), rows_of_levels(levels))


def hand_batch() -> Batch:
  rng = np.random.default_rng(2)
  return Batch(
    image=np.zeros((2, 2, 2, 3), np.uint8),
    color_gain=np.ones((2, 3), np.float32),
    joints_2d=rng.uniform(size=(2, 21, 3)).astype(np.float32),
    joints_3d_m=rng.uniform(size=(2, 21, 4)).astype(np.float32),
    pose=np.zeros((2, 48), np.float32),
    shape=np.zeros((2, 10), np.float32),
    gender=np.zeros(2, np.int32),
    has_joints_2d=np.ones(2, bool),
    has_joints_3d=np.ones(2, bool),
    has_mesh=np.array([True, False]),
    valid=np.ones(2, bool),
    index=np.arange(2),
    dataset=np.zeros(2, np.int32),
  )


def test_a_hands_targets_are_its_21_joints_and_meshes_from_the_wrist():
  geometry, batch = hand_geometry(), hand_batch()
  targets = make_targets(batch, geometry)
  centred = geometry.body.template - geometry.body.template[0]
  np.testing.assert_allclose(targets.vertices[1][0], centred, atol=1e-6)
  np.testing.assert_allclose(targets.vertices[0][0], centred[[5, 7]], atol=1e-6)
  np.testing.assert_array_equal(targets.joints_3d, batch.joints_3d_m)
  np.testing.assert_array_equal(targets.joints_2d, batch.joints_2d)
  assert geometry.body.mesh_regressor.shape == (21, 778)
  np.testing.assert_array_equal(np.flatnonzero(geometry.body.root_regressor[0]), [0])


def test_the_released_hand_takes_its_joints_from_the_mesh_where_there_is_one():
  geometry, batch = hand_geometry(), hand_batch()
  got = make_targets(batch, geometry, joints_of_mesh=True).joints_3d
  middle_tip = geometry.body.template[444]
  row = joints.HAND21.index("Middle_4")
  np.testing.assert_allclose(got[0, row], [*middle_tip, 1], atol=1e-6)
  np.testing.assert_array_equal(got[1], batch.joints_3d_m[1])


def test_a_body_takes_its_joints_from_the_mesh_where_the_config_says_so():
  batch, labels = small_targets()
  geometry = small_geometry()
  got = make_targets(batch, geometry, joints_of_mesh=True).joints_3d
  np.testing.assert_array_equal(got[0], labels.joints_3d[0])  # it has no mesh
  want = geometry.body.mesh_regressor @ np.asarray(labels.vertices[-1][1])
  places = got[1, :, :3] - got[1, :1, :3]  # J14 and the mesh each have an origin
  np.testing.assert_allclose(places, want - want[:1], atol=1e-6)
  np.testing.assert_array_equal(got[1, :, 3], 1)


def test_meshes_of_a_gender_are_posed_with_its_body():
  batch, _ = small_targets()
  geometry = small_geometry()
  bodies = [
    geometry.body.replace(template=factor * geometry.body.template) for factor in (3, 5)
  ]
  batch = batch.replace(gender=np.array([0, 2, 1], np.int32))
  plain = make_targets(batch, geometry)
  got = make_targets(batch, geometry._replace(gendered=tuple(bodies)))
  shaped = make_targets(batch, geometry._replace(body=bodies[1]))
  male = make_targets(batch, geometry._replace(body=bodies[0]))
  for level in range(3):
    mine = got.vertices[level]
    np.testing.assert_allclose(mine[0], plain.vertices[level][0], atol=1e-6)
    np.testing.assert_allclose(mine[1], shaped.vertices[level][1], atol=1e-6)
    np.testing.assert_allclose(mine[2], male.vertices[level][2], atol=1e-6)
    assert np.abs(mine[1] - plain.vertices[level][1]).max() > 0.1
