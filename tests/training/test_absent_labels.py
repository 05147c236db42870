"""Whatever is not labelled, a true prediction has neither loss nor gradient.

Coordinates are multiples of 1/64, so that moving labels by metres rounds nothing and
zero can be asked for to the bit. Every example has a loss of its own.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body import body_model, humanoid, joints
from metro_jax.data import schema
from metro_jax.data.readers import geometry
from metro_jax.models.metro import Prediction
from metro_jax.models.targets import Targets
from metro_jax.training import losses

ORIGINS_M = np.array([[0, 0, 0], [0, 0, 4], [-1.5, 0.25, 30], [64, -8, 0.5]])
ABSENT = (0.0, np.nan, np.inf, 1e30, -1e6)  # what may stand where no label is
FLAGS = np.array(np.meshgrid(*[[False, True]] * 3)).reshape(3, 8).T
RECIPES, ROOTS = ("paper", "released"), ("hips", "wrist")


class Kind(NamedTuple):
  """A body or a hand with few vertices."""

  joints: int
  levels: tuple[int, ...]  # vertices, coarse to fine
  walked: int  # of the first joints every subset is seen, with the others at random


KINDS = {"hips": Kind(14, (4, 8, 16), 14), "wrist": Kind(21, (8, 16), 12)}


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def each_loss(recipe: str, root: str):
  """Losses of single examples, and the gradient of each by its prediction."""
  config = base.get_config().loss
  config.recipe, config.root = recipe, root
  config.vertex_levels = (1.0,) * len(KINDS[root].levels)
  regressor = make_regressor(KINDS[root])

  def one(prediction, targets):
    case = jax.tree.map(lambda x: x[None], (prediction, targets))
    found = losses.compute(*case, regressor, config)
    return found.total, found._asdict()

  return jax.jit(jax.vmap(jax.value_and_grad(one, has_aux=True)))


def make_regressor(kind: Kind) -> np.ndarray:
  """Each joint is the middle of two vertices."""
  rows = np.arange(kind.joints)
  regressor = np.zeros((kind.joints, kind.levels[-1]))
  for step in (1, 5):
    regressor[rows, rows * step % kind.levels[-1]] += 0.5
  return regressor


def make_prediction(kind: Kind, count: int, rng: np.random.Generator) -> Prediction:
  """Of a network that contradicts itself nowhere."""

  def places(*shape):
    return rng.integers(-64, 65, shape) / 64

  vertices = tuple(places(count, n, 3) for n in kind.levels)
  return Prediction(
    camera=np.concatenate([2.0 ** places(count, 1).round(), places(count, 2)], 1),
    query_joints=make_regressor(kind) @ vertices[-1],
    vertices=vertices,
  )


def subsets(kind: Kind, rng: np.random.Generator) -> np.ndarray:
  """Which joints are labelled: every subset of the walked ones."""
  numbers = np.arange(2**kind.walked)
  walked = numbers[:, None] >> np.arange(kind.walked) & 1 == 1
  others = rng.random((len(numbers), kind.joints - kind.walked)) < 0.5
  return np.concatenate([walked, others], axis=1)


def true_targets(p: Prediction, labelled: np.ndarray, rng: np.random.Generator):
  """Labels that the prediction meets, 3D ones moved, with every pattern of flags."""
  count = len(labelled)
  origins_m = ORIGINS_M[rng.integers(len(ORIGINS_M), size=count)]
  sure = np.where(labelled, rng.uniform(0.01, 1, labelled.shape), 0)[..., None]
  xy = p.camera[:, None, :1] * (p.query_joints[..., :2] + p.camera[:, None, 1:])
  flags = FLAGS[rng.integers(len(FLAGS), size=count)].T
  return Targets(
    vertices=p.vertices,
    joints_3d=np.concatenate([p.query_joints + origins_m[:, None], sure], -1),
    joints_2d=np.concatenate([xy, sure], -1),
    has_mesh=flags[0],
    has_joints_3d=flags[1],
    has_joints_2d=flags[2],
  )


def without(targets: Targets, number: float) -> Targets:
  """The same labels with a number in place of all that are absent."""

  def known(labels, flag):
    sure = labels[..., -1:] > 0
    kept = np.where(sure, labels, number)
    kept[..., -1:] = np.where(sure, labels[..., -1:], 0)  # says that it is absent
    return np.where(flag[:, None, None], kept, number)

  has_mesh = targets.has_mesh[:, None, None]
  return targets.replace(
    vertices=tuple(np.where(has_mesh, v, number) for v in targets.vertices),
    joints_3d=known(targets.joints_3d, targets.has_joints_3d),
    joints_2d=known(targets.joints_2d, targets.has_joints_2d),
  )


def make_case(root: str, seed: int):
  """A prediction, labels that it meets, and a generator for what else there is."""
  rng = np.random.default_rng(seed)
  labelled = subsets(KINDS[root], rng)
  prediction = make_prediction(KINDS[root], len(labelled), rng)
  return prediction, true_targets(prediction, labelled, rng), rng


def expect_zeros(tree):
  for leaf in jax.tree.leaves(tree):
    np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("number", ABSENT)
def test_the_truth_has_loss_and_gradient_zero_whatever_is_labelled(
  recipe, root, number
):
  prediction, targets, _ = make_case(root, 0)
  (_, terms), gradient = each_loss(recipe, root)(prediction, without(targets, number))
  expect_zeros(terms)
  expect_zeros(gradient)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_absent_labels_change_no_bit_of_loss_and_gradient(recipe, root):
  prediction, targets, rng = make_case(root, 1)
  wrong = jax.tree.map(lambda x: x + rng.normal(size=x.shape), prediction)
  want = each_loss(recipe, root)(wrong, without(targets, 0.0))
  assert (want[0][0] > 0).mean() > 0.8 and np.isfinite(want[0][0]).all()
  for number in ABSENT[1:]:
    got = each_loss(recipe, root)(wrong, without(targets, number))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_labels_origin_changes_no_3d_loss(recipe, root):
  prediction, targets, rng = make_case(root, 2)
  wrong = jax.tree.map(lambda x: x + rng.normal(size=x.shape), prediction)
  moved_m = targets.joints_3d + np.array([3.0, -2, 9, 0])
  moved = without(targets.replace(joints_3d=moved_m), 0.0)
  got, want = (
    each_loss(recipe, root)(wrong, labels)[0][1]
    for labels in (moved, without(targets, 0.0))
  )
  assert (want["joints"] > 0).sum() > 1000
  for name in ("joints", "regressed_joints"):
    np.testing.assert_allclose(got[name], want[name], atol=1e-12)


@pytest.mark.parametrize("hidden", [("R_Hip",), ("L_Hip", "Head"), ("R_Hip", "L_Hip")])
def test_without_a_hip_joints_are_compared_from_the_mean_of_the_labelled(hidden):
  rng = np.random.default_rng(3)
  predicted, true = rng.normal(size=(2, 14, 3))
  confidence = rng.uniform(0.1, 1, 14)
  confidence[joints.index(joints.J14, hidden)] = 0
  share = confidence / confidence.sum()
  gaps = (predicted - share @ predicted) - (true - share @ true)
  labels = np.concatenate([true, confidence[:, None]], 1)
  targets = Targets(
    vertices=(np.zeros((1, 1, 3)),) * 3,
    joints_3d=labels[None],
    joints_2d=np.zeros((1, 14, 3)),
    has_mesh=np.zeros(1, bool),
    has_joints_3d=np.ones(1, bool),
    has_joints_2d=np.zeros(1, bool),
  )
  case = Prediction(np.zeros((1, 3)), predicted[None], targets.vertices), targets
  # What stands in a hidden joint's place must not matter to the paper's loss.
  config = base.get_config().loss
  found = losses.compute(*case, np.zeros((14, 1)), config)
  want = (confidence * np.abs(gaps).sum(1)).mean()
  np.testing.assert_allclose(found.joints, want, rtol=1e-12)
  labels[confidence == 0] = 0  # as built datasets hold them
  config.recipe = "released"
  found = losses.compute(*case, np.zeros((14, 1)), config)
  want = (confidence[:, None] * gaps**2).mean()
  np.testing.assert_allclose(found.joints, want, rtol=1e-12)


@pytest.mark.parametrize("distance_m", [0.0, 4.0])
def test_3dpws_limbs_have_loss_zero_where_the_prediction_has_smpls_joints(distance_m):
  # With the hips in zeros for an origin this is 0.11 at 0 m and 2.8 at 4 m.
  body = humanoid.load()
  posed = body_model.pose_body(body, np.zeros((1, 72)), np.zeros((1, 10)))
  tree = np.asarray(posed.joints[0])
  limbs = tree[joints.index(joints.SMPL24, geometry.SMPL_IN_J24)] + [0, 0, distance_m]
  placed = geometry.place(
    schema.BODY, geometry.SMPL_IN_J24, geometry.with_confidence(limbs)
  )
  predicted = tree[joints.index(joints.SMPL24, joints.J14)]
  gaps = losses.joint_gaps(
    jnp.asarray(predicted[None]), jnp.asarray(placed[None, joints.J14_FROM_J24]), "hips"
  )
  labelled = placed[joints.J14_FROM_J24, 3] > 0
  assert labelled.sum() == 10
  np.testing.assert_allclose(gaps[0][labelled], 0, atol=1e-6)
