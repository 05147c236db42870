"""The body model against a plain loop over vertices and joints, and by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.body import body_model
from metro_jax.body.body_model import BodyModel

PARENTS = (-1, 0, 1, 1)


def small_body(seed: int = 0) -> BodyModel:
  """A random body of 4 joints and 30 vertices, in float64."""
  rng = np.random.default_rng(seed)

  def shares(*shape):
    share = rng.uniform(size=shape)
    return share / share.sum(axis=-1, keepdims=True)

  return BodyModel(
    template=rng.standard_normal((30, 3)),
    shape_directions=rng.standard_normal((30, 3, 2)),
    pose_directions=0.1 * rng.standard_normal((30, 3, 27)),
    joint_regressor=shares(4, 30),
    skin_weights=shares(30, 4),
    regressors={"h36m": shares(17, 30), "j24": shares(24, 30)},
    faces=rng.integers(0, 30, (40, 3), dtype=np.int32),
    parents=PARENTS,
    name="small",
  )


def rodrigues(v: np.ndarray) -> np.ndarray:
  """R = I + sin a K + (1 - cos a) K², with the released code's shifted norm."""
  angle = np.sqrt(((v + 1e-8) ** 2).sum())
  # Its quaternion is normalised, so the axis' own length enters the angle.
  half = np.arctan2(np.sin(angle / 2) * np.linalg.norm(v / angle), np.cos(angle / 2))
  x, y, z = v / np.linalg.norm(v)
  K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return np.eye(3) + np.sin(2 * half) * K + (1 - np.cos(2 * half)) * K @ K


def pose_by_loops(body: BodyModel, pose: np.ndarray, shape: np.ndarray):
  """One body, one vertex and one joint at a time, with 4x4 matrices."""
  turns = [rodrigues(v) for v in pose.reshape(-1, 3)]
  shaped = body.template + sum(
    body.shape_directions[..., i] * shape[i] for i in range(len(shape))
  )
  places = body.joint_regressor @ shaped
  bend = np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
  bent = shaped + body.pose_directions @ bend
  world = []
  for j, parent in enumerate(body.parents):
    local = np.eye(4)
    local[:3, :3] = turns[j]
    local[:3, 3] = places[j] - (places[parent] if parent >= 0 else 0)
    world.append(world[parent] @ local if parent >= 0 else local)
  vertices = np.zeros_like(bent)
  for i, vertex in enumerate(bent):
    for j, transform in enumerate(world):
      moved = transform[:3, :3] @ (vertex - places[j]) + transform[:3, 3]
      vertices[i] += body.skin_weights[i, j] * moved
  return vertices, np.stack([transform[:3, 3] for transform in world])


@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_posing_equals_a_plain_loop_in_float64(kind):
  body, rng = small_body(), np.random.default_rng(1)
  pose, shape = rng.standard_normal((5, 12)), rng.standard_normal((5, 2))
  expected = [pose_by_loops(body, p, s) for p, s in zip(pose, shape, strict=True)]
  if kind == "jax":
    with jax.enable_x64(True):
      posed = jax.jit(body_model.pose_body)(
        jax.tree.map(jnp.asarray, body), jnp.asarray(pose), jnp.asarray(shape)
      )
      posed = jax.tree.map(np.asarray, posed)
  else:
    posed = body_model.pose_body(body, pose, shape)
  assert posed.vertices.dtype == np.float64
  np.testing.assert_allclose(posed.vertices, [v for v, _ in expected], atol=1e-9)
  np.testing.assert_allclose(posed.joints, [j for _, j in expected], atol=1e-9)


def test_turning_the_root_turns_the_whole_body_about_its_joint():
  body = small_body()
  pose = np.zeros((1, 12))
  shape = np.zeros((1, 2))
  rest = body_model.pose_body(body, pose, shape)
  pose[0, 2] = np.pi / 2  # a quarter turn about z: x to y, y to -x
  turned = body_model.pose_body(body, pose, shape)
  away = rest.vertices - rest.joints[:, :1]
  expected = away @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])
  np.testing.assert_allclose(
    turned.vertices - turned.joints[:, :1], expected, atol=1e-6
  )


def test_gradients_equal_finite_differences():
  body = small_body()
  rng = np.random.default_rng(2)
  pose, shape = rng.standard_normal((1, 12)), rng.standard_normal((1, 2))
  probe = rng.standard_normal((1, 30, 3))

  def value(pose, shape):
    return (body_model.pose_body(body, pose, shape).vertices * probe).sum()

  with jax.enable_x64(True):
    jax_body = jax.tree.map(jnp.asarray, body)
    gradient = jax.grad(
      lambda p: (
        body_model.pose_body(jax_body, p, jnp.asarray(shape)).vertices * probe
      ).sum()
    )(jnp.asarray(pose))
  step = 1e-6 * np.eye(12)
  differences = [(value(pose + h, shape) - value(pose - h, shape)) / 2e-6 for h in step]
  np.testing.assert_allclose(gradient[0], differences, atol=1e-6)


def test_a_pose_of_another_length_is_refused_by_name():
  with pytest.raises(ValueError, match=r"small: expected 12 .* got 9"):
    body_model.pose_body(small_body(), np.zeros((1, 9)), np.zeros((1, 2)))


def test_a_body_without_pose_directions_has_no_pose_correction():
  body = small_body()
  plain = dataclasses.replace(body, pose_directions=None)
  zeroed = dataclasses.replace(body, pose_directions=0 * body.pose_directions)
  pose, shape = np.full((1, 12), 0.3), np.ones((1, 2))
  np.testing.assert_allclose(
    body_model.pose_body(plain, pose, shape).vertices,
    body_model.pose_body(zeroed, pose, shape).vertices,
    atol=1e-12,
  )
