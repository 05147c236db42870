"""Parameters of meshes: exact on the body's own, steady in noise, good for joints."""

import pathlib
import runpy

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.body import body_model, humanoid, joints, mesh_levels
from metro_jax.checkpoints import embedded, runs
from metro_jax.data.builders.synthetic import scene
from metro_jax.evaluation import metrics
from metro_jax.inference import parameters, predictor
from metro_jax.rendering.overlay import Box

BODIES = runpy.run_path(
  str(pathlib.Path(__file__).parents[1] / "fixtures" / "bodies.py")
)
QUICK = ("humanoid", "mano")


def posed(body, pose, betas, transl):
  return body_model.pose_body(body, pose, betas).vertices + transl[:, None]


def rebuilt(body, found):
  """The mesh that the parameters mean to smplx."""
  pose = np.concatenate([found.global_orient, found.body_pose], axis=1)
  return posed(body, pose, np.asarray(found.betas), np.asarray(found.transl))


def distances_mm(a, b):
  return 1000 * np.linalg.norm(a - b, axis=-1).mean(axis=-1)


def expect_exact(name, count):
  body = BODIES["load"](name)
  truth = BODIES["random_parameters"](body, count, seed=1)
  vertices_m = posed(body, *truth)
  found = parameters.make_fit(body)(vertices_m)
  assert float(found.residual_mm.mean()) <= 0.5
  np.testing.assert_allclose(
    found.residual_mm, distances_mm(rebuilt(body, found), vertices_m), atol=1e-3
  )
  assert distances_mm(rebuilt(body, found), vertices_m).mean() <= 0.5
  return found, truth


def expect_steady(name, count, noise_m):
  body = BODIES["load"](name)
  truth = BODIES["random_parameters"](body, count, seed=2)
  vertices_m = posed(body, *truth)
  noise = np.random.default_rng(3).normal(0, noise_m, vertices_m.shape)
  found = parameters.make_fit(body)((vertices_m + noise).astype(np.float32))
  error_mm = distances_mm(rebuilt(body, found), vertices_m)
  assert error_mm.mean() <= 500 * noise_m
  return error_mm


@pytest.mark.parametrize("name", QUICK)
def test_meshes_of_a_body_give_its_parameters_back(name):
  found, (pose, betas, transl) = expect_exact(name, 8)
  assert np.abs(found.betas - betas).max() < 0.2
  assert np.abs(found.transl - transl).max() < 2e-3
  assert found.body_pose.shape == (8, pose.shape[1] - 3)
  # An axis-angle beyond pi means the same turn the short way round.
  near = np.linalg.norm(pose.reshape(8, -1, 3), axis=-1) < 3.0
  if name == "humanoid":
    again = np.concatenate([found.global_orient, found.body_pose], axis=1)
    wrong = np.linalg.norm((again - pose).reshape(8, -1, 3), axis=-1)
    assert np.median(wrong[near]) < 0.01


@pytest.mark.parametrize(("name", "noise_m"), [("humanoid", 0.01), ("mano", 0.001)])
def test_noise_of_vertices_is_averaged_away(name, noise_m):
  expect_steady(name, 8, noise_m)


def test_any_number_of_meshes_is_fitted_as_each_alone():
  body = BODIES["load"]("mano")
  vertices_m = posed(body, *BODIES["random_parameters"](body, 3, seed=4))
  vertices_m[1] += np.random.default_rng(5).normal(0, 0.002, vertices_m[1].shape)
  fit = parameters.make_padded_fit(body)
  together, alone = fit(vertices_m), fit(vertices_m[1:2])
  assert together.residual_mm.shape == (3,)
  np.testing.assert_allclose(
    rebuilt(body, together)[1], rebuilt(body, alone)[0], atol=1e-4
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humanoid", "smpl", "mano"])
def test_200_meshes_of_a_body_are_fitted_within_half_a_millimetre(name):
  expect_exact(name, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humanoid", "smpl"])
def test_200_noisy_meshes_are_fitted_within_half_of_the_noise(name):
  assert expect_steady(name, 200, 0.01).max() <= 5.0


def pa_mpjpe_mm(count):
  """Of predicted meshes of test pictures, before and after a fit."""
  run = runs.load(embedded.NAME)
  config, body = run.config.data.synthetic, run.network.body
  settings = scene.Settings(**{name: config[name] for name in scene.Settings._fields})
  stage, look = scene.make_stage(humanoid.load()), predictor.make_batch_predictor(run)
  images, boxes, truth = [], [], []
  for n in range(count):
    example = scene.draw_example(stage, settings, "test", n)
    data = np.frombuffer(example["image"], np.uint8)
    images.append(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
    boxes.append(Box(*map(float, example["center_px"]), float(example["box_px"])))
    truth.append(example["joints_3d_m"][joints.J14_FROM_J24, :3])
  vertices_m = np.stack([one.vertices_m for one in look(images, boxes)])
  found = parameters.make_padded_fit(body)(vertices_m)
  return [
    np.asarray(
      metrics.pa_mpjpe_mm(jnp.asarray(body.mesh_regressor @ v), np.stack(truth))
    )
    for v in (vertices_m, rebuilt(body, found))
  ]


def test_joints_of_meshes_that_are_no_bodies_come_nearer_to_the_truth():
  body, levels = humanoid.load(), humanoid.load_levels()
  truth_m = posed(body, *BODIES["random_parameters"](body, 8, seed=6))
  # Errors as networks make them: alike over a hand's breadth.
  coarse = np.random.default_rng(7).normal(0, 0.03, (8, levels.counts[-1], 3))
  for step in (2, 1, 0):
    coarse = mesh_levels.upsample_matrix(levels, step) @ coarse
  bent_m = truth_m + np.float32(coarse)
  found = parameters.make_fit(body)(bent_m)
  before, after = (
    distances_mm(body.mesh_regressor @ v, body.mesh_regressor @ truth_m)
    for v in (bent_m, rebuilt(body, found))
  )
  assert after.mean() < 0.9 * before.mean()


@pytest.mark.slow
def test_a_fit_does_not_worsen_the_joints_of_500_predicted_meshes():
  before, after = pa_mpjpe_mm(500)
  print(f"PA-MPJPE {before.mean():.2f} mm before, {after.mean():.2f} mm after")
  assert after.mean() <= before.mean()
