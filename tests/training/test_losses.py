"""The two losses against the released code's numbers and plain NumPy."""

import functools
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.models.metro import Prediction
from metro_jax.models.targets import Targets
from metro_jax.training import losses

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "helpers.npz"
COUNTS = (5, 9, 20)  # vertices a level, coarse to fine


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
  with np.load(GOLDENS) as file:
    return {k: file[k] for k in file.files if k.startswith("loss/")}


@functools.cache
def recipe_named(recipe: str, levels: int = len(COUNTS)):
  """The compiled loss of a config that only names its recipe."""
  config = base.get_config().loss
  config.recipe, config.vertex_levels = recipe, (1.0,) * levels
  return jax.jit(lambda *case: losses.compute(*case, config))


def released(prediction: Prediction, *labels):
  """The original code's loss of a body."""
  return recipe_named("released", len(prediction.vertices))(prediction, *labels)


def named_normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The rule by which the goldens name their unstored inputs."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def golden_inputs(goldens: dict[str, np.ndarray], pattern: int):
  """The released helpers' inputs as one prediction; the regressor gives zeros."""
  f64 = {k: v.astype(np.float64) for k, v in goldens.items() if "/in_" in k}
  flags = goldens["loss/in_flags"][pattern] == 1
  target = Targets(
    vertices=(named_normal("L.gv", (4, 431, 3)),),
    joints_3d=f64["loss/in_G3"],
    joints_2d=f64["loss/in_G2"],
    has_mesh=flags,
    has_joints_3d=flags,
    has_joints_2d=np.zeros(4, bool),  # the released 2D term ignores its flag
  )
  prediction = Prediction(
    camera=np.tile([1.0, 0.0, 0.0], (4, 1)),
    query_joints=f64["loss/in_P3"],
    vertices=(named_normal("L.pv", (4, 431, 3)),),
  )
  return prediction, jax.tree.map(jnp.asarray, target), np.zeros((14, 431))


def only_projection(goldens: dict[str, np.ndarray], joints_2d: jax.Array):
  """A prediction whose joints project to `joints_2d`."""
  prediction, targets, regressor = golden_inputs(goldens, 0)
  joints = jnp.concatenate([joints_2d, jnp.zeros((4, 14, 1))], axis=-1)
  return prediction.replace(query_joints=joints), targets, regressor


@pytest.mark.parametrize("pattern", range(5))
def test_released_terms_equal_the_released_code_under_every_flag_pattern(
  goldens, pattern
):
  got = released(*golden_inputs(goldens, pattern))
  for value, name in ((got.joints, "3d"), (got.vertices / 0.33, "v")):
    want = goldens[f"loss/f64/{pattern}.{name}"][0]
    np.testing.assert_allclose(value, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pattern", (0, 2, 3, 4))
def test_released_3d_gradient_equals_the_released_code(goldens, pattern):
  prediction, targets, regressor = golden_inputs(goldens, pattern)

  def joint_loss(joints):
    return released(prediction.replace(query_joints=joints), targets, regressor).joints

  got = jax.jit(jax.grad(joint_loss))(prediction.query_joints)
  np.testing.assert_allclose(got, goldens[f"loss/f64/{pattern}.grad3d"], atol=1e-9)


def test_released_2d_term_and_gradient_equal_the_released_code(goldens):
  given = jnp.asarray(goldens["loss/in_P2"].astype(np.float64))
  g2 = goldens["loss/in_G2"].astype(np.float64)
  from_zeros = (g2[..., 2:] * g2[..., :2] ** 2).mean()  # the regressed joints' part

  def term(joints_2d):
    return released(*only_projection(goldens, joints_2d)).projection

  want = goldens["loss/f64/0.2d"][0]
  np.testing.assert_allclose(term(given) - from_zeros, want, rtol=0, atol=1e-9)
  got = jax.jit(jax.grad(term))(given)
  np.testing.assert_allclose(got, goldens["loss/f64/0.grad2d"], atol=1e-9)


def random_case(seed: int, batch: int = 4):
  """A prediction with three levels, its targets, a regressor, and NumPy access."""
  rng = np.random.default_rng(seed)
  normal = rng.standard_normal
  prediction = Prediction(
    camera=normal((batch, 3)),
    query_joints=normal((batch, 14, 3)),
    vertices=tuple(normal((batch, n, 3)) for n in COUNTS),
  )
  targets = Targets(
    vertices=tuple(normal((batch, n, 3)) for n in COUNTS),
    joints_3d=np.concatenate(
      [normal((batch, 14, 3)), rng.uniform(size=(batch, 14, 1))], axis=-1
    ),
    joints_2d=np.concatenate(
      [normal((batch, 14, 2)), rng.uniform(size=(batch, 14, 1))], axis=-1
    ),
    has_mesh=np.array([True, False, True, True][:batch]),
    has_joints_3d=np.array([False, True, True, False][:batch]),
    has_joints_2d=np.array([True, True, False, True][:batch]),
  )
  regressor = rng.uniform(size=(14, COUNTS[-1]))
  regressor /= regressor.sum(1, keepdims=True)
  to_jax = jax.tree.map(jnp.asarray, (prediction, targets))
  return *to_jax, regressor


def numpy_terms(p, t, regressor):
  """The paper's terms example by example, straight from its equations."""
  p, t = jax.tree.map(np.asarray, (p, t))

  def hips(x):
    return x - (x[2] + x[3]) / 2

  def mean(values, flags):
    return sum(v for v, f in zip(values, flags, strict=True) if f) / flags.sum()

  def joints(predicted):
    out = []
    for x, y in zip(predicted, t.joints_3d, strict=True):
      norm = np.abs(hips(x) - hips(y[:, :3])).sum(1)
      out.append((y[:, 3] * norm).sum() / 14)
    return mean(out, t.has_joints_3d)

  def projection(predicted):
    out = []
    for x, (s, tx, ty), y in zip(predicted, p.camera, t.joints_2d, strict=True):
      xy = s * (x[:, :2] + np.array([tx, ty]))
      out.append((y[:, 2] * np.abs(xy - y[:, :2]).sum(1)).sum() / 14)
    return mean(out, t.has_joints_2d)

  levels = [
    mean([np.abs(a - b).sum(1).mean() for a, b in zip(x, y, strict=True)], t.has_mesh)
    for x, y in zip(p.vertices, t.vertices, strict=True)
  ]
  regressed = np.stack([regressor @ v for v in p.vertices[-1]])
  both = projection(p.query_joints) + projection(regressed)
  return levels, joints(p.query_joints), joints(regressed), both


def test_paper_loss_equals_its_equations_in_numpy():
  weights = base.get_config().loss
  weights.update(vertices=2.0, joints=3.0, regressed_joints=5.0, projection=7.0)
  weights.vertex_levels = (1.0, 0.5, 2.0)
  case = random_case(1)
  got = jax.jit(lambda *case: losses.compute(*case, weights))(*case)
  levels, direct, regressed, projection = numpy_terms(*case)
  vertices = (levels[0] + 0.5 * levels[1] + 2 * levels[2]) / 3.5
  np.testing.assert_allclose(got.vertices, vertices, rtol=1e-12)
  np.testing.assert_allclose(got.joints, direct, rtol=1e-12)
  np.testing.assert_allclose(got.regressed_joints, regressed, rtol=1e-12)
  np.testing.assert_allclose(got.projection, projection, rtol=1e-12)
  want = 2 * vertices + 3 * direct + 5 * regressed + 7 * projection
  np.testing.assert_allclose(got.total, want, rtol=1e-12)


def test_released_total_has_the_released_weights():
  got = released(*random_case(2))
  want = 1000 * (got.joints + got.regressed_joints)
  want += 100 * got.vertices + 100 * got.projection
  np.testing.assert_allclose(got.total, want, rtol=1e-12)


def test_released_vertices_count_each_level_by_a_third_and_a_bit_less():
  prediction, targets, regressor = random_case(3)
  off = jax.tree.map(lambda v: v + 1.0, targets.vertices)
  got = released(prediction.replace(vertices=off), targets, regressor)
  np.testing.assert_allclose(got.vertices, 0.99, rtol=1e-12)


@pytest.mark.parametrize("recipe", ("paper", "released"))
def test_unlabelled_examples_change_nothing_even_where_their_labels_are_nan(recipe):
  prediction, targets, regressor = random_case(4)
  poisoned = targets.replace(
    vertices=tuple(v.at[1].set(jnp.nan) for v in targets.vertices),
    joints_3d=targets.joints_3d.at[0].set(jnp.nan),
  )
  want = recipe_named(recipe)(prediction, targets, regressor)
  got = recipe_named(recipe)(prediction, poisoned, regressor)
  np.testing.assert_array_equal(got.total, want.total)


@pytest.mark.parametrize("recipe", ("paper", "released"))
def test_a_batch_without_labels_has_loss_and_gradient_zero(recipe):
  prediction, targets, regressor = random_case(5)
  none = jnp.zeros(4, bool)
  targets = targets.replace(
    has_mesh=none,
    has_joints_3d=none,
    has_joints_2d=none,
    joints_2d=targets.joints_2d.at[..., 2].set(0),
  )

  def total(prediction):
    return recipe_named(recipe)(prediction, targets, regressor).total

  value, gradient = jax.value_and_grad(total)(prediction)
  assert value == 0
  for leaf in jax.tree.leaves(gradient):
    np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("recipe", ("paper", "released"))
def test_mean_of_the_devices_shares_is_the_loss_of_the_whole_batch(recipe):
  config = base.get_config().loss
  config.recipe = recipe
  prediction, targets, regressor = random_case(6)
  whole = recipe_named(recipe)(prediction, targets, regressor)
  # Unequal numbers of labels a device: two with a mesh on one, one on the other.
  halves = [
    jax.tree.map(lambda x, h=h: x[h : h + 2], (prediction, targets)) for h in (0, 2)
  ]

  def share(half):
    return losses.compute(*half, regressor, config, axis_name="data").total

  stacked = jax.tree.map(lambda *pair: jnp.stack(pair), *halves)
  shares = jax.jit(jax.vmap(share, axis_name="data"))(stacked)
  assert abs(shares[0] - shares[1]) > 0.01
  np.testing.assert_allclose(shares.mean(), whole.total, rtol=1e-12)


def hand_case(seed: int):
  """A hand's prediction of two levels and 21 joints, and its targets."""
  rng = np.random.default_rng(seed)
  normal, counts = rng.standard_normal, COUNTS[1:]
  targets = Targets(
    vertices=tuple(normal((3, n, 3)) for n in counts),
    joints_3d=np.concatenate([normal((3, 21, 3)), np.ones((3, 21, 1))], axis=-1),
    joints_2d=np.concatenate(
      [normal((3, 21, 2)), rng.uniform(size=(3, 21, 1))], axis=-1
    ),
    has_mesh=np.array([True, False, True]),
    has_joints_3d=np.array([True, False, True]),
    has_joints_2d=np.array([True, True, False]),
  )
  prediction = Prediction(
    camera=normal((3, 3)),
    query_joints=normal((3, 21, 3)),
    vertices=tuple(normal((3, n, 3)) for n in counts),
  )
  return prediction, targets, normal((21, COUNTS[-1]))


def test_the_hands_released_loss_has_weights_of_one_halves_a_level_and_a_wrist():
  config = base.get_config().loss
  config.recipe, config.root = "released", "wrist"
  config.vertex_levels = (1.0, 1.0)
  prediction, targets, regressor = hand_case(7)
  got = jax.jit(lambda *case: losses.compute(*case, config))(
    *jax.tree.map(jnp.asarray, (prediction, targets)), regressor
  )

  known = targets.has_mesh
  levels = zip(prediction.vertices, targets.vertices, strict=True)
  vertices = sum(0.5 * np.abs(p - t)[known].mean() for p, t in levels)
  regressed = regressor @ prediction.vertices[-1]
  true = targets.joints_3d[..., :3] - targets.joints_3d[:, :1, :3]
  joints, projection = [], 0.0
  for points in (prediction.query_joints, regressed):
    joints.append(np.square(points - points[:, :1] - true)[known].mean())
    s, shift = prediction.camera[:, :1, None], prediction.camera[:, None, 1:]
    off = s * (points[..., :2] + shift) - targets.joints_2d[..., :2]
    projection += (targets.joints_2d[..., 2:] * off**2).mean()
  np.testing.assert_allclose(got.vertices, vertices, rtol=1e-12)
  np.testing.assert_allclose((got.joints, got.regressed_joints), joints, rtol=1e-12)
  np.testing.assert_allclose(got.projection, projection, rtol=1e-12)
  np.testing.assert_allclose(got.total, vertices + sum(joints) + projection, rtol=1e-12)


def test_the_papers_loss_compares_a_hands_joints_from_its_wrist():
  config = base.get_config().loss
  config.root, config.vertex_levels = "wrist", (1.0, 1.0)
  prediction, targets, regressor = hand_case(8)
  moved = targets.replace(joints_3d=targets.joints_3d + np.array([5.0, -3, 2, 0]))
  got, again = (
    jax.jit(lambda *case: losses.compute(*case, config))(
      *jax.tree.map(jnp.asarray, (prediction, labels)), regressor
    )
    for labels in (targets, moved)
  )
  np.testing.assert_allclose(again.joints, got.joints, rtol=1e-9)
  points = prediction.query_joints - prediction.query_joints[:, :1]
  true = targets.joints_3d[..., :3] - targets.joints_3d[:, :1, :3]
  want = np.abs(points - true).sum(-1).mean(-1)[targets.has_joints_3d].mean()
  np.testing.assert_allclose(got.joints, want, rtol=1e-12)


def test_other_roots_are_refused():
  config = base.get_config()
  config.loss.root = "knee"
  with pytest.raises(ValueError, match=r"loss\.root: expected one of hips, wrist"):
    base.validate(config)
