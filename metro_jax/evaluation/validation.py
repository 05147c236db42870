"""What a run in training is measured by: its validation split, and a few pictures."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from metro_jax.data import pipeline
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import evaluator, examples, second_pass
from metro_jax.evaluation.evaluator import MappedEvalStep
from metro_jax.training.logs import RunLog


def validate(
  eval_step: MappedEvalStep,
  variables: Any,
  split: Source,
  config: ConfigDict,
  faces: Int[np.ndarray, "f 3"],
  step: int,
  log: RunLog,
  on_batch: Callable[[], None],
) -> dict[str, float]:
  """Measures the network, and logs its errors with a few pictures.

  Args:
    eval_step: Made by `evaluator.map_eval_step`.
    variables: The network's, replicated.
    split: The validation split.
    config: Of the run.
    faces: Of the full mesh.
    step: Updates that made the network.
    log: Of the run; its rates leave this time out.
    on_batch: Called after every batch; what it raises ends the validation, of which
      nothing is then logged.

  Returns:
    The means in millimetres, by metric.
  """
  log.pause()
  here = (jax.process_index(), jax.process_count())
  batches = pipeline.eval_batches(split, config, *here, config.eval.max_examples)
  measured = second_pass.of_split(eval_step, split, config)
  results = evaluator.evaluate(
    measured, variables, batches, on_batch=lambda batch, done: on_batch()
  )
  errors_mm = results.means_mm
  log.scalars(step, "validation", errors_mm)
  text = ", ".join(f"{k.removesuffix('_mm')} {v:.1f}" for k, v in errors_mm.items())
  log.say(f"step {step}: validation mm: {text}")
  count = min(config.train.pictures, len(split))
  rows = [i * len(split) // count for i in range(count)]
  drawn = examples.draw(eval_step, variables, split, rows, faces, config)
  if drawn:
    log.picture(step, "validation", examples.as_sheet(drawn))
  log.resume()
  return errors_mm
