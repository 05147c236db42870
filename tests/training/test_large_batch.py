"""What large batches need: parts, averages, layers computed twice, sums by dataset."""

import functools
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metro_jax import config as base
from metro_jax.body import joints, mesh_levels
from metro_jax.cluster import parallel
from metro_jax.models import forward, metro
from metro_jax.models.encoder import Encoder, EncoderSettings
from metro_jax.models.metro import Prediction
from metro_jax.models.setup import Geometry
from metro_jax.models.targets import make_targets
from metro_jax.training import losses, step
from metro_jax.training import state as states

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
on_devices = runpy.run_path(str(FIXTURES / "on_devices.py"))
GEOMETRY = on_devices["make_geometry"]()
COUNTS = on_devices["COUNTS"]
PX = on_devices["PX"]


class Plain(nn.Module):
  """METRO's signature without BatchNorm or dropout."""

  @nn.compact
  def __call__(self, images, template, token_mask, train):
    x = nn.tanh(nn.Dense(8)(images.reshape(len(images), -1)))
    points = nn.Dense(3 * 14)(x).reshape(len(x), 14, 3)
    vertices = [
      nn.Dense(3 * count)(x).reshape(len(x), count, 3) for count in COUNTS[::-1]
    ]
    return Prediction(nn.Dense(3)(x) + 1, points, tuple(vertices))


def make_config(**optimizer):
  config = on_devices["make_config"]()
  for key, value in optimizer.items():
    config.optimizer[key] = value
  return config


def make_batch(seed=1):
  """Floats as the network has them; labels are spread unevenly."""
  batch = on_devices["make_batch"](seed, valid=13)
  return jax.tree.map(
    lambda x: x.astype(np.float32) if x.dtype == np.float64 else x, batch
  )


def run(config, optimizer, steps=1, batch=None):
  """The states after each step, and the last step's metrics."""
  model = Plain()
  fresh = states.create(
    model, optimizer, GEOMETRY.template, PX, 0, bool(config.optimizer.ema_decay)
  )
  mapped = parallel.map_step(
    step.make_train_step(model, optimizer, config), GEOMETRY, donate=False
  )
  stacked, seen, metrics = parallel.replicate(fresh), [fresh], None
  for number in range(steps):
    examples = batch or make_batch(number + 1)
    stacked, metrics = mapped(stacked, parallel.shard(examples))
    seen.append(parallel.unreplicate(stacked))
  return seen, parallel.unreplicate(metrics)


def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole():
  # Parts have 0 to 4 meshes: a mean of the parts' own means would differ.
  found = {
    parts: run(make_config(accumulate=parts), optax.sgd(1.0)) for parts in (1, 4, 16)
  }
  (_, whole), metrics = found[1]
  for parts in (4, 16):
    (_, after), got = found[parts]
    for name, want in metrics.items():
      np.testing.assert_allclose(got[name], want, rtol=2e-5, err_msg=name)
    for ours, theirs in zip(
      jax.tree.leaves(after.params), jax.tree.leaves(whole.params), strict=True
    ):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert after.step == 1


def test_parts_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match=r"optimizer.accumulate: expected a divisor"):
    run(make_config(accumulate=3), optax.sgd(1.0))
  config = base.get_config()
  config.optimizer.accumulate = 7
  with pytest.raises(ValueError, match=r"train.batch_size: expected a multiple of"):
    base.validate(config)


def test_averages_follow_their_formula_and_are_what_is_evaluated():
  config = make_config(ema_decay=0.3, learning_rate=0.1)
  seen, _ = run(config, optax.sgd(0.1), steps=3)
  average = seen[0].params
  for t, state in enumerate(seen[1:], 1):
    decay = min(0.3, (1 + t) / (10 + t))
    average = jax.tree.map(
      lambda e, p, d=decay: d * e + (1 - d) * p, average, state.params
    )
  assert decay == pytest.approx(0.3)
  for ours, theirs in zip(
    jax.tree.leaves(seen[-1].ema), jax.tree.leaves(average), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  assert seen[-1].variables["params"] is seen[-1].ema


def test_without_a_decay_nothing_is_kept():
  seen, _ = run(make_config(), optax.sgd(0.1))
  assert seen[-1].ema == {}
  assert seen[-1].variables["params"] is seen[-1].params


def test_given_weights_are_where_averages_start():
  fresh = states.create(Plain(), optax.sgd(1.0), GEOMETRY.template, PX, 0, True)
  given = jax.tree.map(lambda x: x + 1, fresh.variables)
  begun = states.with_weights(fresh, given)
  for ours, theirs in zip(
    jax.tree.leaves(begun.ema), jax.tree.leaves(given["params"]), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_sums_by_dataset_are_those_of_its_own_examples(recipe):
  config = make_config()
  config.data.train = ("a/train", "b/train", "c/train")
  config.loss.recipe = recipe
  batch = make_batch()
  belongs = np.arange(16) % 2  # to c nothing does
  batch = batch.replace(dataset=belongs.astype(np.int32))
  seen, metrics = run(config, optax.sgd(0.0), batch=batch)
  got = metrics["datasets"]
  np.testing.assert_array_equal(got["examples"], [7, 6, 0])  # 13 are valid
  np.testing.assert_array_equal(got["labelled"], [6, 5, 0])  # rows below 11
  variables = {"params": seen[0].params}
  pictures = forward.normalize_images(batch.image, batch.color_gain)
  prediction = Plain().apply(variables, pictures, GEOMETRY.template, None, True)
  targets = make_targets(batch, GEOMETRY)
  for place in (0, 1):
    rows = np.flatnonzero((belongs == place) & batch.valid)
    total = 0.0
    for row in rows:
      one = jax.tree.map(lambda x, i=row: x[i : i + 1], (prediction, targets))
      total += losses.compute(*one, GEOMETRY.body.mesh_regressor, config.loss).total
    np.testing.assert_allclose(got["loss"][place], total, rtol=1e-4)
    meshes = np.asarray(prediction.vertices[-1])
    joints_3d = np.einsum("jv,bvc->bjc", GEOMETRY.body.mesh_regressor, meshes)
    true = np.asarray(targets.joints_3d[..., :3])
    gap = [x - x[:, 2:4].mean(1, keepdims=True) for x in (joints_3d, true)]
    errors = 1000 * np.linalg.norm(gap[0] - gap[1], axis=-1).mean(-1)
    labelled = [row for row in rows if batch.has_joints_3d[row]]
    np.testing.assert_allclose(
      got["mpjpe_mm"][place], errors[labelled].sum(), rtol=1e-4
    )


def test_a_datasets_error_is_of_labelled_joints_of_examples_that_label_the_root():
  config, batch = make_config(), make_batch()
  config.data.train = ("a/train", "b/train")
  labels = batch.joints_3d_m.copy()
  r_hip, l_hip, head = joints.index(joints.J24, ("R_Hip", "L_Hip", "Head"))
  for row, hidden in ((0, [r_hip]), (1, [r_hip, l_hip]), (2, [head])):
    labels[row, hidden] = [np.nan, np.nan, np.nan, 0]
  made = jax.jit(lambda batch: make_targets(batch, GEOMETRY))
  targets = made(batch.replace(joints_3d_m=labels))
  rng = np.random.default_rng(0)
  vertices = tuple(rng.normal(size=v.shape) for v in targets.vertices)
  zeros = np.zeros((16, 3), np.float32), np.zeros((16, 14, 3), np.float32)
  prediction = jax.tree.map(np.float32, Prediction(*zeros, vertices))
  one = batch.replace(dataset=np.where(np.arange(16) < 3, 0, 1).astype(np.int32))
  regressor = GEOMETRY.body.mesh_regressor
  joints_m = np.float32(regressor @ vertices[-1])

  @jax.jit
  def sums(prediction, targets, batch):
    recipe = losses.make_recipe(config.loss, "hips")
    terms = losses.per_example(prediction, targets, regressor, recipe)
    loss = losses.total(terms, recipe)
    return step.by_dataset(loss, joints_m, targets, batch, "hips", config)

  got = sums(prediction, targets, one)
  np.testing.assert_array_equal(got["labelled"], [1, 8])
  found = regressor @ vertices[-1][2]
  true = np.asarray(targets.joints_3d[2, :, :3])
  gaps = (found - found[2:4].mean(0)) - (true - true[2:4].mean(0))
  want = 1000 * np.linalg.norm(gaps[:13], axis=-1).mean()
  np.testing.assert_allclose(got["mpjpe_mm"][0], want, rtol=1e-4)
  assert np.isfinite(got["loss"]).all()


@pytest.mark.parametrize("true_joints", ["labels", "mesh"])
def test_the_config_says_whether_3d_joints_are_labels_or_the_meshes(true_joints):
  config = make_config()
  config.loss.true_joints = true_joints
  variables = Plain().init(
    jax.random.key(0), np.zeros((1, PX, PX, 3)), None, None, True
  )

  @functools.partial(jax.vmap, axis_name=step.AXIS)
  def joint_loss(batch):
    key, counts = jax.random.key(0), losses.Terms(*[jnp.ones(())] * 4)
    recipe = losses.make_recipe(config.loss, "hips")
    args = (variables, batch, GEOMETRY, key, counts, recipe, config)
    return step._loss(Plain(), *args)[1][0].joints

  batch = make_batch()
  row = int(np.flatnonzero(batch.has_mesh & batch.has_joints_3d)[0])
  labels = np.stack([batch.joints_3d_m] * 2)
  labels[1, row, 0, 0] += 1
  both = jax.tree.map(lambda x: np.stack([x] * 2), batch).replace(joints_3d_m=labels)
  first, moved = jax.jit(joint_loss)(both)
  assert (abs(first - moved) > 1e-3) == (true_joints == "labels")


def test_training_reads_no_gendered_body():
  # Gendered truth is evaluation's; a setting of it must not move what is learnt.
  geometry = GEOMETRY._replace(gendered=(GEOMETRY.body,) * 2)
  adam, config = optax.sgd(1.0), make_config()
  state = states.create(Plain(), adam, GEOMETRY.template, PX, 0, False)
  train_step = step.make_train_step(Plain(), adam, config)
  traced = jax.make_jaxpr(train_step, axis_env=[(step.AXIS, 1)])
  jaxpr = traced(state, make_batch(), geometry).jaxpr
  read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
  gendered = len(jax.tree.leaves(geometry.gendered))
  inputs = [id(variable) in read for variable in jaxpr.invars]
  assert not any(inputs[-gendered:]) and sum(inputs) > 10
  assert Geometry._fields[-1] == "gendered"  # the last of the inputs


def test_a_single_dataset_has_no_sums_of_its_own():
  _, metrics = run(make_config(), optax.sgd(0.0))
  assert "datasets" not in metrics


def test_layers_computed_twice_give_the_same_numbers():
  widths = {"hidden_widths": (16, 8), "output_widths": (8, 3)}
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 12)), jnp.float32)
  rngs = {"dropout": jax.random.key(1)}
  gradients = []
  for remat in (False, True):
    inner = {"feedforward_widths": (16, 16), "num_layers": 2, "init_std": 0.3}
    encoder = Encoder(EncoderSettings(**widths, **inner, remat=remat))
    variables = encoder.init(jax.random.key(0), x)

    def loss(variables, encoder=encoder):
      return jnp.square(encoder.apply(variables, x, True, rngs=rngs)).sum()

    gradients.append(jax.grad(loss)(variables))
    text = str(jax.make_jaxpr(jax.grad(loss))(variables))
    assert ("remat" in text) is remat
  assert jax.tree.structure(gradients[0]) == jax.tree.structure(gradients[1])
  for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_config_reaches_the_network():
  config = base.get_config()
  config.body.levels = (4, 2)
  config.model.remat = True
  config.model.batch_norm_group = 2
  faces = np.array([[0, 1, 2]], np.int32)
  levels = mesh_levels.MeshLevels(
    (4, 2),
    (np.array([0, 1], np.int32),),
    (np.zeros((4, 3), np.int32),),
    (np.full((4, 3), 1 / 3),),
    (faces, faces),
  )
  model = metro.build(config, levels)
  assert model.encoder.settings.remat
  assert model.backbone.axis == ("data", 2)
