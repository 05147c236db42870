"""Trains METRO, evaluates it on people it has never seen, and writes a report.

Run:    python -m metro_jax.train --config=configs/synthetic.py --workdir=runs/synthetic
        The same command goes on after an interruption. WORKDIR may be gs://BUCKET/RUN.
Result: WORKDIR/checkpoints, metrics.jsonl, tensorboard, eval/test.json, report.html.
"""

import signal

if __name__ == "__main__":
  # A request to stop waits until the rest is imported and can answer it.
  signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line
from metro_jax import config as base
from metro_jax.checkpoints import (
  bucket,
  checkpoint,
  embedded,
  orbax_folder,
  runs,
)
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.checkpoints.orbax_folder import Folder
from metro_jax.checkpoints.run_checkpoints import RunCheckpoints, Start
from metro_jax.checkpoints.run_lock import RunLock
from metro_jax.cluster import consistency, parallel, processes, watch
from metro_jax.cluster.process_group import Team
from metro_jax.cluster.stopping import Stopped, StopRequest
from metro_jax.data import datasets, pipeline
from metro_jax.data.batch import Batch
from metro_jax.evaluation import (
  assessment,
  evaluator,
  examples,
  restarts,
  run_report,
  second_pass,
)
from metro_jax.models import setup
from metro_jax.training import bad_batch, feature_maps, logs
from metro_jax.training import optimizer as optimizers
from metro_jax.training import state as states
from metro_jax.training import step as steps
from metro_jax.training.logs import RunLog
from metro_jax.training.metric_window import NotFiniteError, Window
from metro_jax.weights import blazepose, imagenet, weight_files
from metro_jax.weights.weight_files import Loaded

FLAGS = flags.FLAGS
LONG_LIMIT_S = 6 * 3600.0  # one process may have to prepare what the others wait for


def define_flags() -> None:
  """Defines the flags; not at import, so that commands can be imported together."""
  config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
  flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
  text = "Exit code after SIGTERM, for launchers that restart by it."
  flags.DEFINE_integer("stopped_exit_code", 0, text, 0, 255)
  text = "Begin at step 0 where a run's files are but no checkpoint that can be read."
  flags.DEFINE_bool("start_over", False, text)
  flags.mark_flag_as_required("config")


class Splits(NamedTuple):
  """The dataset's examples."""

  train: pipeline.Source
  validation: pipeline.Source
  test: pipeline.Source


class Job(NamedTuple):
  """What every part of a run needs."""

  config: ConfigDict
  folder: RunFolder
  team: Team
  request: StopRequest
  splits: Splits
  network: setup.Network
  eval_step: evaluator.MappedEvalStep
  lock: RunLock
  start_over: bool
  maps: feature_maps.Maps | None = None

  @property
  def workdir(self) -> pathlib.Path:
    """Where this process writes what is not a checkpoint."""
    return self.folder.local


def train(
  config: ConfigDict,
  workdir: str | os.PathLike[str],
  team: Team | None = None,
  request: StopRequest | None = None,
  start_over: bool = False,
) -> bool:
  """Trains, validates and saves; then measures the best network and reports.

  Args:
    config: Made by `metro_jax.config.get_config`, with what differs.
    workdir: Made if it does not exist; also in a bucket. If it holds an interrupted
      run of the same network and data, the run goes on as if it had not stopped.
    team: The run's processes; this one alone by default.
    request: Shared with them; by default SIGTERM is listened to.
    start_over: Whether to begin at step 0 where a run has left files but no checkpoint
      that can be read; they are set aside.

  Returns:
    Whether the run reached its end; otherwise it was asked to stop, and has saved.

  Raises:
    Stopped: If it was asked to stop where there was nothing to save.
    ValueError: If the config, the data, given weights or a checkpoint do not fit, or
      processes were started with different ones.
    FileNotFoundError: If datasets, body files or weights are not there; all are named.
    FloatingPointError: If loss or gradient are no longer finite; the batch is kept.
    OSError: If the disk is full, data or another process did not come in time, a
      checkpoint cannot be read now, or another training holds the workdir.
  """
  team = team or Team()
  base.validate(config)
  datasets.expect_everything(config)
  fetched = (logs.METRICS_FILE, f"{assessment.FOLDER}/{assessment.MEAN_MESH_FILE}")
  with contextlib.ExitStack() as stack:
    if request is None:
      request = stack.enter_context(StopRequest())
      request.share(team)
    lock = stack.enter_context(RunLock(workdir, team.is_first))
    folder = RunFolder(workdir, team.is_first, fetched, False, lock.is_held)
    stack.enter_context(folder)
    return _train(config, folder, team, request, lock, start_over)


def _train(
  config: ConfigDict,
  folder: RunFolder,
  team: Team,
  request: StopRequest,
  lock: RunLock,
  start_over: bool,
) -> bool:
  started = time.time()
  team.expect_same("settings, code and machines", consistency.setup(config))
  if team.is_first:
    _expect_given_weights(config, folder.address)
    folder.local.mkdir(parents=True, exist_ok=True)
  splits = Splits(
    datasets.open_training(config),
    datasets.open_split(config, config.data.validation),
    datasets.open_split(config, config.data.test),
  )
  if team.count > 1:
    team.expect_same("data", consistency.data(splits))
  for key in ("train.batch_size", "eval.batch_size"):
    parallel.check_batch_size(key, base.get(config, key))
  network = setup.build(config)
  eval_step = evaluator.map_eval_step(
    network.model, network.geometry, config.eval.true_joints
  )
  job = Job(
    config,
    folder,
    team,
    request,
    splits,
    network,
    eval_step,
    lock,
    start_over,
  )
  finished = _fit(job)
  if finished:
    _finish(job, started)
  return finished


def _fit(job: Job) -> bool:
  """The training loop, from the latest checkpoint on; whether it reached its end."""
  config, model = job.config, job.network.model
  optimizer = optimizers.make_optimizer(config)
  train_step = parallel.map_step(
    steps.make_train_step(model, optimizer, config), job.network.geometry, donate=True
  )
  folder, keep = _saved(job.folder), config.train.keep_best

  def publish() -> None:
    job.lock.expect_held()
    runs.save_config(job.workdir, config)  # of the steps that this checkpoint adds
    job.folder.copy()

  with RunCheckpoints(folder, keep, job.team, publish) as checkpoints:
    start = _start(job, checkpoints, optimizer)
    pending = _is_pending(start, config)
    if start.step >= config.train.num_steps and not pending:
      job.request.release()
      return True
    job = job._replace(maps=_maps(job, start))
    with _open_log(job, start) as log:
      try:
        step, stopped = _loop(job, train_step, start, checkpoints, log)
      except NotFiniteError as error:
        raise FloatingPointError(_explain(job, checkpoints, error)) from error
  if stopped:
    log.say(f"Stopped after step {step}, which is saved; the same command goes on")
    return False
  job.request.release()
  return True


def _is_pending(start: Start, config: ConfigDict) -> bool:
  """Whether a request to stop cut the validation of the step to go on from."""
  step, train = start.step, config.train
  due = 0 < step <= train.num_steps and _due(
    step, train.validate_every, train.num_steps
  )
  return due and not start.validated


def _loop(
  job: Job,
  train_step: Any,
  start: Start,
  checkpoints: RunCheckpoints,
  log: RunLog,
) -> tuple[int, bool]:
  """Steps from the start to the end of the run; the last step, and whether asked to."""
  config, last, request = job.config, job.config.train.num_steps, job.request
  state, window = parallel.replicate(start.state), Window(config.data.train)
  step, stopped = start.step, False
  if _is_pending(start, config):
    checkpoints.add_metrics(step, _validate(job, state, step, log))
  batches = _batches(job, start.step)
  rate, earlier = optimizers.schedule(config), restarts.earlier(config, start)
  for step in range(start.step + 1, last + 1):
    batch = next(batches)
    state, metrics = train_step(state, parallel.shard(batch))
    window.add(metrics)
    log.tick(step)
    request.hold()  # a restart would have to make this step again
    stopped = request.due()
    validating = _due(step, config.train.validate_every, last) and not stopped
    saving = validating or stopped or _due(step, config.train.checkpoint_every, last)
    if saving or _due(step, config.train.log_every, last):
      means = window.mean(step)  # never saves what is not finite
      log.train(step, {**means, "learning_rate": float(rate(step - 1))})
    errors = None
    if validating:
      try:
        errors = _validate(job, state, step, log)
      except Stopped:
        stopped = True  # the next start validates first
    if saving:
      position = pipeline.saved_position(step, job.splits.train, config)
      checkpoints.save(state, step, position, errors, config.to_dict(), earlier)
    if stopped:
      break
  return step, stopped


def _maps(job: Job, start: Start) -> feature_maps.Maps | None:
  """What the frozen backbone makes of the training crops, where that is kept."""
  if not job.config.data.map_views:
    return None
  variables, model = start.state.variables, job.network.model
  return feature_maps.open_maps(job.config, job.splits.train, model, variables)


def _batches(job: Job, first: int) -> Iterator[Batch]:
  """This process's batches from step `first` + 1 on; an error if one takes too long."""
  config, split, team = job.config, job.splits.train, job.team
  here = (team.index, team.count)
  batches = pipeline.train_batches(split, config, first, *here, maps=job.maps)

  def describe(number: int) -> str:
    return f"batch {first + number + 1} of {split.name}"

  return watch.in_time(batches, config.train.stall_limit_s, describe)


def _explain(job: Job, checkpoints: RunCheckpoints, error: NotFiniteError) -> str:
  """What a user can do about it; the first process keeps the batch."""
  if not job.team.is_first:
    return str(error)
  last = checkpoints.latest()
  good = "there is no checkpoint yet" if last is None else f"step {last} is saved"
  batch = bad_batch.write(job.workdir, job.splits.train, job.config, error.step)
  return (
    f"{error}; {good}; the batch is in {job.folder.told(batch)}; try a lower "
    "config.optimizer.learning_rate or config.optimizer.clip_norm"
  )


def _open_log(job: Job, start: Start) -> RunLog:
  train = job.config.train
  return RunLog(
    job.workdir,
    start.step,
    train.num_steps,
    train.batch_size,
    start.validated,
    enabled=job.team.is_first,
  )


def _saved(folder: RunFolder) -> Folder:
  """Where the run's checkpoints are."""
  return folder.address / runs.CHECKPOINT_FOLDER


def _expect_given_weights(config: ConfigDict, workdir: Folder) -> None:
  """Fails, before anything else is done, if a fresh run's weights are not there."""
  checkpoints = workdir / runs.CHECKPOINT_FOLDER
  in_package = config.model.backbone_weights == blazepose.EMBEDDED
  of_backbone = "" if in_package else config.model.backbone_weights
  source = config.train.init_from or of_backbone
  if not source or any(path.name.isdecimal() for path in checkpoints.glob("*")):
    return
  if not runs.is_run(source):
    weight_files.locate(source)


def _given_weights(job: Job) -> Loaded | None:
  """What the config has a fresh run start from; `init_from` holds the backbone too."""
  config, source = job.config, job.config.train.init_from
  if not source and not config.model.backbone_weights:
    return None
  network = job.network
  like = setup.variable_shapes(network, config)
  if not source:
    of_backbone = blazepose if config.model.backbone == "blazepose" else imagenet
    return of_backbone.load(config.model.backbone_weights, like)
  if source == embedded.NAME:
    return Loaded(embedded.load_variables(network, like), 0, source)
  if not runs.is_run(source):
    return weight_files.load_metro(source, like)
  folder = orbax_folder.as_folder(source) / runs.CHECKPOINT_FOLDER
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
    name: {**arrays, **given.variables.get(name, {})}
    for name, arrays in fresh.variables.items()
  }
  return states.with_weights(fresh, variables)


def _start(job: Job, checkpoints: RunCheckpoints, optimizer: Any) -> Start:
  """The latest checkpoint's state and step, or the fresh state and 0."""
  config, network = job.config, job.network
  fresh = states.create(
    network.model,
    optimizer,
    network.template,
    config.data.image_px,
    config.seed,
    config.optimizer.ema_decay > 0,
  )

  def begin(fresh: states.TrainState) -> states.TrainState:
    if job.start_over:
      restarts.set_aside(job.folder)
    restarts.expect_unused(job.folder, config)
    runs.save_config(job.workdir, config)
    return _with_given(fresh, _given_weights(job))

  start = checkpoints.start(fresh, begin, job.start_over)
  if start.step:
    pipeline.restored_step(start.pipeline, job.splits.train, config)
    if job.team.is_first:
      restarts.go_on(job.folder, config, start)
  return start


def _due(step: int, every: int, last: int) -> bool:
  return step % every == 0 or step == last


def _validate(
  job: Job, state: states.TrainState, step: int, log: RunLog
) -> dict[str, float]:
  """Errors on the validation split, logged with a few pictures.

  Raises:
    Stopped: Between two batches, if the run was asked to stop; nothing is logged.
  """
  config, split = job.config, job.splits.validation
  log.pause()
  batches = pipeline.eval_batches(
    split, config, job.team.index, job.team.count, config.eval.max_examples
  )

  def between(batch: Any, done: Any) -> None:
    del batch, done
    if job.request.due():
      raise Stopped

  eval_step = second_pass.of_split(job.eval_step, split, config)
  results = evaluator.evaluate(eval_step, state.variables, batches, on_batch=between)
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
  workdir, report = job.workdir, job.folder.address / run_report.FILE
  if job.team.share("looking for the report", job.team.is_first and report.exists()):
    return  # it was complete, and nothing was trained
  run, splits = _best(job), job.splits
  config, step = run.config, run.step
  done = assessment.assess(
    run, job.eval_step, splits.test, splits.train, workdir, "test"
  )
  written = assessment.write(done, workdir, step)
  choices = examples.choose(done.results, config.train.pictures)
  drawn = examples.draw(
    job.eval_step,
    parallel.replicate(run.variables),
    splits.test,
    [choice.row for choice in choices],
    job.network.body.faces,
    config,
  )
  if not job.team.is_first:
    return
  pictures = examples.as_pictures(drawn, choices, "test")
  facts = {
    "Duration since the last start": tqdm.tqdm.format_interval(time.time() - started),
    **restarts.facts(run.earlier),
  }
  report = run_report.write(workdir, config, done, pictures, step, facts)
  print(done.table())
  print(job.folder.told(f"\nWritten to {written} and {report}"))


def _best(job: Job) -> runs.Run:
  """The run's best checkpoint, read by the first process."""
  like = setup.variable_shapes(job.network, job.config)
  facts = None
  if job.team.is_first:
    best = checkpoint.restore_variables(_saved(job.folder), "best", like)
    variables, meta = best.tree, best.meta
    facts = [best.step, meta["config"], meta.get("earlier", [])]
  else:
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  step, stored, earlier = job.team.share("reading the best checkpoint", facts)
  config = runs.trained_with(job.config, stored)
  return runs.Run(config, job.network, job.team.spread(variables), step, earlier)


def main(arguments: list[str]) -> int:
  command_line.expect_no_arguments(arguments)
  command_line.keep_memory()
  with StopRequest(FLAGS.stopped_exit_code) as request:
    try:
      return 0 if _run(request) else FLAGS.stopped_exit_code
    except Stopped:
      request.leave()


def _run(request: StopRequest) -> bool:
  """Joins the other processes and trains; whether the run reached its end."""
  base.validate(FLAGS.config)
  bucket.expect_usable(FLAGS.workdir)
  bucket.expect_usable(FLAGS.config.train.init_from, writes=False)
  team = processes.join(processes.find(), FLAGS.config.train.wait_limit_s)
  request.share(team)
  try:
    with watch.Watch(team):
      team.limit_s = LONG_LIMIT_S  # the watch finds out sooner who is gone
      finished = train(FLAGS.config, FLAGS.workdir, team, request, FLAGS.start_over)
      team.meet("ending the run")
  except (Exception, KeyboardInterrupt) as error:
    if request.ends_at_once():
      raise Stopped from error  # such as a process that has ended, as it was asked to
    if team.count == 1 and not isinstance(error, watch.StalledError):
      raise
    # An ordinary exit waits for threads and processes that may never answer.
    command_line.tell("train", error)
    watch.leave(1)
  return finished


if __name__ == "__main__":
  define_flags()
  command_line.run("train", main)
