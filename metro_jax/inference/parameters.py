"""Pose, shape and translation of a body model for meshes that a network predicted.

The posed vertices are linear in the world rotations R_m of the joints,

  v_i = Σ_m R_m u_im(β) + q,   q = J_0(β) + transl,
  u_im = w_im (x_i - J_m) + Σ_{c child of m} W_ic (J_c - J_m),

with w the skin weights, W_ic the weight of all joints below c, and x, J the rest
vertices and joints, which are linear in the shape β. So is every weighted mean of
vertices: a body is fitted to `ROWS` means of neighbouring vertices and to its joints,
which together see all of the mesh and are few. Gauss-Newton steps over all R_m, β and
q start from a rotation a part (Kabsch) and the mean shape. Displacements that depend
on the pose are part of the fit and left out of its derivative.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from metro_jax.body import body_model, rotations
from metro_jax.body.body_model import BodyModel

Array = Any  # np.ndarray or jax.Array
ROWS = 256  # at most: means of neighbouring vertices
STEPS = 12  # at most; meshes of the body itself take some five
JOINT_WEIGHT = 0.1  # of all joints together, over all vertices together
SHAPE_PRIOR = 3e-3  # of squared components, on the scale of the error's logarithm
DAMPING = 1e-7  # of a first step, in squared metres
EASING = 10.0  # damping between steps
TINY_M = 5e-4  # nobody asks for much less
LEAST_GAIN = 1e-2  # of the error, as a share, that makes another step worth its time


class BodyParameters(NamedTuple):
  """What smplx's body models take, for b meshes; axis-angles in radians, metres.

  smplx calls a hand's `body_pose` `hand_pose`. A hand's mean pose is not in it, as
  with `flat_hand_mean=False`.

  Attributes:
    global_orient: (b, 3) turn of the root about its own joint.
    body_pose: (b, 3 (k - 1)) turns of the other joints, in the order of the tree.
    betas: (b, s) shape components.
    transl: (b, 3) is added to the posed vertices.
    residual_mm: (b,) mean distance of the fitted vertices from the given ones.
  """

  global_orient: Float[Array, "b 3"]
  body_pose: Float[Array, "b p"]
  betas: Float[Array, "b s"]
  transl: Float[Array, "b 3"]
  residual_mm: Float[Array, " b"]


Fit = Callable[[Float[Array, "b v 3"]], BodyParameters]
SIZES = (1, 4, 16, 64)  # meshes at a time; each is compiled once


class _Rows(NamedTuple):
  """Weighted means of vertices, r of them, as functions of the parameters.

  Attributes:
    means: (r, v) from vertices; rows are multiplied by the roots of their weights.
    total: (r,) sums of the rows.
    rest: (1 + s, r, 3 k) the u of the mean shape and for each component.
    bend: (p, r, 3 k) what a pose adds to the u; None where it does not.
    parts: (k, v) shares of vertices in a part, whose rows sum to 1.
    joints: (1 + s, k, 3) rest joints of the mean shape and for each component.
  """

  means: Float[Array, "r v"]
  total: Float[Array, " r"]
  rest: Float[Array, "f r x"]
  bend: Float[Array, "p r x"] | None
  parts: Float[Array, "k v"]
  joints: Float[Array, "f k 3"]


class _State(NamedTuple):
  """Where the search is: world rotations, shape with a leading 1, the root joint."""

  turns: Float[Array, "b k 3 3"]
  shape: Float[Array, "b f"]
  root: Float[Array, "b 3"]


class _System(NamedTuple):
  """What a state leaves, and the linear equations of the next step from it."""

  state: _State
  objective: Float[Array, " b"]
  hessian: Float[Array, "b n n"]
  gradient: Float[Array, "b n"]


class _Search(NamedTuple):
  """How far the search is: steps, and of each mesh the best, damping, whether on."""

  step: Int[Array, ""]
  best: _System
  damping: Float[Array, " b"]
  busy: Bool[Array, " b"]


def make_fit(body: BodyModel) -> Fit:
  """Prepares fitting a body.

  Args:
    body: With NumPy arrays; bodies and hands alike.

  Returns:
    fit(vertices_m) -> parameters, for meshes (b, v, 3) in metres, in any upright or
    turned frame. `body_model.pose_body` of [global_orient, body_pose] and betas, plus
    transl, is the fitted mesh. Compiled once for each b.
  """
  rows = jax.device_put(_make_rows(body))
  fit = jax.jit(functools.partial(_fit, body.parents))
  return functools.partial(fit, jax.device_put(body), rows)


def make_padded_fit(body: BodyModel) -> Fit:
  """Prepares fitting a body to any number of meshes, with few compilations.

  Args:
    body: As for `make_fit`.

  Returns:
    The same of NumPy arrays, `SIZES` at a time.
  """
  fit = make_fit(body)

  def fit_all(vertices_m: Float[np.ndarray, "b v 3"]) -> BodyParameters:
    made: list[BodyParameters] = []
    for start in range(0, max(1, len(vertices_m)), SIZES[-1]):
      some = vertices_m[start : start + SIZES[-1]]
      size = next(size for size in SIZES if size >= len(some))
      padding = np.broadcast_to(body.template, (size - len(some), *body.template.shape))
      done = jax.device_get(fit(np.concatenate([some, padding]).astype(np.float32)))
      made.append(jax.tree.map(operator.itemgetter(slice(len(some))), done))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *made)

  return fit_all


def with_shape(body: BodyModel, betas: Float[np.ndarray, " s"]) -> BodyModel:
  """Makes a shape the only one of a body: fits then find betas of zero."""
  return body.replace(
    template=(body.template + body.shape_directions @ betas).astype(np.float32),
    shape_directions=np.zeros_like(body.shape_directions),
  )


def _make_rows(body: BodyModel) -> _Rows:
  weights = np.asarray(body.skin_weights, np.float64)
  means = _row_weights(body)
  below = _below(body.parents)
  shapes = np.moveaxis(np.asarray(body.shape_directions, np.float64), -1, 0)
  rest = np.concatenate([np.asarray(body.template, np.float64)[None], shapes])
  joints = np.asarray(body.joint_regressor, np.float64) @ rest
  own = means @ weights
  under = own @ below.T
  u = np.einsum("rv,vk,fvc->frkc", means, weights, rest, optimize=True)
  u -= own[:, :, None] * joints[:, None]
  for joint, parent in enumerate(body.parents[1:], start=1):
    bone = joints[:, joint] - joints[:, parent]
    u[:, :, parent] += under[:, joint, None] * bone[:, None]
  bend = None
  if body.pose_directions is not None:
    directions = np.asarray(body.pose_directions, np.float64)
    made = [(means * w) @ directions.reshape(len(directions), -1) for w in weights.T]
    bend = np.stack(made, 1).reshape(len(means), 3 * len(made), -1)
    bend = np.moveaxis(bend, -1, 0).astype(np.float32)
  parts = weights.T / weights.sum(0)[:, None]
  arrays = (means, means.sum(1), u.reshape(*u.shape[:2], -1), parts, joints)
  means, total, u, parts, joints = (a.astype(np.float32) for a in arrays)
  return _Rows(means, total, u, bend, parts, joints)


def _row_weights(body: BodyModel) -> Float[np.ndarray, "r v"]:
  """Means of neighbours and joints, each times the root of its share."""
  group = _neighbours(body)
  count = np.bincount(group)
  means = (group == np.arange(len(count))[:, None]) / count[:, None]
  means *= np.sqrt(count / len(group))[:, None]
  joints = np.asarray(body.mesh_regressor, np.float64)
  return np.concatenate([means, joints * np.sqrt(JOINT_WEIGHT / len(joints))])


def _neighbours(body: BodyModel) -> np.ndarray:
  """Groups vertices that are near and move with the same joints: a k-d tree."""
  size = np.ptp(body.template, axis=0).max()
  place = np.concatenate([body.template / size, 0.5 * body.skin_weights], axis=1)
  groups = [np.arange(len(place))]
  while len(groups) < ROWS and min(map(len, groups)) > 3:
    halves = []
    for group in groups:
      axis = np.argmax(np.ptp(place[group], axis=0))
      order = group[np.argsort(place[group, axis], kind="stable")]
      halves += [order[: len(order) // 2], order[len(order) // 2 :]]
    groups = halves
  label = np.zeros(len(place), np.int64)
  for n, group in enumerate(groups):
    label[group] = n
  return label


def _below(parents: tuple[int, ...]) -> Float[np.ndarray, "k k"]:
  """1 where the second joint is the first or moves with it."""
  below = np.eye(len(parents))
  for joint in reversed(range(1, len(parents))):
    below[parents[joint]] += below[joint]
  return below


def _fit(
  parents: tuple[int, ...],
  body: BodyModel,
  rows: _Rows,
  vertices: Float[Array, "b v 3"],
) -> BodyParameters:
  with jax.default_matmul_precision("highest"):
    seen = jnp.einsum("rv,bvc->brc", rows.means, vertices)
    start = _start(rows, body.template, vertices, seen)
    found = _search(rows, parents, seen, start)
    return _parameters(body, rows, parents, found, vertices)


def _start(rows: _Rows, template: Array, vertices: Array, seen: Array) -> _State:
  """A rotation for each part by itself, and the mean shape."""
  middle = jnp.einsum("kv,bvc->bkc", rows.parts, vertices)
  rest = jnp.einsum("kv,vc->vkc", rows.parts, template)
  covariance = jnp.einsum("bvi,vkj->bkij", vertices, rest)
  covariance -= middle[..., :, None] * rest.sum(0)[:, None, :]
  turns = rotations.nearest_rotation(covariance)
  shape = jnp.zeros((len(seen), len(rows.rest))).at[:, 0].set(1.0)
  rest = rows.rest[0].reshape(seen.shape[1], -1, 3)
  left = seen - jnp.einsum("bkij,rkj->bri", turns, rest)
  root = jnp.einsum("r,brc->bc", rows.total, left) / jnp.sum(rows.total**2)
  return _State(turns, shape, root)


def _search(
  rows: _Rows, parents: tuple[int, ...], seen: Array, start: _State
) -> _State:
  """Levenberg's steps: after one that does not help, a shorter one is tried."""

  def step(carry: _Search) -> _Search:
    found = _linearize(rows, parents, seen, _moved(carry.best, carry.damping))
    gain = carry.best.objective - found.objective
    best = jax.tree.map(functools.partial(_choose, gain > 0), found, carry.best)
    damping = carry.damping * jnp.where(gain > 0, 1 / EASING, EASING)
    busy = carry.busy & ~(jnp.abs(gain) <= LEAST_GAIN)  # also where it is not finite
    return _Search(carry.step + 1, best, damping, busy)

  def is_busy(carry: _Search) -> Array:
    return (carry.step < STEPS) & carry.busy.any()

  first = _linearize(rows, parents, seen, start)
  damping = jnp.full(len(seen), DAMPING)
  carry = _Search(jnp.zeros((), int), first, damping, damping > 0)
  return jax.lax.while_loop(is_busy, step, carry).best.state


def _choose(better: Array, new: Array, old: Array) -> Array:
  return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _linearize(
  rows: _Rows, parents: tuple[int, ...], seen: Array, state: _State
) -> _System:
  """The Gauss-Newton equations of log(what is left) + SHAPE_PRIOR |β|².

  A small turn ω of joint m moves a row by ω x a with a = R_m u. With [a] the matrix of
  that product, [a]ᵀ[b] = (a·b) I - b aᵀ; all sums over rows are sums of products of u,
  turned afterwards, with u and with the other columns: by shape, by the root's place,
  and what is left.
  """
  turns, shape, root = state
  b, k = turns.shape[:2]
  world = jnp.eye(k)[:, None, :, None] * turns[:, :, :, None]
  world = world.reshape(b, 3 * k, 3 * k)  # every R_m on its diagonal
  added = world.reshape(b, k, 3, 3 * k).sum(1)  # all u of a row to its place
  u = _rows_of(rows, parents, turns, shape)
  left = seen - u @ added.mT - rows.total[:, None] * root[:, None]
  by_shape = jnp.einsum("bix,frx->bifr", added, rows.rest[1:])
  by_root = jnp.eye(3)[:, :, None] * rows.total
  by_root = jnp.broadcast_to(by_root, (b, *by_root.shape))
  others = jnp.concatenate([by_shape, by_root, left.mT[:, :, None]], axis=2)
  products = jnp.einsum("bifr,bigr->bfg", others, others)
  moments = (world @ (u.mT @ u) @ world.mT).reshape(b, k, 3, k, 3)
  dots = jnp.einsum("bkili->bkl", moments)[:, :, None, :, None] * jnp.eye(3)[:, None]
  by_turns = (dots - moments.swapaxes(2, 4)).reshape(b, 3 * k, 3 * k)
  mixed = jnp.einsum("brx,bifr->bxif", u, others).reshape(b, 3 * k, -1)
  mixed = (world @ mixed).reshape(b, k, 3, 3, -1)
  crossed = [mixed[:, :, i - 2, i - 1] - mixed[:, :, i - 1, i - 2] for i in range(3)]
  mixed = jnp.stack(crossed, axis=2).reshape(b, 3 * k, -1)
  every = jnp.concatenate(
    [jnp.concatenate([by_turns, mixed], 2), jnp.concatenate([mixed.mT, products], 2)], 1
  )
  return _with_prior(state, every)


def _with_prior(state: _State, every: Float[Array, "b m m"]) -> _System:
  """The equations from all products of columns, of which what is left is the last."""
  error, betas = every[:, -1, -1] + TINY_M**2, state.shape[:, 1:]
  of_shape = slice(-4 - betas.shape[1], -4)
  weight = jnp.zeros(every.shape[-1]).at[of_shape].set(SHAPE_PRIOR)
  held = jnp.zeros(every.shape[:2]).at[:, of_shape].set(SHAPE_PRIOR * betas)
  every += error[:, None, None] * jnp.diag(weight)
  return _System(
    state,
    jnp.log(error) + SHAPE_PRIOR * jnp.square(betas).sum(1),
    every[:, :-1, :-1],
    every[:, :-1, -1] - error[:, None] * held[:, :-1],
  )


def _rows_of(
  rows: _Rows, parents: tuple[int, ...], turns: Array, shape: Array
) -> Float[Array, "b r x"]:
  """The u of a shape and pose, those of all joints in a line."""
  u = jnp.einsum("bf,frx->brx", shape, rows.rest)
  if rows.bend is None:
    return u
  bend = (_local(turns, parents)[:, 1:] - jnp.eye(3)).reshape(len(turns), -1)
  return u + jnp.einsum("bp,prx->brx", bend, rows.bend)


def _local(turns: Array, parents: tuple[int, ...]) -> Array:
  """Rotations relative to the parents'."""
  before = turns[:, np.array(parents[1:])]
  inner = jnp.einsum("bkji,bkjl->bkil", before, turns[:, 1:])
  return jnp.concatenate([turns[:, :1], inner], axis=1)


def _moved(system: _System, damping: Array) -> _State:
  """The state after the step that the equations ask for."""
  (turns, shape, root), _, hessian, gradient = system
  b, k = turns.shape[:2]
  hessian += damping[:, None, None] * jnp.eye(hessian.shape[-1])
  factor = jax.scipy.linalg.cho_factor(hessian, lower=True)
  change = jax.scipy.linalg.cho_solve(factor, gradient[..., None])[..., 0]
  turn = rotations.axis_angle_to_matrix(change[:, : 3 * k].reshape(b, k, 3))
  return _State(
    jnp.einsum("bkij,bkjl->bkil", turn, turns),
    shape.at[:, 1:].add(change[:, 3 * k : -3]),
    root + change[:, -3:],
  )


def _parameters(body, rows, parents, state, vertices) -> BodyParameters:
  pose = rotations.matrix_to_axis_angle(_local(state.turns, parents))
  pose = pose.reshape(len(pose), -1)
  if body.pose_mean is not None:
    pose = pose - body.pose_mean
  betas = state.shape[:, 1:]
  transl = state.root - jnp.einsum("bf,fc->bc", state.shape, rows.joints[:, 0])
  posed = body_model.pose_body(body, pose, betas).vertices + transl[:, None]
  residual_mm = 1000 * jnp.linalg.norm(posed - vertices, axis=-1).mean(-1)
  return BodyParameters(pose[:, :3], pose[:, 3:], betas, transl, residual_mm)
