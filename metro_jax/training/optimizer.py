"""Adam and its learning rate over the run."""

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
    An optax transformation. Without clipping its state is Adam's alone.
  """
  c = config.optimizer
  adam = optax.adam(schedule(config), b1=c.beta1, b2=c.beta2)
  if c.clip_norm > 0:
    return optax.chain(optax.clip_by_global_norm(c.clip_norm), adam)
  return adam
