"""Training against the released code's numbers: losses, gradients, three Adam steps.

One batch of two: one example has a mesh and 2D joints, the other has 3D joints. The
weights and the body are made by rules; dropout is off and the masks are stored.
"""

import json
import os
import pathlib
import runpy
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest

from metro_jax import config as base
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels, rows_of_levels
from metro_jax.body.template import Template
from metro_jax.data.batch import Batch
from metro_jax.models import metro, setup
from metro_jax.models import targets as targets_
from metro_jax.training import losses
from metro_jax.training.optimizer import make_optimizer
from metro_jax.weights import torch_metro

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
rule = runpy.run_path(str(GOLDENS / "fill_rule.py"))
standin = runpy.run_path(str(GOLDENS / "standin_smpl.py"))
STEPS = 3
RELATIVE = 1e-6
TERMS = {
  "total": "total",
  "vertices": "vertices",
  "joints": "3d_direct",
  "regressed_joints": "3d_reg",
  "projection": "2d",
}

pytestmark = pytest.mark.slow


class Run(NamedTuple):
  """What the released code's numbers are compared with, by PyTorch's names."""

  terms: list[losses.Losses]  # before each step, and after the last
  prediction: metro.Prediction  # before the first step
  targets: targets_.Targets
  gradient: dict[str, np.ndarray]
  statistics: dict[str, np.ndarray]
  first: dict[str, np.ndarray]
  last: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
  return json.loads((GOLDENS / "train_body_resnet50.json").read_text())


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
  return read("train_body_resnet50")


@pytest.fixture(scope="module")
def run(goldens) -> Run:
  with jax.enable_x64(True):
    return train(goldens, h36m_regressor())


def read(name: str) -> dict[str, np.ndarray]:
  with np.load(GOLDENS / f"{name}.npz") as file:
    return dict(file)


def h36m_regressor() -> np.ndarray:
  folder = os.environ.get("METRO_ASSETS")
  if not folder:
    pytest.skip("set METRO_ASSETS to the folder with J_regressor_h36m_correct.npy")
  regressor = np.load(pathlib.Path(folder) / "J_regressor_h36m_correct.npy")
  return regressor.astype(np.float32)  # as the released code holds it


def make_geometry(regressor: np.ndarray) -> setup.Geometry:
  reference = read("eval_body_resnet50")["f64/template.ref_vertices"]
  select = tuple(read("helpers")[f"downsample_index/smpl{n}"] for n in (0, 1))
  body = BodyModel(
    **standin["arrays"](),
    regressors={"h36m": regressor.astype(np.float64)},
    faces=np.zeros((1, 3), np.int32),
    parents=standin["PARENTS"],
    name="stand-in",
  )
  levels = MeshLevels((6890, 1723, 431), select, (), (), ())
  return setup.Geometry(
    body, Template(reference[:14], reference[14:]), rows_of_levels(levels)
  )


def make_batch(goldens: dict[str, np.ndarray]) -> Batch:
  """The goldens' labels; their images are not 8-bit and go to the network directly."""
  wide = {k: v.astype(np.float64) for k, v in goldens.items() if k.startswith("in/")}
  return Batch(
    image=np.zeros((2, 1, 1, 3), np.uint8),
    color_gain=np.ones((2, 3)),
    joints_2d=wide["in/joints_2d"],
    joints_3d_m=wide["in/joints_3d"],
    pose=wide["in/pose"],
    shape=wide["in/betas"],
    has_joints_2d=goldens["in/has_2d_joints"] == 1,
    has_joints_3d=goldens["in/has_3d_joints"] == 1,
    has_mesh=goldens["in/has_smpl"] == 1,
    valid=np.ones(2, bool),
    index=np.arange(2),
    dataset=np.zeros(2, np.int32),
    gender=np.zeros(2, np.int32),
  )


def make_images() -> np.ndarray:
  images = np.random.default_rng(0).standard_normal((2, 3, 224, 224))
  return images.astype(np.float32).astype(np.float64).transpose(0, 2, 3, 1)


def make_variables(model: metro.METRO, template: Template) -> dict[str, Any]:
  images = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images, template)
  filled = {
    entry.key: rule["fill_value"](entry.key, entry.shape)
    for entry in torch_metro.entries(shapes)
  }
  variables = torch_metro.from_state_dict(filled, shapes)
  return jax.tree.map(lambda x: np.asarray(x, np.float64), variables)


def torch_names(**collections: Any) -> dict[str, np.ndarray]:
  """What training changes, under the state dict's names and in its shapes."""
  variables = {"params": {}, "batch_stats": {}, **jax.device_get(collections)}
  table = torch_metro.entries(variables)
  return {e.key: e.to_torch(leaf_at(variables, e.path)) for e in table}


def leaf_at(tree: Any, path: tuple[str, ...]) -> np.ndarray:
  for name in path:
    tree = tree[name]
  return tree


def train(goldens: dict[str, np.ndarray], regressor: np.ndarray) -> Run:
  """Three steps of the released recipe with the project's own parts."""
  config = base.get_config()
  config.model.dropout = 0.0
  config.loss.recipe = "released"
  config.optimizer.learning_rate = 1e-6
  levels = MeshLevels((6890, 1723, 431), (), (), (), ())
  model = metro.build(config, levels, axis_name=None)
  geometry = make_geometry(regressor)
  targets = jax.jit(targets_.make_targets)(make_batch(goldens), geometry)
  kept = np.concatenate([goldens["in/mjm_mask"], goldens["in/mvm_mask"]], axis=1)
  images, mask = make_images(), kept[..., 0] == 0
  variables = make_variables(model, geometry.template)
  params, statistics = variables["params"], variables["batch_stats"]

  def loss(params: Any, images: Any) -> tuple[Any, Any]:
    prediction, updates = model.apply(
      {"params": params, "batch_stats": statistics},
      images,
      geometry.template,
      mask,
      train=True,
      mutable=["batch_stats"],
    )
    terms = losses.compute(
      prediction, targets, geometry.body.mesh_regressor, config.loss
    )
    return terms.total, (terms, prediction, updates["batch_stats"])

  gradient_of = jax.jit(jax.grad(loss, has_aux=True))
  optimizer = make_optimizer(config)
  state = optimizer.init(params)

  @jax.jit
  def update(gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  begin, terms = torch_names(params=params), []
  for number in range(STEPS + 1):
    gradient, (now, prediction, stats) = gradient_of(params, images)
    terms.append(jax.device_get(now))
    if number == 0:
      first = jax.device_get((prediction, targets))
      first_gradient = torch_names(params=gradient)
      first_statistics = torch_names(batch_stats=stats)
    if number < STEPS:
      params, state = update(gradient, state, params)
  return Run(
    terms, *first, first_gradient, first_statistics, begin, torch_names(params=params)
  )


@pytest.mark.parametrize("after", range(STEPS + 1))
def test_every_loss_term_is_the_released_codes_before_and_after_adam(
  run, numbers, after
):
  want = numbers["lr1e-6"]["f64"]["hist"][after]
  for ours, theirs in TERMS.items():
    got = getattr(run.terms[after], ours)
    np.testing.assert_allclose(got, want[theirs], rtol=RELATIVE, err_msg=theirs)


def test_targets_and_the_loss_of_every_mesh_level_are_the_released_codes(
  run, goldens, numbers
):
  np.testing.assert_allclose(
    run.targets.vertices[0], goldens["f64/train.gt_vertices_sub2"], atol=1e-9
  )
  want = numbers["f64"]["hist"][0]
  names = ("v_sub2", "v_sub", "v_full")
  pairs = zip(run.prediction.vertices, run.targets.vertices, strict=True)
  for name, (predicted, true) in zip(names, pairs, strict=True):
    labelled = goldens["in/has_smpl"] == 1
    got = np.abs(predicted - true)[labelled].mean()
    np.testing.assert_allclose(got, want[name], rtol=RELATIVE, err_msg=name)


def test_the_gradient_of_every_parameter_is_the_released_codes(run, goldens, numbers):
  # Key biases shift all scores of a query alike: their gradient is rounding alone.
  keys = [
    (n, key)
    for n, key in enumerate(numbers["grad_keys"])
    if not key.endswith("self.key.bias")
  ]
  assert len(keys) == len(run.gradient) - 12
  wrong = []
  for n, key in keys:
    gradient, norm = run.gradient[key], goldens["f64/grad_norm"][n]
    direction = rule["rng"](f"probe.{key}").standard_normal(gradient.shape)
    probe = (gradient * direction).sum() - goldens["f64/grad_probe"][n]
    error = max(abs(np.linalg.norm(gradient) - norm), abs(probe)) / norm
    if not error <= RELATIVE:
      wrong.append(f"{key}: {error:.2g}")
  assert not wrong, "; ".join(wrong)


def test_batch_norm_statistics_are_the_released_codes(run, goldens, numbers):
  for n, key in enumerate(numbers["bn_keys"]):
    value, norm = run.statistics[key], goldens["f64/bn_norm"][n]
    np.testing.assert_allclose(np.linalg.norm(value), norm, rtol=RELATIVE)
    error = abs(value.sum() - goldens["f64/bn_sum"][n])
    assert error <= RELATIVE * norm, key


def test_three_adam_steps_move_the_parameters_as_the_released_code(run, numbers):
  want = numbers["lr1e-6"]["f64"]
  for key, values in want["after3"].items():
    got = run.last[key].reshape(-1)[: len(values)]
    np.testing.assert_allclose(got, values, rtol=RELATIVE, atol=1e-12, err_msg=key)
  for module, norm in want["delta3"].items():
    moved = [
      ((run.last[key] - run.first[key]) ** 2).sum()
      for key in run.first
      if key.split(".")[0] == module
    ]
    np.testing.assert_allclose(np.sqrt(sum(moved)), norm, rtol=RELATIVE, err_msg=module)
