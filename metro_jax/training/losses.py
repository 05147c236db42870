"""What the network is trained on: the paper's loss and the released code's.

Both are functions of one prediction and its targets. Every term is a mean over the
examples that carry its label, of all devices together. A device cannot see the
others' examples, so it divides its own sum by the mean count a device:

  L = Σ_d S_d / Σ_d N_d = mean_d (S_d / mean_e N_e)

The mean over devices of what each returns is therefore the loss of the whole batch,
and since the counts do not depend on the parameters, the mean of the devices'
gradients is its gradient. One device and eight give the same numbers.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from metro_jax.body import body_model, camera, joints
from metro_jax.models.metro import Prediction

Array = Any  # np.ndarray or jax.Array
# What 3D joints are compared from, as rows of the network's joints: J14 or HAND21.
ROOTS = {
  "hips": joints.index(joints.J14, ("R_Hip", "L_Hip")),
  "wrist": joints.index(joints.HAND21, ("Wrist",)),
}
_FARTHEST = 100.0  # metres, or crops; numbers beyond are no place of a joint


class ReleasedWeights(NamedTuple):
  """The released code's numbers: of the three terms, and of each mesh level in L_V."""

  joints: float
  vertices: float
  projection: float
  level: float


RELEASED = {
  "hips": ReleasedWeights(joints=1000.0, vertices=100.0, projection=100.0, level=0.33),
  "wrist": ReleasedWeights(joints=1.0, vertices=1.0, projection=1.0, level=0.5),
}


@flax.struct.dataclass
class Targets:
  """What a batch says the answer is.

  Labels that are missing, whether by an example's flag or by a joint's confidence of
  0, may be any numbers, NaN included: `present` makes them zeros.

  Attributes:
    vertices: Per mesh level, coarse to fine, metres, camera frame, at the origin the
      H36M pelvis of the full mesh, or a hand's wrist.
    joints_3d: The J14, or the hand's 21, in metres, any origin, and their confidence.
    joints_2d: The same in crop coordinates [-1, 1] and their confidence.
    has_mesh: Which examples have vertices.
    has_joints_3d: Which have 3D joints.
    has_joints_2d: Which have 2D joints.
  """

  vertices: tuple[Float[Array, "b _ 3"], ...]
  joints_3d: Float[Array, "b j 4"]
  joints_2d: Float[Array, "b j 3"]
  has_mesh: Bool[Array, " b"]
  has_joints_3d: Bool[Array, " b"]
  has_joints_2d: Bool[Array, " b"]


class Counts(NamedTuple):
  """Labelled examples: how many a device, the mean over all devices."""

  mesh: Float[Array, ""]
  joints_3d: Float[Array, ""]
  joints_2d: Float[Array, ""]


@flax.struct.dataclass
class Losses:
  """The weighted total and its terms before their weights, this device's share.

  Scalars; arrays where they are stacked over the parts of a batch.
  """

  total: Float[Array, "*parts"]
  vertices: Float[Array, "*parts"]
  joints: Float[Array, "*parts"]
  regressed_joints: Float[Array, "*parts"]
  projection: Float[Array, "*parts"]


def compute(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  config: ConfigDict,
  axis_name: str | None = None,
  counts: Counts | None = None,
) -> Losses:
  """The recipe that `config.recipe` names; `config` is the loss section.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The same joints from the full mesh.
    config: The loss section.
    axis_name: The mapped axis of the devices, None outside a map.
    counts: By which sums are divided, if the batch comes in parts; see `count`.
  """
  if config.recipe == "released":
    root = root_of(targets.joints_3d)
    return released(prediction, targets, joint_regressor, axis_name, root, counts)
  return paper(prediction, targets, joint_regressor, config, axis_name, counts)


def count(
  has_mesh: Bool[Array, " b"],
  has_joints_3d: Bool[Array, " b"],
  has_joints_2d: Bool[Array, " b"],
  axis_name: str | None = None,
) -> Counts:
  """The labelled examples of a batch; 1 where there are none, so that 0 / 1 = 0.

  Args:
    has_mesh: Which of this device's examples have vertices.
    has_joints_3d: Which have 3D joints.
    has_joints_2d: Which have 2D joints.
    axis_name: The mapped axis of the devices, None outside a map.
  """

  def of(labelled: Array) -> Array:
    number = labelled.sum().astype(jnp.promote_types(jnp.float32, float))
    if axis_name is not None:
      number = jax.lax.pmean(number, axis_name)
    return jnp.where(number > 0, number, 1)

  return Counts(of(has_mesh), of(has_joints_3d), of(has_joints_2d))


def paper(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  weights: ConfigDict,
  axis_name: str | None = None,
  counts: Counts | None = None,
) -> Losses:
  """The paper's loss.

  L = α (w_V L_V + w_J L_J + w_R L_J^reg) + β w_P L_J^proj

  with L_V = 1/V Σ_i ||V_i - V̄_i||_1 and the joint terms likewise; α and β are the
  example's flags for 3D and 2D labels.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The same joints from the full mesh.
    weights: `vertices`, `joints`, `regressed_joints`, `projection`, `vertex_levels`,
      the share of each mesh level, coarse to fine.
    axis_name: The mapped axis of the devices, None outside a map.
    counts: As for `compute`.

  Returns:
    This device's share; its mean over the axis is the loss of the whole batch.

  Source: METRO section 3.4, eq. 2-6. Where the paper is silent we follow the released
    code: every mesh level has its loss, 3D joints are compared from the root (see
    `joint_gaps`), the projection term adds those of the predicted and of the regressed
    joints, and a joint counts by its confidence. α asks for the label that the term
    needs: a mesh for L_V, 3D joints for L_J and L_J^reg.
  """
  targets = present(targets)
  regressed = regress(joint_regressor, prediction.vertices[-1])
  counts = counts or _count(targets, axis_name)

  def joint_term(predicted: Array) -> Array:
    labels = targets.joints_3d
    errors = _joint_errors(predicted, labels, _l1, root_of(labels)).sum(-1).mean(-1)
    return _labelled_mean(errors, targets.has_joints_3d, counts.joints_3d)

  def projection_term(points: Array) -> Array:
    predicted = camera.weak_perspective(points, prediction.camera)
    errors = _projection_errors(predicted, targets.joints_2d, _l1)
    return _labelled_mean(
      errors.sum(-1).mean(-1), targets.has_joints_2d, counts.joints_2d
    )

  vertices = sum(
    share * _labelled_mean(errors.sum(-1).mean(-1), targets.has_mesh, counts.mesh)
    for share, errors in zip(
      weights.vertex_levels, _vertex_errors(prediction, targets), strict=True
    )
  ) / sum(weights.vertex_levels)
  direct, mesh = joint_term(prediction.joints), joint_term(regressed)
  projection = projection_term(prediction.joints) + projection_term(regressed)
  total = (
    weights.vertices * vertices
    + weights.joints * direct
    + weights.regressed_joints * mesh
    + weights.projection * projection
  )
  return Losses(total, vertices, direct, mesh, projection)


def released(
  prediction: Prediction,
  targets: Targets,
  joint_regressor: Float[Any, "j v"],
  axis_name: str | None = None,
  root: str = "hips",
  counts: Counts | None = None,
) -> Losses:
  """The released code's loss, the body's or the hand's.

  L = 1000 (L_J + L_J^reg) + 100 L_V + 100 L_J^proj   body, 0.33 on each of 3 levels
  L =       L_J + L_J^reg  +     L_V +     L_J^proj   hand, 0.5 on each of 2 levels

  Joint terms are squared errors times confidence, vertices are L1; all are means
  over every element, coordinates included. The 2D term ignores its flag: where 2D
  labels are missing their confidence must be 0, and such examples still count in the
  mean.

  Args:
    prediction: The network's output, float32 or better.
    targets: The labels.
    joint_regressor: The same joints from the full mesh.
    axis_name: The mapped axis of the devices, None outside a map.
    root: A key of `ROOTS`: "hips" for the body, "wrist" for the hand.
    counts: As for `compute`.

  Returns:
    This device's share; its mean over the axis is the loss of the whole batch.

  Source: released code, metro/tools/run_metro_bodymesh.py:216-264 and
    run_metro_handmesh.py. On purpose, a mean is over the labelled examples of all
    devices; there, over each GPU's own, so that an example weighed more beside
    unlabelled ones. On one device both agree. On purpose, too, an example whose root
    is not labelled is compared as `joint_gaps` says; there, from whatever numbers
    stand in the root's place.
  """
  weights, targets = RELEASED[root], present(targets, places=True)
  regressed = regress(joint_regressor, prediction.vertices[-1])
  counts = counts or _count(targets, axis_name)

  def joint_term(predicted: Array) -> Array:
    errors = _joint_errors(predicted, targets.joints_3d, jnp.square, root)
    errors = errors.mean((-2, -1))
    return _labelled_mean(errors, targets.has_joints_3d, counts.joints_3d)

  def projection_term(points: Array) -> Array:
    predicted = camera.weak_perspective(points, prediction.camera)
    return _projection_errors(predicted, targets.joints_2d, jnp.square).mean()

  vertices = sum(
    weights.level * _labelled_mean(errors.mean((-2, -1)), targets.has_mesh, counts.mesh)
    for errors in _vertex_errors(prediction, targets)
  )
  direct, mesh = joint_term(prediction.joints), joint_term(regressed)
  projection = projection_term(prediction.joints) + projection_term(regressed)
  total = (
    weights.joints * (direct + mesh)
    + weights.vertices * vertices
    + weights.projection * projection
  )
  return Losses(total, vertices, direct, mesh, projection)


def present(targets: Targets, places: bool = False) -> Targets:
  """Makes the numbers of labels that are not there zeros, before any arithmetic.

  Args:
    targets: The labels.
    places: Whether numbers that can be a place (not zeros, not beyond any person) are
      kept where only the confidence of a 3D joint, or the flag of 2D joints, denies
      them. The released code takes a root of confidence 0 for the origin, and its 2D
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
  """Differences of predicted and labelled joints, both seen from one origin.

  g_j = (p_j - o(p)) - (q_j - o(q)) = d_j - Σ_i w_i d_i / Σ_i w_i,  d = p - q

  The origin o is the middle of the root's joints, w = 1 for these. Of an example that
  does not label all of them (3DPW's owners label no hips) it is the mean of the joints
  that are labelled, w their confidence. A labelled mesh does not help: it is seen from
  its own pelvis, and where that is among the joints' labels nobody says. So true joints
  have gaps of 0 wherever the labels' origin is, and absent labels take no part.

  Args:
    predicted: Metres, any origin.
    labels: Metres and confidence, any origin; of `present`.
    root: A key of `ROOTS`.

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


def from_hips(points: Float[Array, "b j 3"]) -> Float[Array, "b j 3"]:
  """J14 joints with the middle of the two hips at the origin."""
  return from_root(points, "hips")


def root_of(points: Float[Array, "b j _"]) -> str:
  """Tells the root of a network's joints, a key of `ROOTS`, by how many they are."""
  return "wrist" if points.shape[1] == len(joints.HAND21) else "hips"


def from_root(points: Float[Array, "b j 3"], root: str) -> Float[Array, "b j 3"]:
  """Joints with the middle of the root's at the origin; `root` is a key of `ROOTS`."""
  return points - points[:, ROOTS[root]].mean(axis=1, keepdims=True)


def regress(
  regressor: Float[Any, "j v"], vertices: Float[Array, "b v 3"]
) -> Float[Array, "b j 3"]:
  """Joints of full meshes, exactly, whatever products default to."""
  with jax.default_matmul_precision("highest"):
    return body_model.regress_joints(regressor, vertices)


def _l1(difference: Array) -> Array:
  """Absolute value whose gradient at 0 is 0, as PyTorch's; that of `jnp.abs` is 1."""
  return difference * jnp.sign(difference)


def _joint_errors(predicted: Array, target: Array, penalty: Any, root: str) -> Array:
  """Penalty a coordinate, from one origin on both sides, times confidence."""
  return target[..., 3:] * penalty(joint_gaps(predicted, target, root))


def _projection_errors(predicted: Array, target: Array, penalty: Any) -> Array:
  return target[..., 2:] * penalty(predicted - target[..., :2])


def _vertex_errors(prediction: Prediction, targets: Targets) -> list[Array]:
  """Absolute differences a coordinate, per level, coarse to fine."""
  pairs = zip(prediction.vertices, targets.vertices, strict=True)
  return [_l1(predicted - target) for predicted, target in pairs]


def _count(targets: Targets, axis_name: str | None) -> Counts:
  return count(
    targets.has_mesh, targets.has_joints_3d, targets.has_joints_2d, axis_name
  )


def _labelled_mean(values: Array, labelled: Array, number: Array) -> Array:
  """This device's share of the mean over the labelled examples of all devices."""
  return jnp.where(labelled, values, 0).sum() / number.astype(values.dtype)
