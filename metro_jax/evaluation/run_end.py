"""The end of a run: its best network, measured on the test split and reported."""

import time
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from metro_jax.checkpoints import checkpoint, runs
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.checkpoints.runs import Run
from metro_jax.cluster import parallel
from metro_jax.cluster.process_group import ProcessGroup
from metro_jax.data.pipeline import Source
from metro_jax.evaluation import (
  assessment,
  examples,
  photograph_pictures,
  restarts,
  run_report,
)
from metro_jax.evaluation.evaluator import MappedEvalStep
from metro_jax.models import setup
from metro_jax.models.setup import Network


def has_report(folder: RunFolder, team: ProcessGroup) -> bool:
  """Whether the run had come to its end before; the same on every process."""
  path = folder.address / run_report.FILE
  return team.broadcast("looking for the report", team.is_first and path.exists())


def read_best(
  config: ConfigDict, network: Network, folder: RunFolder, team: ProcessGroup
) -> Run:
  """Reads the best checkpoint on the first process, and tells the others.

  Args:
    config: Of the run.
    network: Its network.
    folder: Of the run.
    team: The run's processes.

  Returns:
    The network with the settings that its weights were made with.
  """
  like = setup.variable_shapes(network, config)
  facts: list[Any] = []
  if team.is_first:
    checkpoints = folder.address / runs.CHECKPOINT_FOLDER
    best = checkpoint.restore_variables(checkpoints, "best", like)
    variables, meta = best.tree, best.meta
    facts = [best.step, meta["config"], meta.get("earlier", [])]
  else:
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  step, stored, earlier = team.broadcast("reading the best checkpoint", facts)
  made_with = runs.trained_with(config, stored)
  return Run(made_with, network, team.broadcast_arrays(variables), step, earlier)


def assess_and_report(
  run: Run,
  eval_step: MappedEvalStep,
  test: Source,
  train: Source,
  folder: RunFolder,
  started_s: float,
) -> None:
  """Measures a run's network on the test split; the first process writes the report.

  Args:
    run: The best network.
    eval_step: Made by `evaluator.map_eval_step`.
    test: What to measure on.
    train: The training split, for the mean mesh.
    folder: Of the run.
    started_s: When the command began, as `time.time` says.
  """
  variables, config, workdir = (
    parallel.replicate(run.variables),
    run.config,
    folder.local,
  )
  done = assessment.assess(run, eval_step, test, train, workdir, "test")
  written = assessment.write(done, workdir, run.step)
  choices = examples.choose(done.results, config.train.pictures)
  rows, faces = [choice.row for choice in choices], run.network.body.faces
  drawn = examples.draw(eval_step, variables, test, rows, faces, config)
  if jax.process_index() != 0:
    return
  pictures = examples.as_pictures(drawn, choices, "test")
  taken = tqdm.tqdm.format_interval(time.time() - started_s)
  facts = {"Duration since the last start": taken, **restarts.facts(run.earlier)}
  photographs = photograph_pictures.draw(run, config.train.photographs)
  report = run_report.write(
    workdir, config, done, pictures, run.step, facts, photographs
  )
  print(done.table())
  print(folder.display(f"\nWritten to {written} and {report}"))
