"""A split's errors beside the baseline's, on paper: tables and JSON file."""

import math
import pathlib
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from metro_jax import files
from metro_jax.checkpoints.runs import Run
from metro_jax.cluster import parallel
from metro_jax.data import pipeline
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import (
  averaging,
  baseline,
  evaluator,
  protocols,
  second_pass,
  tables,
  tta,
)
from metro_jax.evaluation.eval_step import Evaluation
from metro_jax.evaluation.evaluator import MappedEvalStep, Results
from metro_jax.evaluation.protocols import Protocol
from metro_jax.evaluation.tables import Tables
from metro_jax.evaluation.tta import Views

FOLDER = "eval"
MEAN_MESH_FILE = "mean_mesh.npz"
TERMINAL_COLUMNS = 88


class Assessment(NamedTuple):
  """A network on a split, beside the mean mesh, and how both were measured."""

  split: str
  results: Results
  baseline: Results
  protocol: Protocol
  tables: Tables | None = None  # of the first process

  def table(self) -> str:
    """Formats what to print."""
    return format_table(self.results, self.baseline, self.protocol)


def assess(
  run: Run,
  eval_step: MappedEvalStep,
  source: Source,
  train_source: Source,
  folder: pathlib.Path,
  split: str,
  views: Views | None = None,
  on_batch: Callable[[Any, Evaluation], None] | None = None,
) -> Assessment:
  """Evaluates the network and the mean mesh; keeps the mean mesh in the folder.

  Args:
    run: The network, its variables and settings.
    eval_step: Made by `evaluator.map_eval_step`, with the same views and settings.
    source: The split.
    train_source: The training split, for the mean mesh.
    folder: Of the run.
    split: The split's name.
    views: Of test-time augmentation; None without.
    on_batch: As for `evaluator.evaluate`, of the network's batches.

  Returns:
    Errors over the whole split, the same on every process.
  """
  config, geometry = run.config, run.network.geometry
  protocol = protocols.for_dataset(source.name, config, run.training)
  if views is not None:
    protocol = protocol._replace(views=tta.describe(config))
  batches, total = _batches(source, config, views)
  label = f"{split} split"
  step = eval_step if views else second_pass.of_split(eval_step, source, config)
  variables = parallel.replicate(run.variables)
  results = evaluator.evaluate(step, variables, batches, total, label, on_batch)
  cache = folder / FOLDER / MEAN_MESH_FILE if jax.process_index() == 0 else None
  mean_mesh_m = baseline.mean_mesh(train_source, geometry.body, cache)
  batches, total = _batches(source, config, None)
  beside = baseline.mean_mesh_baseline(
    mean_mesh_m, geometry, batches, total, config.eval.true_joints
  )
  results, beside = (_averaged(one, protocol) for one in (results, beside))
  found = _make_tables(results, source, protocol)
  return Assessment(split, results, beside, protocol, found)


def _batches(
  source: Source, config: ConfigDict, views: Views | None
) -> tuple[Iterable[Any], int]:
  """This process's batches of a split, and how many there are."""
  here = (jax.process_index(), jax.process_count())
  if views is None:
    size = config.eval.batch_size
    return pipeline.eval_batches(source, config, *here), -(-len(source) // size)
  size = tta.batch_size(config, views)
  return tta.batches(source, config, views, *here), -(-len(source) // size)


def _averaged(results: Results, protocol: Protocol) -> Results:
  """The means that the protocol wants."""
  if protocol.averaging == "exact":
    return results
  batch_size = averaging.BATCH_SIZES[protocol.kind]
  return results._replace(means=averaging.original_means(results.errors, batch_size))


def _make_tables(results: Results, source: Source, protocol: Protocol) -> Tables | None:
  """The tables, on the first process, which alone writes them."""
  if jax.process_index() != 0:
    return None
  groups = tables.groups_of(source, results.rows)
  return tables.make(results.errors, results.joint_errors_mm, groups, protocol)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    content = as_json(assessment, step)
    files.write_json(path, content, allow_nan=False)
  return path


def as_json(assessment: Assessment, step: int) -> dict[str, Any]:
  """Lists what `<workdir>/eval/<split>.json` holds; a mean of nothing is null."""
  protocol = assessment.protocol
  content = {
    **_numbers(assessment.results, protocol),
    "baseline": {
      **_numbers(assessment.baseline, protocol),
      "what": protocols.BASELINE,
    },
    "protocol": protocols.describe(protocol),
    "split": assessment.split,
    "dataset": protocol.name,
    "step": step,
  }
  if assessment.tables is not None:
    content |= tables.as_json(assessment.tables)
  return content


def _numbers(results: Results, protocol: Protocol) -> dict[str, Any]:
  means = {
    name: results.means[name] if math.isfinite(results.means[name]) else None
    for name in protocol.metrics
  }
  return {**means, "examples": results.examples}


def format_table(results: Results, beside: Results, protocol: Protocol) -> str:
  """Shows the errors beside the baseline's, with what they mean, for a terminal."""
  lines = [f"{'':11} {'network':>12} {'mean mesh':>12} {'change':>8}"]
  for name in protocol.metrics:
    metric = protocols.METRICS[name]
    ours, theirs = results.means[name], beside.means[name]
    change = _change(metric, ours, theirs)
    numbers = f"{metric.format(ours):>12} {metric.format(theirs):>12} {change:>8}"
    lines.append(f"{metric.title:11} {numbers}   {metric.meaning}")
  lines += [
    f"{results.examples:,} examples",
    "",
    *textwrap.wrap(f"Protocol: {protocols.describe(protocol)}", TERMINAL_COLUMNS),
    *textwrap.wrap(f"Baseline: {protocols.BASELINE}", TERMINAL_COLUMNS),
  ]
  return "\n".join(lines)


def _change(metric: protocols.Metric, ours: float, theirs: float) -> str:
  """From the baseline: of distances in percent, of shares as it is."""
  if not metric.unit:
    return f"{ours - theirs:+.3f}" if math.isfinite(ours - theirs) else "–"
  percent = 100 * (ours / theirs - 1) if theirs else math.nan
  return f"{percent:+.1f} %" if math.isfinite(percent) else "–"
