"""The package's own network: read back as written, and as good as its card says."""

import json
import pathlib

import cv2
import jax
import numpy as np
import pytest

from configs import synthetic
from metro_jax.body import humanoid, joints
from metro_jax.checkpoints import embedded, runs
from metro_jax.data.builders.synthetic import scene
from metro_jax.evaluation import metrics
from metro_jax.inference import photographs, predictor
from metro_jax.models import setup
from metro_jax.rendering import overlay
from metro_jax.rendering.overlay import Box

PHOTOGRAPHS = pathlib.Path(__file__).parents[1] / "fixtures" / "photographs"
MOST_BYTES = 12_000_000
PEOPLE = 16


@pytest.fixture(scope="module")
def network():
  return runs.load(embedded.NAME)


def test_a_run_is_read_back_as_it_was_written(tmp_path, monkeypatch):
  config = synthetic.get_config("tiny")
  made = setup.build(config)
  init = jax.jit(lambda key: setup.make_variables(made.model, made.template, 32, key))
  variables = jax.device_get(init(jax.random.key(0)))
  variables["batch_stats"] = {}
  run = runs.Run(config, made, variables, 41)
  monkeypatch.setattr(embedded, "FOLDER", tmp_path)
  monkeypatch.setattr(embedded, "WEIGHTS", tmp_path / "model.safetensors")
  embedded.write(run, tmp_path)
  again = runs.load(embedded.NAME)
  assert again.step == 41 and again.config.to_dict() == config.to_dict()
  flat = jax.tree_util.tree_leaves_with_path(again.variables["params"])
  for (_, ours), theirs in zip(flat, jax.tree.leaves(variables["params"]), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-7)
  kernel = again.variables["params"]["upsampling1"]["kernel"]
  # The mesh's own geometry is not stored, and exact.
  np.testing.assert_array_equal(kernel, variables["params"]["upsampling1"]["kernel"])


def test_the_asset_is_small_and_its_card_lies_beside_it():
  assert sum(path.stat().st_size for path in embedded.FOLDER.iterdir()) < MOST_BYTES
  card = (embedded.FOLDER / "README.md").read_text()
  for word in ("Apache", "BlazePose", "MPJPE", "configs/embedded.py"):
    assert word in card


def test_another_network_is_told_in_one_line(network):
  config = synthetic.get_config("tiny")
  other = setup.build(config)
  like = setup.variable_shapes(other, config)
  with pytest.raises(ValueError, match=r"embedded: expected a config of the same netw"):
    embedded.load_variables(other, like)
  same = setup.variable_shapes(network.network, network.config)
  embedded.load_variables(network.network, same)


def pa_mpjpe_mm(joints_m, true_m):
  """The mean distance of one person's joints after alignment."""
  aligned_m = metrics.aligned(joints_m[None], true_m[None])
  return float(metrics.distances_mm(aligned_m, true_m[None]).mean())


def test_people_that_it_has_never_seen_are_as_near_as_the_card_says(network):
  config = network.config.data.synthetic
  names = scene.Settings._fields
  settings = scene.Settings(**{name: config[name] for name in names})
  stage, look = scene.make_stage(humanoid.load()), predictor.make_predictor(network)
  errors = []
  for n in range(PEOPLE):
    example = scene.draw_example(stage, settings, "test", n)
    image = cv2.imdecode(
      np.frombuffer(example["image"], np.uint8), cv2.IMREAD_COLOR_RGB
    )
    box = Box(*map(float, example["center_px"]), float(example["box_px"]))
    body = look(image, box)
    true_m = example["joints_3d_m"][joints.J14_FROM_J24, :3]
    errors.append(pa_mpjpe_mm(body.joints_m, true_m.astype(np.float32)))
  assert np.median(errors) < 130


def test_limbs_in_photographs_are_found(network):
  labels = json.loads((PHOTOGRAPHS / "labels.json").read_text())
  sides = {"left": "L_", "right": "R_"}
  parts = [name.split("_") for name in labels["joints"]]
  rows = [joints.J14.index(sides[side] + part.title()) for side, part in parts]
  look, shares, errors = predictor.make_predictor(network), [], []
  for person in labels["people"]:
    image = photographs.read(PHOTOGRAPHS / person["image"])
    box = Box(*person["box"])
    body = look(image, box)
    seen = overlay.to_pixels(body.joints_m, body.camera, box)[rows]
    known = np.array(person["known"])
    gaps = np.linalg.norm(seen - np.array(person["joints_px"]), axis=1)[known]
    shares.append(float((gaps < 0.2 * person["torso_px"]).mean()))
    if "joints_m" in person:
      true_m = np.array(person["joints_m"], np.float32)
      errors.append(pa_mpjpe_mm(body.joints_m[rows], true_m))
  assert np.mean(shares) > 0.65
  assert np.mean(errors) < 115
