"""A split's errors beside the baseline's, on paper: table and JSON file."""

import pathlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from metro_jax.data import pipeline
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import evaluator, protocols
from metro_jax.evaluation.evaluator import MappedEvalStep, Results
from metro_jax.evaluation.protocols import Protocol
from metro_jax.training.step import Geometry

FOLDER = "eval"
MEAN_MESH_FILE = "mean_mesh.npz"


class Assessment(NamedTuple):
  """A network on a split, beside the mean mesh, and how both were measured."""

  split: str
  results: Results
  baseline: Results
  protocol: Protocol

  def table(self) -> str:
    """What to print."""
    return evaluator.format_table(self.results, self.baseline, self.protocol)


def assess(
  eval_step: MappedEvalStep,
  state: Any,
  geometry: Geometry,
  source: Source,
  train_source: Source,
  config: ConfigDict,
  workdir: pathlib.Path,
  split: str,
) -> Assessment:
  """Evaluates the network and the mean mesh; keeps the mean mesh in the workdir.

  Args:
    eval_step: Made by `evaluator.map_eval_step`.
    state: The network's variables, replicated.
    geometry: The body's arrays, NumPy's.
    source: The split.
    train_source: The training split, for the mean mesh.
    config: Uses `data` and `eval`.
    workdir: Of the run.
    split: The split's name.

  Returns:
    Errors over the whole split, the same on every process.
  """
  total = -(-len(source) // config.eval.batch_size)

  def batches():
    here, processes = jax.process_index(), jax.process_count()
    return pipeline.eval_batches(source, config, here, processes)

  results = evaluator.evaluate(eval_step, state, batches(), total, f"{split} split")
  cache = workdir / FOLDER / MEAN_MESH_FILE
  mean_mesh_m = evaluator.mean_mesh(train_source, geometry.body, cache)
  baseline = evaluator.mean_mesh_baseline(mean_mesh_m, geometry, batches(), total)
  protocol = protocols.for_dataset(source.name, config)
  return Assessment(split, results, baseline, protocol)


def write(assessment: Assessment, workdir: pathlib.Path, step: int) -> pathlib.Path:
  """Writes `<workdir>/eval/<split>.json`, from the first process only.

  Args:
    assessment: What was measured.
    workdir: Of the run.
    step: Of the checkpoint.

  Returns:
    The file's path.
  """
  path = workdir / FOLDER / f"{assessment.split}.json"
  if jax.process_index() == 0:
    content = evaluator.as_json(
      assessment.results,
      assessment.baseline,
      assessment.protocol,
      split=assessment.split,
      step=step,
    )
    evaluator.write_json(path, content)
  return path
