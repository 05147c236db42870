"""Adam and its learning rate over the run."""

from collections.abc import Mapping
from typing import Any

import optax
from ml_collections import ConfigDict

STEP_DECAY = 0.1


def schedule(config: ConfigDict) -> optax.Schedule:
  """Learning rate by step: a linear warm-up, then the named course.

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
  """Adam under the schedule, after clipping by the global norm if asked for.

  Args:
    config: The whole config; uses `optimizer` and `train.num_steps`.

  Returns:
    An optax transformation. Without clipping and frozen modules its state is Adam's
    alone.
  """
  c = config.optimizer
  optimizer = optax.adam(schedule(config), b1=c.beta1, b2=c.beta2)
  if c.clip_norm > 0:
    optimizer = optax.chain(optax.clip_by_global_norm(c.clip_norm), optimizer)
  return _for_trained(optimizer, tuple(c.frozen)) if c.frozen else optimizer


def trained(params: Mapping[str, Any], frozen: tuple[str, ...]) -> dict[str, Any]:
  """The modules that train.

  Args:
    params: The network's, by module.
    frozen: Names of the modules that keep their values.

  Raises:
    ValueError: If the network has no such module.
  """
  unknown = [name for name in frozen if name not in params]
  if unknown:
    raise ValueError(
      f"config.optimizer.frozen: expected modules among {', '.join(params)}, "
      f"got {', '.join(unknown)}"
    )
  return {name: module for name, module in params.items() if name not in frozen}


def _for_trained(
  inner: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  """The same for gradients of `trained` modules only; the others cost nothing."""

  def init(params: Any) -> Any:
    return inner.init(trained(params, frozen))

  def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    return inner.update(gradient, state, params)

  return optax.GradientTransformation(init, update)
