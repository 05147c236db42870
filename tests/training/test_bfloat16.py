"""Training in bfloat16: what stays float32, how far outputs move, where a run ends."""

import functools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metro_jax.cluster import parallel
from metro_jax.data.batch import Batch
from metro_jax.models import forward, setup
from metro_jax.training import optimizer, step
from metro_jax.training import state as states

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "synthetic.py"
EXAMPLES = 8
STEPS = 40
# A rounding to bfloat16 is off by 2^-9 at most; a few dozen follow one another here,
# and independent ones add up by the root of their number.
OUTPUT_TOLERANCE = 12 * 2.0**-9


def make_config(dtype, seed=0):
  config = runpy.run_path(str(CONFIG))["get_config"]("tiny")
  config.seed = seed
  config.model.compute_dtype = dtype
  config.model.camera_init = "torch"  # the other one says the same of every picture
  config.optimizer.learning_rate = 3e-3
  config.train.num_steps = STEPS
  return config


@functools.cache
def make_batch():
  """Pictures of noise, each with a pose of its own: to be learned by heart."""
  rng = np.random.default_rng(0)
  shape = (EXAMPLES, 32, 32, 3)
  pose = rng.normal(0, 0.2, (EXAMPLES, 72)).astype(np.float32)
  pose[:, 0] += np.pi
  ones = np.ones(EXAMPLES, bool)
  joints = rng.normal(0, 0.4, (EXAMPLES, 24, 4)).astype(np.float32)
  joints[..., 3] = 1
  return Batch(
    image=rng.integers(0, 256, shape, dtype=np.uint8),
    color_gain=np.ones((EXAMPLES, 3), np.float32),
    joints_2d=joints[..., [0, 1, 3]],
    joints_3d_m=joints,
    pose=pose,
    shape=rng.normal(size=(EXAMPLES, 10)).astype(np.float32),
    gender=np.zeros(EXAMPLES, np.int32),
    has_joints_2d=ones,
    has_joints_3d=ones,
    has_mesh=ones,
    valid=ones,
    index=np.arange(EXAMPLES),
    dataset=np.zeros(EXAMPLES, np.int32),
  )


def variables_and_network(dtype):
  config = make_config(dtype)
  network = setup.build(config)
  adam = optimizer.make_optimizer(config)
  fresh = states.create(network.model, adam, network.template, 32, 0)
  return fresh, network


def predict(dtype):
  fresh, network = variables_and_network(dtype)
  batch = make_batch()
  pictures = forward.normalize_images(batch.image, batch.color_gain)
  run = jax.jit(
    lambda v, x: network.model.apply(v, x, network.template, None, train=False)
  )
  return run(fresh.variables, pictures)


def test_outputs_are_float32_and_within_the_rounding_of_bfloat16():
  exact, rounded = predict("float32"), predict("bfloat16")
  for a, b in zip(*map(jax.tree.leaves, (exact, rounded)), strict=True):
    assert b.dtype == jnp.float32
    difference = np.abs(np.asarray(a - b)).max()
    assert 0 < difference < OUTPUT_TOLERANCE * np.abs(np.asarray(a)).max()


def test_parameters_gradients_softmax_and_losses_stay_float32():
  fresh, network = variables_and_network("bfloat16")
  config = make_config("bfloat16")
  geometry = network.geometry
  adam = optimizer.make_optimizer(config)
  train_step = step.make_train_step(network.model, adam, config)
  shapes = jax.eval_shape(
    lambda s, b: jax.vmap(
      lambda _: train_step(s, b, geometry), axis_name="data"
    )(jnp.zeros(1)),
    fresh,
    make_batch(),
  )  # fmt: skip
  floats = [
    x.dtype for x in jax.tree.leaves(shapes) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  assert set(floats) == {np.dtype(np.float32)}
  jaxpr = jax.make_jaxpr(
    lambda v, x: network.model.apply(v, x, network.template, None, train=False)
  )(fresh.variables, jnp.zeros((1, 32, 32, 3)))
  text = str(jaxpr)
  products = [line for line in text.splitlines() if " dot_general[" in line]
  assert any(":bf16[" in line for line in products)
  exponentials = [line for line in text.splitlines() if " = exp " in line]
  assert exponentials and all(":f32[" in line for line in exponentials)


def last_loss(dtype, seed):
  config = make_config(dtype, seed)
  network = setup.build(config)
  geometry = network.geometry
  adam = optimizer.make_optimizer(config)
  fresh = states.create(network.model, adam, network.template, 32, seed)
  mapped = parallel.map_step(
    step.make_train_step(network.model, adam, config), geometry, donate=True
  )
  state, batch, losses = parallel.replicate(fresh), parallel.shard(make_batch()), []
  for _ in range(STEPS):
    state, metrics = mapped(state, batch)
    losses.append(float(parallel.unreplicate(metrics)["loss"]))
  return losses[0], float(np.mean(losses[-5:]))


@pytest.mark.slow
def test_a_short_run_ends_within_float32s_own_noise():
  exact = [last_loss("float32", seed) for seed in range(4)]
  rounded = [last_loss("bfloat16", seed) for seed in range(4)]
  ends, rounded_ends = (np.array([end for _, end in runs]) for runs in (exact, rounded))
  assert (ends < 0.85 * np.array([begin for begin, _ in exact])).all()  # it learns
  print("float32", ends, "bfloat16", rounded_ends)
  noise = ends.std(ddof=1)
  # Means of four runs differ by less than three of their standard errors.
  assert abs(rounded_ends.mean() - ends.mean()) < 3 * noise * np.sqrt(2 / 4)
