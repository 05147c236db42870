"""Adam and its learning rate over the run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

STEP_DECAY = 0.1


def schedule(config: ConfigDict) -> optax.Schedule:
  """Makes the learning rate by step: a linear warm-up, then the named course.

  "step" multiplies the rate by 0.1 once, `decay_at` of the way through the run;
  "cosine" goes to 0 at its end; "constant" stays.

  Args:
    config: The whole config; uses `optimizer` and `train.num_steps`.

  Returns:
    A function from the number of updates made so far to the rate.

  Raises:
    ValueError: If the schedule has no such name or the warm-up outlasts the run.
  """
  c, num_steps = config.optimizer, config.train.num_steps
  if c.warmup_steps >= num_steps:
    raise ValueError(
      f"config.optimizer.warmup_steps: expected fewer than train.num_steps "
      f"({num_steps}), got {c.warmup_steps}"
    )
  after = num_steps - c.warmup_steps
  if c.schedule == "step":
    drop = max(round(c.decay_at * num_steps) - c.warmup_steps, 0)
    course = optax.piecewise_constant_schedule(c.learning_rate, {drop: STEP_DECAY})
  elif c.schedule == "cosine":
    course = optax.cosine_decay_schedule(c.learning_rate, after)
  elif c.schedule == "constant":
    course = optax.constant_schedule(c.learning_rate)
  else:
    raise ValueError(
      "config.optimizer.schedule: expected step, cosine or constant, "
      f"got {c.schedule!r}"
    )
  if not c.warmup_steps:
    return course
  warmup = optax.linear_schedule(0.0, c.learning_rate, c.warmup_steps)
  return optax.join_schedules([warmup, course], [c.warmup_steps])


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
  """Makes Adam under the schedule, after clipping by the global norm if asked for.

  Args:
    config: The whole config; uses `optimizer` and `train.num_steps`.

  Returns:
    An optax transformation of the gradients of `trained` parameters. Without clipping,
    a rate of the backbone's own and frozen modules its state is Adam's alone.
  """
  c = config.optimizer
  steps = [optax.adam(schedule(config), b1=c.beta1, b2=c.beta2)]
  if c.clip_norm > 0:
    steps.insert(0, optax.clip_by_global_norm(c.clip_norm))
  if c.backbone_rate != 1:
    steps.append(optax.stateless(_scaled_backbone(c.backbone_rate)))
  optimizer = steps[0] if len(steps) == 1 else optax.chain(*steps)
  return _for_trained(optimizer, tuple(c.frozen)) if c.frozen else optimizer


def _scaled_backbone(factor: float) -> Callable[[Any, Any], Any]:
  def scale(updates: Any, params: Any) -> Any:
    del params
    backbone = jax.tree.map(lambda x: factor * x, updates.get("backbone", {}))
    return {**updates, "backbone": backbone} if backbone else updates

  return scale


def trained(params: Mapping[str, Any], frozen: tuple[str, ...]) -> dict[str, Any]:
  """Picks the parameters that train.

  Args:
    params: The network's, by module.
    frozen: Paths of what keeps its values, such as "backbone" or "backbone/stem".

  Raises:
    ValueError: If the network has nothing there.
  """
  flat = flatten_dict(params, sep="/")
  for name in frozen:
    if not any(_is_within(path, name) for path in flat):
      depth = name.count("/") + 1
      modules = dict.fromkeys("/".join(path.split("/")[:depth]) for path in flat)
      raise ValueError(
        f"config.optimizer.frozen: expected modules among {', '.join(modules)}, "
        f"got {name}"
      )
  moving = {
    path: array
    for path, array in flat.items()
    if not any(_is_within(path, name) for name in frozen)
  }
  return unflatten_dict(moving, sep="/")


def _is_within(path: str, module: str) -> bool:
  return f"{path}/".startswith(f"{module}/")


def completed(params: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
  """Gives all parameters, with those that train as they are in `changed`."""
  flat = flatten_dict(params, sep="/") | flatten_dict(changed, sep="/")
  return unflatten_dict(flat, sep="/")


def _for_trained(
  inner: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  """The same for gradients of `trained` parameters only; the others cost nothing."""

  def init(params: Any) -> Any:
    return inner.init(trained(params, frozen))

  def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return inner.update(gradient, state, params)

  return optax.GradientTransformation(init, update)
