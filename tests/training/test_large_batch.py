"""What large batches need: parts, averages, layers computed twice, sums by dataset."""

import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metro_jax import config as base
from metro_jax.body import mesh_levels
from metro_jax.models import metro
from metro_jax.models.encoder import Encoder
from metro_jax.models.metro import Prediction
from metro_jax.training import losses, parallel, step
from metro_jax.training import state as states

on_devices = runpy.run_path(str(pathlib.Path(__file__).parent / "on_devices.py"))
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
  pictures = step.normalize_images(batch.image, batch.color_gain)
  prediction = Plain().apply(variables, pictures, GEOMETRY.template, None, True)
  targets = step.make_targets(batch, GEOMETRY)
  for place in (0, 1):
    rows = np.flatnonzero((belongs == place) & batch.valid)
    total = 0.0
    for row in rows:
      one = jax.tree.map(lambda x, i=row: x[i : i + 1], (prediction, targets))
      total += losses.compute(*one, GEOMETRY.joint_regressor, config.loss).total
    np.testing.assert_allclose(got["loss"][place], total, rtol=1e-4)
    meshes = np.asarray(prediction.vertices[-1])
    joints_3d = np.einsum("jv,bvc->bjc", GEOMETRY.joint_regressor, meshes)
    true = np.asarray(targets.joints_3d[..., :3])
    gap = [x - x[:, 2:4].mean(1, keepdims=True) for x in (joints_3d, true)]
    errors = 1000 * np.linalg.norm(gap[0] - gap[1], axis=-1).mean(-1)
    labelled = [row for row in rows if batch.has_joints_3d[row]]
    np.testing.assert_allclose(
      got["mpjpe_mm"][place], errors[labelled].sum(), rtol=1e-4
    )


def test_a_single_dataset_has_no_sums_of_its_own():
  _, metrics = run(make_config(), optax.sgd(0.0))
  assert "datasets" not in metrics


def test_layers_computed_twice_give_the_same_numbers():
  widths = {"hidden_widths": (16, 8), "output_widths": (8, 3)}
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 12)), jnp.float32)
  rngs = {"dropout": jax.random.key(1)}
  gradients = []
  for remat in (False, True):
    encoder = Encoder(
      **widths, feedforward_widths=(16, 16), num_layers=2, remat=remat, init_std=0.3
    )
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
  assert model.encoder.remat
  assert model.backbone.axis == ("data", 2)
