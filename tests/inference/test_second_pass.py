"""Two passes: the second sees what the first framed, told in the first's terms."""

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import synthetic
from metro_jax.body import camera
from metro_jax.checkpoints import runs
from metro_jax.cluster import parallel
from metro_jax.data import framing, pipeline
from metro_jax.evaluation import evaluator, second_pass
from metro_jax.inference import predictor
from metro_jax.models import setup
from metro_jax.rendering.overlay import Box, to_pixels
from tests.fixtures.drawn import drawn


@pytest.fixture(scope="module")
def config() -> ConfigDict:
  config = synthetic.get_config("tiny")
  config.data.passes = 2
  config.eval.batch_size = 8
  return config


@pytest.fixture(scope="module")
def run(config):
  """A network of random weights: whatever it says must be told consistently."""
  network = setup.build(config)
  px = config.data.image_px
  init = jax.jit(
    lambda key: setup.make_variables(network.model, network.template, px, key)
  )
  return runs.Run(config, network, jax.device_get(init(jax.random.key(3))), 0)


def test_evaluation_in_two_passes_agrees_with_two_predictions_by_hand(config, run):
  source, network = drawn("test", 5, 96), run.network
  geometry = network.geometry
  eval_step = evaluator.map_eval_step(network.model, geometry)
  step = second_pass.of_split(eval_step, source, config)
  (batch,) = pipeline.eval_batches(source, config)
  variables = parallel.replicate(run.variables)
  done = step(variables, parallel.shard(batch))
  predicted = parallel.unshard(done.predicted)
  vertices, cameras = predicted.vertices, predicted.camera
  look = predictor.make_predictor(run)
  for row, example in enumerate(source):
    image = cv2.imdecode(np.frombuffer(example["image"], np.uint8), 1)[..., ::-1]
    box = Box(*map(float, example["center_px"]), float(example["box_px"]))
    body = look(np.ascontiguousarray(image), box)
    np.testing.assert_allclose(vertices[row], body.vertices_m, atol=5e-3)
    ours, theirs = cameras[row], body.camera
    np.testing.assert_allclose(ours[0], theirs[0], atol=5e-3)
    # Shifts in the crop; the network's s is small, its shifts in metres not.
    np.testing.assert_allclose(ours[0] * ours[1:], theirs[0] * theirs[1:], atol=5e-3)


def test_errors_of_two_passes_are_those_of_the_turned_back_meshes(config, run):
  source, network = drawn("test", 4, 96), run.network
  eval_step = evaluator.map_eval_step(network.model, network.geometry)
  step = second_pass.of_split(eval_step, source, config)
  (batch,) = pipeline.eval_batches(source, config)
  done = step(parallel.replicate(run.variables), parallel.shard(batch))
  joints_m = parallel.unshard(done.predicted.joints)
  told = parallel.unshard(done.errors)["mpjpe_mm"]
  for row, example in enumerate(source):
    true_m = example["joints_3d_m"][framing.joints.J14_FROM_J24, :3]
    ours, theirs = (x - x[[2, 3]].mean(axis=0) for x in (joints_m[row], true_m))
    by_hand = 1000 * np.linalg.norm(ours - theirs, axis=1).mean()
    assert told[row] == pytest.approx(by_hand, rel=1e-3)


def test_one_pass_leaves_the_step_as_it_is(config):
  config = ConfigDict(config.to_dict())
  config.data.passes = 1

  def step(state, batch):
    raise AssertionError("it is not run")

  assert second_pass.of_split(step, drawn("test", 1, 96), config) is step


def test_what_a_predictor_says_projects_where_its_last_look_saw_it(run, monkeypatch):
  """Cameras of the turned square and of the box send joints to the same pixels."""
  frames = []
  original = framing.turn_back

  def spy(points_m, weak, frame, box):
    frames.append((points_m, weak, frame))
    return original(points_m, weak, frame, box)

  monkeypatch.setattr(framing, "turn_back", spy)
  image = np.random.default_rng(0).integers(0, 255, (120, 150, 3), np.uint8)
  box = Box(70.0, 60.0, 90.0)
  body = predictor.make_predictor(run)(image, box)
  joints_m, weak, frame = frames[-1]
  crop = camera.weak_perspective(joints_m, weak)
  c, s = np.cos(-frame.rotation_rad), np.sin(-frame.rotation_rad)
  upright = crop @ np.array([[c, -s], [s, c]]).T
  px = frame.center_px + upright * frame.side_px / 2
  np.testing.assert_allclose(
    to_pixels(body.joints_m, body.camera, box), px, atol=1e-2, rtol=1e-4
  )
