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

from absl import flags
from ml_collections import ConfigDict, config_flags

from metro_jax import command_line
from metro_jax import config as base
from metro_jax.checkpoints import bucket, feature_maps, initial_weights, runs
from metro_jax.checkpoints.bucket import RunFolder
from metro_jax.checkpoints.run_checkpoints import RunCheckpoints, Start
from metro_jax.checkpoints.run_lock import RunLock
from metro_jax.cluster import consistency, parallel, processes, watch
from metro_jax.cluster.process_group import ProcessGroup
from metro_jax.cluster.stopping import Stopped, StopRequest
from metro_jax.data import datasets, pipeline
from metro_jax.data.batch import Batch
from metro_jax.evaluation import (
  assessment,
  evaluator,
  photograph_pictures,
  restarts,
  run_end,
  validation,
)
from metro_jax.models import setup
from metro_jax.planning import work
from metro_jax.training import bad_batch, logs
from metro_jax.training import optimizer as optimizers
from metro_jax.training import state as states
from metro_jax.training import step as steps
from metro_jax.training.goodput import Goodput
from metro_jax.training.logs import RunLog
from metro_jax.training.metric_window import MetricWindow, NotFiniteError

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
  team: ProcessGroup
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
  team: ProcessGroup | None = None,
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
  team = team or ProcessGroup()
  base.validate(config)
  datasets.expect_everything(config)
  photograph_pictures.expect_there(config.train.photographs)
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
  team: ProcessGroup,
  request: StopRequest,
  lock: RunLock,
  start_over: bool,
) -> bool:
  started = time.time()
  team.expect_same("settings, code and machines", consistency.setup(config))
  if team.is_first:
    initial_weights.expect_there(config, folder.address)
    folder.local.mkdir(parents=True, exist_ok=True)
  held_out = (config.data.validation, config.data.test)
  opened = (datasets.open_split(config, name) for name in held_out)
  splits = Splits(datasets.open_training(config), *opened)
  if team.count > 1:
    team.expect_same("data", consistency.data(splits))
  parallel.check_batch_size("train.batch_size", config.train.batch_size)
  parallel.check_batch_size("eval.batch_size", config.eval.batch_size)
  network = setup.build(config)
  true_joints, mapping = config.eval.true_joints, config.train.mapping
  eval_step = evaluator.map_eval_step(
    network.model, network.geometry, true_joints, None, mapping
  )
  what = (splits, network, eval_step)
  job = Job(config, folder, team, request, *what, lock, start_over)
  finished = _fit(job)
  if finished and not run_end.has_report(folder, team):
    best = run_end.read_best(config, network, folder, team)
    run_end.assess_and_report(
      best, eval_step, splits.test, splits.train, folder, started
    )
  return finished


def _fit(job: Job) -> bool:
  """Trains from the latest checkpoint on; returns whether the run reached its end."""
  config, model = job.config, job.network.model
  optimizer = optimizers.make_optimizer(config)
  train_step = parallel.map_step(
    steps.make_train_step(model, optimizer, config),
    job.network.geometry,
    donate=True,
    mapping=config.train.mapping,
  )
  folder = job.folder.address / runs.CHECKPOINT_FOLDER

  def publish() -> None:
    job.lock.expect_held()
    runs.save_config(job.workdir, config)  # of the steps that this checkpoint adds
    job.folder.copy()

  with RunCheckpoints(folder, config.train.keep_best, job.team, publish) as checkpoints:
    start = _start(job, checkpoints, optimizer)
    pending = _is_pending(start, config)
    if start.step >= config.train.num_steps and not pending:
      job.request.release()
      return True
    if config.data.map_views:
      variables, source = start.state.variables, job.splits.train
      job = job._replace(maps=feature_maps.open_maps(config, source, model, variables))
    extent = (start.step, config.train.num_steps, config.train.batch_size)
    is_first = job.team.is_first
    with RunLog(job.workdir, *extent, start.validated, is_first) as log:
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
  step, every, last = start.step, config.train.validate_every, config.train.num_steps
  return 0 < step <= last and _due(step, every, last) and not start.validated


def _loop(
  job: Job,
  train_step: Any,
  start: Start,
  checkpoints: RunCheckpoints,
  log: RunLog,
) -> tuple[int, bool]:
  """Steps to the end of the run; returns the last step, and whether asked to stop."""
  config, last, request = job.config, job.config.train.num_steps, job.request
  state, window = parallel.replicate(start.state), MetricWindow(config.data.train)
  step, stopped = start.step, False
  clock = Goodput(logs.read_metrics(job.workdir) if job.team.is_first else ())
  if _is_pending(start, config):
    with clock.during("validation"):
      missing = _validate(job, state, step, log)
    checkpoints.add_metrics(step, missing)
  batches = _batches(job, start.step)
  rate, earlier = optimizers.schedule(config), restarts.earlier(config, start)
  for step in range(start.step + 1, last + 1):
    with clock.during("input"):
      batch = next(batches)
    with clock.during("compiling" if step == start.step + 1 else "steps"):
      state, metrics = train_step(state, parallel.shard(batch))
      if step == start.step + 1:
        log.work = work.of_training(config, job.network, batch)
    window.add(metrics)
    log.tick(step)
    request.hold()  # a restart would have to make this step again
    stopped = request.due()
    validating = _due(step, config.train.validate_every, last) and not stopped
    saving = validating or stopped or _due(step, config.train.checkpoint_every, last)
    if saving or _due(step, config.train.log_every, last):
      means = window.mean(step)  # never saves what is not finite
      means["learning_rate"] = float(rate(step - 1))
      log.train(step, means | clock.values())
    errors = None
    if validating:
      try:
        with clock.during("validation"):
          errors = _validate(job, state, step, log)
      except Stopped:
        stopped = True  # the next start validates first
    if saving:
      position = pipeline.saved_position(step, job.splits.train, config)
      with clock.during("saving"):
        checkpoints.save(state, step, position, errors, config.to_dict(), earlier)
    if stopped:
      break
  return step, stopped


def _batches(job: Job, first: int) -> Iterator[Batch]:
  """Makes this process's batches from step `first` + 1 on, each in time."""
  config, split, team = job.config, job.splits.train, job.team
  here = (team.index, team.count)
  batches = pipeline.train_batches(split, config, first, *here, maps=job.maps)

  def describe(number: int) -> str:
    return f"batch {first + number + 1} of {split.name}"

  return watch.in_time(batches, config.train.stall_limit_s, describe)


def _explain(job: Job, checkpoints: RunCheckpoints, error: NotFiniteError) -> str:
  """Says what a user can do about it; the first process keeps the batch."""
  if not job.team.is_first:
    return str(error)
  last = checkpoints.latest()
  good = "there is no checkpoint yet" if last is None else f"step {last} is saved"
  batch = bad_batch.write(job.workdir, job.splits.train, job.config, error.step)
  return (
    f"{error}; {good}; the batch is in {job.folder.display(batch)}; try a lower "
    "config.optimizer.learning_rate or config.optimizer.clip_norm"
  )


def _start(job: Job, checkpoints: RunCheckpoints, optimizer: Any) -> Start:
  """Reads the latest checkpoint's state and step, or makes the fresh state and 0."""
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
    given = initial_weights.load(config, network, fresh.variables)
    return states.with_weights(fresh, given.variables) if given else fresh

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
  """Measures the network on the validation split.

  Raises:
    Stopped: Between two batches, if the run was asked to stop; nothing is logged.
  """

  def on_batch() -> None:
    if job.request.due():
      raise Stopped

  split, faces = job.splits.validation, job.network.body.faces
  return validation.validate(
    job.eval_step, state.variables, split, job.config, faces, step, log, on_batch
  )


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
      team.barrier("ending the run")
  except (Exception, KeyboardInterrupt) as error:
    if request.ends_at_once():
      raise Stopped from error  # such as a process that has ended, as it was asked to
    if team.count == 1 and not isinstance(error, watch.StalledError):
      raise
    # An ordinary exit waits for threads and processes that may never answer.
    command_line.tell("train", error)
    watch.exit_now(1)
  return finished


if __name__ == "__main__":
  define_flags()
  command_line.run("train", main)
