"""Errors of a network over a split, exactly, whatever the batches and processes."""

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import tqdm
from jaxtyping import Float, Int

from metro_jax.cluster import parallel
from metro_jax.evaluation import gathering, metrics, tta
from metro_jax.evaluation.eval_step import Evaluation, make_eval_step
from metro_jax.evaluation.tta import Views
from metro_jax.models.setup import Geometry

MappedEvalStep = Callable[[Any, Any], Evaluation]


class Results(NamedTuple):
  """Errors over a split, the same on every process.

  Attributes:
    means: Per metric, the mean over the labelled examples.
    examples: How many examples those are; the most of any metric.
    rows: (n,) of the examples, ascending.
    errors: Per metric, (n,) of those; NaN without the label.
    joint_errors_mm: MPJPE and PA-MPJPE of every joint, (n, j); NaN without the label.
  """

  means: dict[str, float]
  examples: int
  rows: Int[np.ndarray, " n"]
  errors: dict[str, Float[np.ndarray, " n"]]
  joint_errors_mm: dict[str, Float[np.ndarray, "n j"]]

  @property
  def means_mm(self) -> dict[str, float]:
    """The three means that papers always give."""
    return {name: self.means[name] for name in metrics.NAMES}


def map_eval_step(
  model: nn.Module,
  geometry: Geometry,
  true_joints: str = "labels",
  views: Views | None = None,
) -> MappedEvalStep:
  """Maps the network's eval step over all devices, for `evaluate`.

  Args:
    model: The network.
    geometry: The body's arrays.
    true_joints: `config.eval.true_joints`.
    views: Of test-time augmentation; the batches are then `tta.batches`.
  """
  step: Callable[..., Evaluation] = (
    tta.make_eval_step(model, views, true_joints)
    if views
    else make_eval_step(model, true_joints)
  )
  return parallel.map_step(step, geometry, donate=False)


def evaluate(
  eval_step: MappedEvalStep,
  variables: Any,
  batches: Iterable[Any],
  total_batches: int | None = None,
  label: str = "evaluating",
  on_batch: Callable[[Any, Evaluation], None] | None = None,
) -> Results:
  """Runs the network over a split, counting every example exactly once.

  The mean is the sum of the errors of valid, labelled examples over all devices and
  processes by their number, so padding and the sizes of batches leave no trace. All
  processes must call this together.

  Args:
    eval_step: Made by `map_eval_step`.
    variables: The network's, replicated.
    batches: This process's share of the split, on the host; see
      `pipeline.eval_batches` and `tta.batches`.
    total_batches: For the progress bar.
    label: For the progress bar.
    on_batch: Is shown every batch and what it gave, still stacked by device.

  Returns:
    Means and errors over everything.
  """
  parts, rows, kept = [], [], []
  bar = tqdm.tqdm(
    batches,
    total=total_batches,
    desc=label,
    unit="batch",
    leave=False,
    disable=None,
  )
  for batch in bar:
    done = eval_step(variables, parallel.shard(batch))
    valid = np.asarray(batch.valid)
    parts.append(parallel.unreplicate(done.totals))
    rows.append(np.asarray(batch.index)[valid])
    numbers = parallel.gather((done.errors, done.joint_errors_mm))
    kept.append(jax.tree.map(operator.itemgetter(valid), numbers))
    if on_batch is not None:
      on_batch(batch, done)
  joined = jax.tree.map(lambda *x: np.concatenate(x), *kept)
  all_rows, (errors, joint_errors_mm) = gathering.everywhere(
    np.concatenate(rows), joined
  )
  return Results(
    metrics.means(parts), _most_examples(parts), all_rows, errors, joint_errors_mm
  )


def _most_examples(parts: list[dict[str, dict[str, Any]]]) -> int:
  sums = [sum(int(part["count"][name]) for part in parts) for name in metrics.NAMES]
  return max(sums)
