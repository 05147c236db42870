"""Trains METRO, evaluates it on people it has never seen, and writes a report.

Run:    python -m metro_jax.train --config=configs/synthetic.py --workdir=runs/synthetic
        The same command goes on after an interruption.
Result: WORKDIR/checkpoints, metrics.jsonl, tensorboard, eval/test.json, report.html.
"""

import math
import pathlib
import time
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line
from metro_jax import config as base
from metro_jax.data import datasets, pipeline
from metro_jax.evaluation import assessment, evaluator, examples, run_report, runs
from metro_jax.models import setup
from metro_jax.training import checkpoint, optimizer, parallel
from metro_jax.training import state as states
from metro_jax.training import step as steps
from metro_jax.training.checkpoint import Checkpoints
from metro_jax.training.logs import RunLog
from metro_jax.weights import imagenet, weight_files
from metro_jax.weights.weight_files import Loaded

FLAGS = flags.FLAGS
STEPS_AHEAD = 2  # how far the host may run ahead of the devices


def define_flags() -> None:
  """Defines the flags; not at import, so that commands can be imported together."""
  config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
  flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  flags.mark_flag_as_required("config")


class Splits(NamedTuple):
  """The dataset's examples."""

  train: pipeline.Source
  validation: pipeline.Source
  test: pipeline.Source


class Job(NamedTuple):
  """What every part of a run needs."""

  config: ConfigDict
  workdir: pathlib.Path
  splits: Splits
  network: setup.Network
  geometry: steps.Geometry
  eval_step: evaluator.MappedEvalStep


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains, validates and saves; then measures the best network and reports.

  Args:
    config: Made by `metro_jax.config.get_config`, with what differs.
    workdir: Made if it does not exist. If it holds an interrupted run of the same
      network and data, the run goes on as if it had not stopped.

  Raises:
    ValueError: If the config, the data, given weights or a checkpoint do not fit.
    FileNotFoundError: If datasets, body files or weights are not there; all are named.
    FloatingPointError: If the loss is no longer finite.
    OSError: If the disk is full.
  """
  started = time.time()
  base.validate(config)
  datasets.expect_everything(config)
  _expect_given_weights(config, workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  splits = Splits(
    datasets.open_training(config),
    datasets.open_split(config, config.data.validation),
    datasets.open_split(config, config.data.test),
  )
  for key in ("train.batch_size", "eval.batch_size"):
    parallel.check_batch_size(key, base.get(config, key))
  network = setup.build(config)
  geometry = steps.make_geometry(
    network.body, network.levels, network.template, network.gendered
  )
  eval_step = evaluator.map_eval_step(network.model, geometry)
  job = Job(config, workdir, splits, network, geometry, eval_step)
  _fit(job)
  _finish(job, started)


def _fit(job: Job) -> None:
  """The training loop, from the latest checkpoint on."""
  config, model = job.config, job.network.model
  adam = optimizer.make_optimizer(config)
  train_step = parallel.map_step(
    steps.make_train_step(model, adam, config), job.geometry, donate=True
  )
  last = config.train.num_steps
  folder = job.workdir / runs.CHECKPOINT_FOLDER
  with Checkpoints(folder, config.train.keep_best) as checkpoints:
    given = None if checkpoints.steps() else _given_weights(job)
    fresh = states.create(
      model, adam, job.network.template, config.data.image_px, config.seed
    )
    state, first = _restore(job, checkpoints, _with_given(fresh, given))
    runs.save_config(job.workdir, config)
    batches = pipeline.train_batches(job.splits.train, config, first)
    with RunLog(job.workdir, first, last, config.train.batch_size) as log:
      state = parallel.replicate(state)
      window = Window()
      for step, batch in zip(range(first + 1, last + 1), batches, strict=False):
        state, metrics = train_step(state, parallel.shard(batch))
        window.add(metrics)
        log.tick(step)
        validating = _due(step, config.train.validate_every, last)
        saving = validating or _due(step, config.train.checkpoint_every, last)
        if saving or _due(step, config.train.log_every, last):
          log.train(step, window.mean(step))  # never saves what is not finite
        errors = _validate(job, state, step, log) if validating else None
        if saving:
          position = pipeline.saved_position(step, job.splits.train, config)
          saved = parallel.unreplicate(state)
          checkpoints.save(saved, step, position, errors, config.to_dict())


def _expect_given_weights(config: ConfigDict, workdir: pathlib.Path) -> None:
  """Fails, before anything else is done, if a fresh run's weights are not there."""
  checkpoints = workdir / runs.CHECKPOINT_FOLDER
  source = config.train.init_from or config.model.backbone_weights
  if not source or any(path.name.isdecimal() for path in checkpoints.glob("*")):
    return
  if not _is_run(source):
    weight_files.locate(source)


def _is_run(source: str) -> bool:
  return pathlib.Path(source).expanduser().is_dir()


def _given_weights(job: Job) -> Loaded | None:
  """What the config has a fresh run start from; `init_from` holds the backbone too."""
  config, source = job.config, job.config.train.init_from
  if not source and not config.model.backbone_weights:
    return None
  network = job.network
  like = states.variable_shapes(network.model, network.template, config.data.image_px)
  if not source:
    return imagenet.load(config.model.backbone_weights, like)
  if not _is_run(source):
    return weight_files.load_metro(source, like)
  folder = pathlib.Path(source).expanduser() / runs.CHECKPOINT_FOLDER
  restored = checkpoint.restore_variables(folder, "best", like)
  return Loaded(restored.tree, 0, f"{source}, step {restored.step}")


def _with_given(fresh: states.TrainState, given: Loaded | None) -> states.TrainState:
  """The fresh state with the given weights in their places."""
  if given is None:
    return fresh
  count = len(jax.tree.leaves(given.variables))
  ignored = f"{given.ignored} ignored" if given.ignored else "none ignored"
  print(f"Weights from {given.source}: {count} arrays, {ignored}", flush=True)
  variables = {
    name: {**arrays, **given.variables[name]}
    for name, arrays in fresh.variables.items()
  }
  return states.with_weights(fresh, variables)


def _restore(
  job: Job, checkpoints: Checkpoints, fresh: states.TrainState
) -> tuple[states.TrainState, int]:
  """The latest checkpoint's state and step, or the fresh state and 0."""
  restored = checkpoints.restore(fresh)
  if restored is None:
    return fresh, 0
  step = pipeline.restored_step(restored.pipeline, job.splits.train, job.config)
  print(f"Going on from step {step} in {job.workdir}", flush=True)
  return restored.tree, step


def _due(step: int, every: int, last: int) -> bool:
  return step % every == 0 or step == last


class Window:
  """Training metrics since the last log line, still on the devices."""

  def __init__(self):
    self._metrics: list[dict[str, jax.Array]] = []

  def add(self, metrics: dict[str, jax.Array]) -> None:
    """Takes a step's metrics; waits if the devices are far behind."""
    self._metrics.append(metrics)
    if len(self._metrics) > STEPS_AHEAD:
      jax.block_until_ready(self._metrics[-1 - STEPS_AHEAD])

  def mean(self, step: int) -> dict[str, float]:
    """Averages and forgets.

    Raises:
      FloatingPointError: If the loss of a step was not finite.
    """
    rows = [parallel.unreplicate(metrics) for metrics in self._metrics]
    self._metrics.clear()
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if not math.isfinite(means["loss"]):
      bad = next(i for i, row in enumerate(rows) if not np.isfinite(row["loss"]))
      raise FloatingPointError(
        f"step {step - len(rows) + 1 + bad}: expected a finite loss, got "
        f"{rows[bad]['loss']}; the last checkpoint is from before it, try a lower "
        "config.optimizer.learning_rate"
      )
    return means


def _validate(
  job: Job, state: states.TrainState, step: int, log: RunLog
) -> dict[str, float]:
  """Errors on the validation split, logged with a few pictures."""
  config, split = job.config, job.splits.validation
  log.pause()
  batches = pipeline.eval_batches(split, config, max_examples=config.eval.max_examples)
  results = evaluator.evaluate(job.eval_step, state.variables, batches)
  log.scalars(step, "validation", results.means_mm)
  text = ", ".join(
    f"{k.removesuffix('_mm')} {v:.1f}" for k, v in results.means_mm.items()
  )
  log.say(f"step {step}: validation mm: {text}")
  count = min(config.train.pictures, len(split))
  rows = [i * len(split) // count for i in range(count)]
  drawn = examples.draw(
    job.eval_step, state.variables, split, rows, job.network.body.faces, config
  )
  if drawn:
    log.picture(step, "validation", examples.as_sheet(drawn))
  log.resume()
  return results.means_mm


def _finish(job: Job, started: float) -> None:
  """Measures the best checkpoint on the test split and writes the report."""
  config, workdir = job.config, job.workdir
  run = runs.load(workdir, "best")
  variables = parallel.replicate(run.variables)
  done = assessment.assess(
    job.eval_step,
    variables,
    job.geometry,
    job.splits.test,
    job.splits.train,
    config,
    workdir,
    "test",
  )
  written = assessment.write(done, workdir, run.step)
  choices = examples.choose(done.results, config.train.pictures)
  drawn = examples.draw(
    job.eval_step,
    variables,
    job.splits.test,
    [choice.row for choice in choices],
    job.network.body.faces,
    config,
  )
  pictures = examples.as_pictures(drawn, choices, "test")
  facts = {
    "Duration since the last start": tqdm.tqdm.format_interval(time.time() - started)
  }
  report = run_report.write(workdir, config, done, pictures, run.step, facts)
  print(done.table())
  print(f"\nWritten to {written} and {report}")


def main(arguments: list[str]) -> None:
  command_line.expect_no_arguments(arguments)
  command_line.keep_memory()
  train(FLAGS.config, pathlib.Path(FLAGS.workdir).expanduser())


if __name__ == "__main__":
  define_flags()
  command_line.run("train", main)
