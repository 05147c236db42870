"""What the network is trained on: the paper's loss and the original code's.

A loss is a recipe: it has four terms of every example, of which `per_example` makes
numbers, and weights. A term of a batch is its mean over the examples that carry its
label, of all devices together. A device cannot see the others' examples, so it
divides its own sum by the mean count a device:

  L = Σ_d S_d / Σ_d N_d = mean_d (S_d / mean_e N_e)

The mean over devices of what each returns is therefore the loss of the whole batch,
and since the counts do not depend on the parameters, the mean of the devices'
gradients is its gradient. One device and eight give the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from metro_jax.body import body_model, camera
from metro_jax.models.metro import Prediction
from metro_jax.models.targets import ROOTS, Targets

Array = Any  # np.ndarray or jax.Array
_FARTHEST = 100.0  # metres, or crops; numbers beyond are no place of a joint


class Terms(NamedTuple):
  """The terms of a loss, or something of each: a weight, a number of examples."""

  vertices: Array
  joints: Array
  regressed_joints: Array
  projection: Array


class Losses(NamedTuple):
  """The weighted total and its terms before their weights, this device's share."""

  total: Array
  vertices: Array
  joints: Array
  regressed_joints: Array
  projection: Array


class Recipe(NamedTuple):
  """What sets one loss apart from another.

  Attributes:
    weights: Of the terms.
    levels: What each mesh level counts, coarse to fine.
    root: What 3D joints are compared from, a key of `targets.ROOTS`.
    penalty: Of a joint's coordinate that is so far off; that of vertices is L1.
    over_coordinates: Sum or mean of a point's penalties, over the last axis.
    trusts_flags: Whether labels that their flag or confidence denies are not looked
      at. Otherwise the 2D term ignores its flag, see `original`.
  """

  weights: Terms
  levels: tuple[float, ...]
  root: str
  penalty: Callable[[Array], Array]
  over_coordinates: Callable[..., Array]
  trusts_flags: bool


def _l1(difference: Array) -> Array:
  """Absolute value whose gradient at 0 is 0, as PyTorch's; that of `jnp.abs` is 1."""
  return difference * jnp.sign(difference)


def paper(config: ConfigDict) -> Recipe:
  """Makes the paper's loss.

  L = α (w_V L_V + w_J L_J + w_R L_J^reg) + β w_P L_J^proj

  with L_V = 1/V Σ_i ||V_i - V̄_i||_1 and the joint terms likewise; α and β are the
  example's flags for 3D and 2D labels.

  Args:
    config: The loss section: weights, `vertex_levels`, the share of each mesh level,
      coarse to fine, and `root`.

  Source: METRO section 3.4, eq. 2-6. Where the paper is silent we follow the original
    code: every mesh level has its loss, 3D joints are compared from the root (see
    `joint_gaps`), the projection term adds those of the predicted and of the regressed
    joints, and a joint counts by its confidence. α asks for the label that the term
    needs: a mesh for L_V, 3D joints for L_J and L_J^reg.
  """
  shares = tuple(config.vertex_levels)
  return Recipe(
    weights=Terms(*(config[name] for name in Terms._fields)),
    levels=tuple(share / sum(shares) for share in shares),
    root=config.root,
    penalty=_l1,
    over_coordinates=jnp.sum,
    trusts_flags=True,
  )


def original(config: ConfigDict) -> Recipe:
  """Makes the original code's loss, the body's or the hand's.

  L = 1000 (L_J + L_J^reg) + 100 L_V + 100 L_J^proj   body, 0.33 on each of 3 levels
  L =       L_J + L_J^reg  +     L_V +     L_J^proj   hand, 0.5 on each of 2 levels

  Joint terms are squared errors times confidence, vertices are L1; all are means
  over every element, coordinates included. The 2D term ignores its flag: where 2D
  labels are missing their confidence must be 0, and such examples still count in the
  mean.

  Args:
    config: The loss section; uses `root`, "hips" for the body or "wrist" for the hand,
      and the number of `vertex_levels`.

  Source: original code, metro/tools/run_metro_bodymesh.py:216-264 and
    run_metro_handmesh.py. On purpose, a mean is over the labelled examples of all
    devices; there, over each GPU's own, so that an example weighed more beside
    unlabelled ones. On one device both agree. On purpose, too, an example whose root
    is not labelled is compared as `joint_gaps` says; there, from whatever numbers
    stand in the root's place.
  """
  weights, level = {
    "hips": (
      Terms(vertices=100, joints=1000, regressed_joints=1000, projection=100),
      0.33,
    ),
    "wrist": (Terms(vertices=1, joints=1, regressed_joints=1, projection=1), 0.5),
  }[config.root]
  return Recipe(
    weights=weights,
    levels=(level,) * len(config.vertex_levels),
    root=config.root,
    penalty=jnp.square,
    over_coordinates=jnp.mean,
    trusts_flags=False,
  )


RECIPES = {"paper": paper, "released": original}  # config.loss.recipe


def make_recipe(config: ConfigDict) -> Recipe:
  """Makes the recipe that the loss section of a config names."""
  return RECIPES[config.recipe](config)


def compute(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  config: ConfigDict,
  axis_name: str | None = None,
) -> Losses:
  """Computes the loss of a batch.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The same joints from the full mesh.
    config: The loss section.
    axis_name: The mapped axis of the devices, None outside a map.
  """
  recipe = make_recipe(config)
  terms = per_example(prediction, targets, joint_regressor, recipe)
  labelled = labelled_by_term(
    recipe, targets.has_mesh, targets.has_joints_3d, targets.has_joints_2d
  )
  return mean(terms, count(labelled, axis_name), recipe)


def per_example(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  recipe: Recipe,
) -> Terms:
  """Computes the terms of every example by itself.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The same joints from the full mesh.
    recipe: Which loss.

  Returns:
    (b,) each, 0 where the example has no such label.
  """
  labelled = labelled_by_term(
    recipe, targets.has_mesh, targets.has_joints_3d, targets.has_joints_2d
  )
  targets = present(targets, places=not recipe.trusts_flags)
  joints_3d, joints_2d = targets.joints_3d, targets.joints_2d
  regressed = body_model.regress_joints(joint_regressor, prediction.vertices[-1])

  def over_points(errors: Array) -> Array:
    return recipe.over_coordinates(errors, -1).mean(-1)

  def joint_term(points: Array) -> Array:
    gaps = joint_gaps(points, joints_3d, recipe.root)
    return over_points(joints_3d[..., 3:] * recipe.penalty(gaps))

  def projection_term(points: Array) -> Array:
    gaps = camera.weak_perspective(points, prediction.camera) - joints_2d[..., :2]
    return over_points(joints_2d[..., 2:] * recipe.penalty(gaps))

  pairs = zip(recipe.levels, prediction.vertices, targets.vertices, strict=True)
  direct = prediction.query_joints
  terms = Terms(
    vertices=sum(share * over_points(_l1(x - y)) for share, x, y in pairs),
    joints=joint_term(direct),
    regressed_joints=joint_term(regressed),
    projection=projection_term(direct) + projection_term(regressed),
  )
  return Terms(*map(lambda flag, term: jnp.where(flag, term, 0), labelled, terms))


def labelled_by_term(
  recipe: Recipe,
  has_mesh: Bool[Array, " b"],
  has_joints_3d: Bool[Array, " b"],
  has_joints_2d: Bool[Array, " b"],
) -> Terms:
  """Says for each term which examples it takes its mean over, (b,) each."""
  if not recipe.trusts_flags:
    has_joints_2d = jnp.ones_like(has_joints_2d)
  return Terms(has_mesh, has_joints_3d, has_joints_3d, has_joints_2d)


def count(labelled: Terms, axis_name: str | None = None) -> Terms:
  """Counts the labelled examples; 1 where there are none, so that 0 / 1 = 0.

  Args:
    labelled: Which of this device's examples have each term.
    axis_name: The mapped axis of the devices, None outside a map.

  Returns:
    How many a device, the mean over all devices.
  """

  def of(flags: Array) -> Array:
    number = flags.sum().astype(jnp.promote_types(jnp.float32, float))
    if axis_name is not None:
      number = jax.lax.pmean(number, axis_name)
    return jnp.where(number > 0, number, 1)

  return Terms(*map(of, labelled))


def mean(terms: Terms, counts: Terms, recipe: Recipe) -> Losses:
  """Averages terms of examples.

  Args:
    terms: This device's, (b,) each.
    counts: By which their sums are divided; see `count`.
    recipe: Which loss.

  Returns:
    This device's share; its mean over the axis is the loss of the whole batch.
  """
  means = Terms(
    *(x.sum() / n.astype(x.dtype) for x, n in zip(terms, counts, strict=True))
  )
  return Losses(total(means, recipe), *means)


def total(terms: Terms, recipe: Recipe) -> Array:
  """Weighs the terms and adds them up."""
  return sum(weight * x for weight, x in zip(recipe.weights, terms, strict=True))


def present(targets: Targets, places: bool = False) -> Targets:
  """Makes the numbers of labels that are not there zeros, before any arithmetic.

  Args:
    targets: The labels.
    places: Whether numbers that can be a place (not zeros, not beyond any person) are
      kept where only the confidence of a 3D joint, or the flag of 2D joints, denies
      them. The original code takes a root of confidence 0 for the origin, and its 2D
      term does not look at the flag. Built datasets hold no such numbers.

  Returns:
    The same flags and labels; a joint of which all numbers are zeros is not labelled.
  """
  sure_3d, sure_2d = targets.joints_3d[..., 3] > 0, targets.joints_2d[..., 2] > 0
  has_2d = targets.has_joints_2d[:, None]
  if places:
    sure_3d |= _is_place(targets.joints_3d)
    has_2d |= _is_place(targets.joints_2d)

  def kept(values: Array, there: Array) -> Array:
    return jnp.where(there[..., None], values, 0)

  there_3d = sure_3d & targets.has_joints_3d[:, None]
  return targets.replace(
    vertices=tuple(kept(v, targets.has_mesh[:, None]) for v in targets.vertices),
    joints_3d=kept(targets.joints_3d, there_3d),
    joints_2d=kept(targets.joints_2d, sure_2d & has_2d),
  )


def _is_place(labels: Array) -> Array:
  largest = jnp.abs(labels).max(-1)
  return (largest > 0) & (largest <= _FARTHEST)


def joint_gaps(
  predicted: Float[Array, "b j 3"], labels: Float[Array, "b j 4"], root: str
) -> Float[Array, "b j 3"]:
  """Compares predicted and labelled joints, both seen from one origin.

  g_j = (p_j - o(p)) - (q_j - o(q)) = d_j - Σ_i w_i d_i / Σ_i w_i,  d = p - q

  The origin o is the middle of the root's joints, w = 1 for these. Of an example that
  does not label all of them (3DPW's owners label no hips) it is the mean of the joints
  that are labelled, w their confidence. A labelled mesh does not help: it is seen from
  its own pelvis, and where that is among the joints' labels nobody says. So true joints
  have gaps of 0 wherever the labels' origin is, and absent labels take no part.

  Args:
    predicted: Metres, any origin.
    labels: Metres and confidence, any origin; of `present`.
    root: A key of `targets.ROOTS`.

  Returns:
    Metres; of a joint that is not labelled, anything finite.
  """
  there = (labels != 0).any(-1, keepdims=True)
  gaps = jnp.where(there, predicted - labels[..., :3], 0)
  is_root = jnp.zeros(labels.shape[1], bool).at[ROOTS[root]].set(True)[:, None]
  rooted = there[:, ROOTS[root]].all(1, keepdims=True)
  weights = jnp.where(rooted, is_root, labels[..., 3:])
  # Seen from one joint first, so that the mean of equal gaps is that gap to the bit.
  seen_from = jnp.take_along_axis(gaps, weights.argmax(1, keepdims=True), axis=1)
  gaps -= jax.lax.stop_gradient(seen_from)
  total = weights.sum(1, keepdims=True)
  return gaps - (weights * gaps).sum(1, keepdims=True) / jnp.where(total > 0, total, 1)
