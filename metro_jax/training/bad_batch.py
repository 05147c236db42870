"""The batch of a step that went wrong, kept for looking at."""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from metro_jax.data import pipeline
from metro_jax.data.pipeline import Source


def write(
  workdir: pathlib.Path, source: Source, config: ConfigDict, step: int
) -> pathlib.Path:
  """Makes a training step's batch again and writes it, of all processes together.

  Args:
    workdir: Of the run.
    source: The training split.
    config: Of the run.
    step: Number of the step, from 1.

  Returns:
    The npz file: every field of `Batch` by name, as the step got it; `index`
    are the rows of the split.
  """
  batch = next(pipeline.train_batches(source, config, step - 1))
  path = workdir / f"batch_of_step_{step}.npz"
  with path.open("wb") as file:
    np.savez(file, **vars(batch))
  return path
