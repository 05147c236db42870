"""Runs steps of a tiny network on as many devices as there are; not a test itself.

python on_devices.py ROOT OUTPUT.npz, with XLA_FLAGS choosing the devices. Everything
is float64, so that one device and eight can be compared closely.
"""

import functools
import pathlib
import sys

if __name__ == "__main__":
  sys.path.insert(0, sys.argv[1])

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metro_jax import config as base
from metro_jax.body import joints
from metro_jax.body.body_model import BodyModel
from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import make_template
from metro_jax.data.batch import Batch
from metro_jax.evaluation import metrics
from metro_jax.evaluation.eval_step import make_eval_step
from metro_jax.models import layers
from metro_jax.models.metro import Prediction
from metro_jax.training import optimizer, parallel, state, step
from metro_jax.training.checkpoint import Checkpoints

COUNTS = (40, 12, 6)  # vertices a level, fine to coarse
EXAMPLES = 16
PX = 8


class StandIn(nn.Module):
  """As small as a network with METRO's signature, BatchNorm and dropout can be."""

  dropout: float = 0.0

  @nn.compact
  def __call__(self, images, template, token_mask, train):
    x = nn.Dense(12)(images.reshape(len(images), -1))
    norm = nn.BatchNorm(use_running_average=not train, axis_name="data", momentum=0.9)
    x = jnp.tanh(norm(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    queries = jnp.concatenate([template.joints, template.vertices])
    tokens = queries + nn.Dense(3 * len(queries))(x).reshape(len(x), -1, 3)
    if token_mask is not None:
      tokens = jnp.where(token_mask[..., None], 0.01, tokens)
    points = tokens + nn.Dense(3)(jnp.tanh(tokens))
    vertices = [points[:, len(template.joints) :]]
    for count in COUNTS[-2::-1]:
      up = nn.Dense(count)(vertices[-1].transpose(0, 2, 1))
      vertices.append(up.transpose(0, 2, 1))
    return Prediction(
      camera=nn.Dense(3)(x),
      joints=points[:, : len(template.joints)],
      vertices=tuple(vertices),
    )


def make_body() -> BodyModel:
  """A cloud of vertices around SMPL's tree."""
  rng = np.random.default_rng(0)

  def shares(*shape):
    x = rng.uniform(size=shape) ** 4
    return x / x.sum(-1, keepdims=True)

  vertices, count = COUNTS[0], len(joints.SMPL24)
  return BodyModel(
    template=rng.standard_normal((vertices, 3)) * 0.4,
    shape_directions=rng.standard_normal((vertices, 3, 10)) * 0.01,
    pose_directions=None,
    joint_regressor=shares(count, vertices),
    skin_weights=shares(vertices, count),
    regressors={"h36m": shares(17, vertices), "j24": shares(24, vertices)},
    faces=np.zeros((1, 3), np.int32),
    parents=joints.SMPL24_PARENTS,
    name="cloud",
  )


def make_levels() -> MeshLevels:
  """Levels that keep every third and every second vertex."""
  select = (np.arange(12, dtype=np.int32) * 3 + 1, np.arange(6, dtype=np.int32) * 2)
  none = np.zeros((0, 3))
  return MeshLevels(COUNTS, select, (none,) * 2, (none,) * 2, (none,) * 3)


def make_geometry() -> step.Geometry:
  """The body's arrays, NumPy's."""
  body, levels = make_body(), make_levels()
  return setup.Geometry(body, make_template(body, levels), rows_of_levels(levels))


def make_batch(seed: int, valid: int = EXAMPLES) -> Batch:
  """Random examples whose labels are spread unevenly; padding comes last."""
  rng = np.random.default_rng(seed)
  n = EXAMPLES

  def with_confidence(x):
    return np.concatenate([x, rng.uniform(size=(*x.shape[:-1], 1))], axis=-1)

  return Batch(
    image=rng.integers(0, 256, (n, PX, PX, 3), dtype=np.uint8),
    color_gain=rng.uniform(0.6, 1.4, (n, 3)),
    joints_2d=with_confidence(rng.uniform(-1, 1, (n, 24, 2))),
    joints_3d_m=with_confidence(rng.standard_normal((n, 24, 3)) * 0.3),
    pose=rng.standard_normal((n, 72)) * 0.3,
    shape=rng.standard_normal((n, 10)),
    has_joints_2d=np.arange(n) % 5 != 0,
    has_joints_3d=np.arange(n) < 11,  # the last devices have none
    has_mesh=np.arange(n) % 3 == 0,
    valid=np.arange(n) < valid,
    index=np.arange(n),
    dataset=np.zeros(n, np.int32),
    gender=np.zeros(n, np.int32),
  )


def make_config(recipe: str = "paper", mask_fraction: float = 0.0):
  """A short run."""
  config = base.get_config()
  config.loss.recipe = recipe
  config.model.mask_fraction = mask_fraction
  config.train.num_steps = 6
  config.optimizer.learning_rate = 1e-2
  return config


@functools.cache
def make_variables():
  """The network's first parameters and statistics, float64."""
  template = make_geometry().template
  fresh = state.create(StandIn(), optax.identity(), template, PX, seed=0)
  return jax.tree.map(lambda x: np.asarray(x, np.float64), fresh.variables)


def make_state(optimizer_) -> state.TrainState:
  """A fresh state, NumPy's."""
  variables = make_variables()
  fresh = state.TrainState(
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=optimizer_.init(variables["params"]),
    step=np.zeros((), np.int32),
    key=np.array([1, 2], np.uint32),
  )
  return jax.tree.map(np.asarray, fresh)


def one_step(recipe: str) -> dict[str, np.ndarray]:
  """Metrics, gradient (a step of plain descent) and statistics of one step."""
  geometry, model = make_geometry(), StandIn()
  descent = optax.sgd(1.0)
  before = make_state(descent)
  train_step = step.make_train_step(model, descent, make_config(recipe))
  mapped = parallel.map_step(train_step, geometry, donate=True)
  after, metrics_ = mapped(parallel.replicate(before), parallel.shard(make_batch(1)))
  after = parallel.unreplicate(after)
  gradient = jax.tree.map(lambda x, y: np.asarray(x) - y, before.params, after.params)
  parts = {"metrics": parallel.unreplicate(metrics_), "gradient": gradient}
  return named(f"{recipe}/", parts | {"stats": after.batch_stats})


def several_steps(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Six steps with masks and dropout: straight, and stopped and resumed midway."""
  geometry, model = make_geometry(), StandIn(dropout=0.3)
  config = make_config(mask_fraction=0.5)
  adam = optimizer.make_optimizer(config)
  fresh = make_state(adam)
  mapped = parallel.map_step(
    step.make_train_step(model, adam, config), geometry, donate=True
  )

  def train(here: state.TrainState, first: int, last: int) -> state.TrainState:
    stacked = parallel.replicate(here)
    for number in range(first, last):
      stacked, _ = mapped(stacked, parallel.shard(make_batch(number)))
    return parallel.unreplicate(stacked)

  straight = train(fresh, 0, 6)
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(train(fresh, 0, 3), 3, {"step": 3})
  with Checkpoints(folder) as checkpoints:
    restored = checkpoints.restore(fresh)
  resumed = train(restored.tree, restored.pipeline["step"], 6)
  return named("straight/", straight) | named("resumed/", resumed)


def one_evaluation() -> dict[str, np.ndarray]:
  """The eval step on eleven examples and five of padding."""
  geometry, model = make_geometry(), StandIn()
  mapped = parallel.map_step(make_eval_step(model), geometry, donate=False)
  batch = parallel.shard(make_batch(2, valid=11))
  done = mapped(parallel.replicate(make_variables()), batch)
  means = metrics.means([parallel.unreplicate(done.totals)])
  fields = done._asdict()
  totals = parallel.unreplicate(fields.pop("totals"))
  return named("eval/", {**parallel.gather(fields), "totals": totals, "means": means})


def moved() -> dict[str, np.ndarray]:
  """What `parallel` does with arrays on several devices."""
  rows = np.arange(48).reshape(24, 2)
  stacked = parallel.replicate({"x": rows})
  failed = {}
  for name, call in {
    "shard": lambda: parallel.shard(rows[:12]),
    "check": lambda: parallel.check_batch_size("train.batch_size", 12),
  }.items():
    try:
      call()
    except ValueError as error:
      failed[name] = np.array(str(error))
  found = {
    "sharded": np.asarray(parallel.shard(rows)),
    "gathered": parallel.gather(parallel.shard(rows)),
    "replicated": np.asarray(stacked["x"]),
    "unreplicated": parallel.unreplicate(stacked)["x"],
  }
  return {f"moved/{key}": value for key, value in (found | failed).items()}


def statistics_in_groups() -> dict[str, np.ndarray]:
  """BatchNorm whose statistics are shared by pairs of devices, and its gradient."""
  rng = np.random.default_rng(5)
  devices = jax.local_device_count()
  x, weights = rng.normal(size=(2, devices, 3, 2, 2, 4))
  scale, bias = np.arange(1.0, 5), np.ones(4)

  def loss(x, weights):
    axis = layers.Axis("data", 2)
    y, mean, _ = layers.batch_norm(x, scale, bias, 1e-5, axis)
    return (weights * y**2).sum(), (y, mean)

  gradient = jax.grad(loss, has_aux=True)
  dx, (y, mean) = jax.pmap(gradient, axis_name="data")(x, weights)
  made = {"x": x, "weights": weights, "y": y, "mean": mean, "dx": dx}
  try:
    jax.pmap(lambda x: layers.Axis("data", 3).mean(x), axis_name="data")(x)
  except ValueError as error:
    made["refused"] = np.array(str(error))
  return {f"groups/{key}": np.asarray(value) for key, value in made.items()}


def named(prefix: str, tree) -> dict[str, np.ndarray]:
  """Arrays by path."""
  pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {prefix + jax.tree_util.keystr(k): np.asarray(v) for k, v in pairs}


def main(output: pathlib.Path) -> None:
  """Everything that the tests look at."""
  found = {"devices": np.array(jax.local_device_count())}
  for recipe in ("paper", "released"):
    found |= one_step(recipe)
  found |= one_evaluation()
  if jax.local_device_count() > 1:
    found |= several_steps(output.with_suffix(".checkpoints"))
    found |= moved()
    found |= statistics_in_groups()
  np.savez(output, **found)


if __name__ == "__main__":
  jax.config.update("jax_enable_x64", True)
  main(pathlib.Path(sys.argv[2]))
