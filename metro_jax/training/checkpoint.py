"""Checkpoints: saved behind the training's back, checked when they are read.

One folder holds a numbered checkpoint a step: the latest and the best by PA-MPJPE.
Each holds `state` (nested dicts of arrays) and `meta` (pipeline position, metrics,
config, versions, and of every array shape, type and hash). Orbax writes aside and
renames, or in a bucket writes a last file that makes the others count, so a checkpoint
is there or it is not, and whatever stops a save, the ones before it stay. Orbax does
not notice a changed bit in an array; the hashes do.
"""

import importlib.metadata
import os
import pathlib
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from types import TracebackType
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util

from metro_jax.training import manifest, orbax_folder
from metro_jax.training.manifest import ArchitectureError as ArchitectureError
from metro_jax.training.orbax_folder import Folder, Restored

Tree = Any  # a pytree of arrays
PACKAGES = ("metro_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
VARIABLES = ("params", "batch_stats")
LOWEST_PRIORITY = 19  # of a thread, as `nice` counts
FREE_BYTES = 64 * 2**20  # left over after a save, for logs and pictures


class CheckpointError(OSError):
  """A checkpoint could not be written; those before it are as they were."""


class Checkpoints:
  """The checkpoints of one run; a context manager that finishes the last save.

  Args:
    folder: Where they live, also in a bucket; made if it does not exist.
    keep_best: How many to keep for their PA-MPJPE beside the latest.
    before_save: Called, behind the training's back, before each is written.
  """

  def __init__(
    self,
    folder: str | Folder,
    keep_best: int = 1,
    before_save: Callable[[], None] | None = None,
  ):
    self._folder = orbax_folder.as_folder(folder)
    self._before_save = before_save or (lambda: None)
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      for rest in orbax_folder.unfinished(self._folder):
        logging.warning("checkpoint %s was never finished; removed", rest)
        _remove(rest)
      self._manager = orbax_folder.open_manager(self._folder, keep_best)
    except OSError as error:
      raise CheckpointError(_cannot_write(self._folder, error)) from error
    self._thread = futures.ThreadPoolExecutor(1, "checkpoint", _yield_to_training)
    self._saving: futures.Future[None] | None = None

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    try:
      self.wait()
    except CheckpointError as lost:
      if error is None:
        raise
      logging.error("%s", lost)  # the first error is the one to show
    finally:
      self._thread.shutdown()
      self._manager.close()

  def steps(self) -> list[int]:
    """The steps that have a checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    state: Tree,
    step: int,
    pipeline: Any,
    metrics: Mapping[str, float] | None = None,
    config: Mapping[str, Any] | None = None,
  ) -> None:
    """Starts to write a checkpoint and returns; waits only for the save before it.

    Args:
      state: NumPy arrays that nobody changes any more (`parallel.unreplicate`).
      step: Updates made so far; names the checkpoint.
      pipeline: The input pipeline's position; anything that JSON holds.
      metrics: Validation errors; "pa_mpjpe_mm" ranks the checkpoint.
      config: The run's config as plain values.

    Raises:
      CheckpointError: If the save before this one failed.
    """
    self.wait()
    if step in self._manager.all_steps():
      return
    metrics = {k: float(v) for k, v in (metrics or {}).items()}
    meta = {
      "pipeline": pipeline,
      "metrics": metrics,
      "config": config,
      "versions": versions(),
    }
    self._saving = self._thread.submit(self._write, manifest.flatten(state), step, meta)

  def wait(self) -> None:
    """Returns when the last save is on disk.

    Raises:
      CheckpointError: If it failed, naming the folder and the last good checkpoint.
    """
    saving = self._saving
    if saving is not None:
      futures.wait([saving])  # also for another thread that ends the process
      self._saving = None
      saving.result()

  def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Gives a checkpoint that was saved before its validation the errors.

    Args:
      step: Of the checkpoint.
      metrics: As for `save`.
    """
    self.wait()
    orbax_folder.write_metrics(self._folder / str(step), metrics)
    self._manager.reload()

  def restore(self, state: Tree) -> Restored | None:
    """The latest good checkpoint, to go on from.

    A damaged one is set aside as `<step>.damaged`, with a warning, and the one before
    it is tried.

    Args:
      state: A state like the one saved; only structure, shapes and types count.

    Returns:
      The checkpoint, or None if the folder has none.

    Raises:
      ArchitectureError: If it is of another network or optimizer.
      ValueError: If there are checkpoints but all are damaged.
    """
    self.wait()
    steps = self.steps()
    for step in reversed(steps):
      try:
        return orbax_folder.read(self._manager, self._folder, step, state)
      except orbax_folder.DamagedError as damage:
        self._set_aside(step)
        logging.warning("%s; set aside as %d.damaged", damage, step)
    if steps:
      raise ValueError(f"checkpoints in {self._folder}: all are damaged ({steps})")
    return None

  def _write(self, flat: dict[str, np.ndarray], step: int, meta: dict) -> None:
    """Runs in the thread."""
    try:
      self._before_save()
      _expect_space(self._folder, sum(x.nbytes for x in flat.values()))
      meta["arrays"] = {key: manifest.describe(x) for key, x in flat.items()}
      state = traverse_util.unflatten_dict(flat, sep="/")
      items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
      )
      with orbax_folder.quiet():
        self._manager.save(step, args=items, metrics=meta["metrics"], force=True)
    except Exception as error:
      try:
        self._clean_up(step)
      except Exception as rest:  # a bucket that is out of order
        logging.warning("checkpoints in %s: cannot clean up (%s)", self._folder, rest)
      kept = max(self.steps(), default=None)
      now = "there is none yet" if kept is None else f"step {kept} is the last good one"
      raise CheckpointError(
        f"{_cannot_write(self._folder, error)} at step {step}; {now}"
      ) from error

  def _clean_up(self, step: int) -> None:
    """Removes what a failed save left, so that it does not fill the disk.

    In a bucket the next start does: arrays may still be on their way there.
    """
    for rest in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
      _remove(rest)
    self._manager.reload()

  def _set_aside(self, step: int) -> None:
    aside = self._folder / f"{step}.damaged"
    _remove(aside)
    (self._folder / str(step)).rename(aside)
    self._manager.reload()


def restore_variables(
  folder: str | Folder,
  which: str | int = "best",
  like: Tree | None = None,
  averaged: bool = True,
) -> Restored:
  """The network's parameters and BatchNorm statistics, without the optimizer's state.

  Only reads, also while a training writes to the folder. If "best" or "latest" is
  damaged the next good one is taken, with a warning.

  Args:
    folder: A run's checkpoints.
    which: "best" by PA-MPJPE, "latest", or a step.
    like: {"params", "batch_stats"} as the network wants them (arrays or
      `jax.ShapeDtypeStruct`s); None takes what is there.
    averaged: Whether averaged parameters, where the run kept them, are taken for
      the last ones.

  Returns:
    The checkpoint; its tree is {"params": ..., "batch_stats": ...}.

  Raises:
    FileNotFoundError: If there is no checkpoint, or not that step.
    ArchitectureError: If it is of another network than `like`.
    ValueError: If it is damaged and no other can stand in.
  """
  folder = orbax_folder.as_folder(folder)
  if not folder.is_dir():
    raise FileNotFoundError(f"checkpoints: expected a folder, got {folder}")
  with orbax_folder.open_manager(folder, 1, read_only=True) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(f"checkpoints: expected some in {folder}, found none")
    order = _order(manager, folder, steps, which)
    for step in order:
      try:
        return orbax_folder.read(manager, folder, step, like, VARIABLES, averaged)
      except orbax_folder.DamagedError as damage:
        if isinstance(which, int):
          raise ValueError(str(damage)) from damage
        logging.warning("%s; trying the next best", damage)
  raise ValueError(f"checkpoints in {folder}: all are damaged ({steps})")


def _order(
  manager: ocp.CheckpointManager,
  folder: str | Folder,
  steps: list[int],
  which: str | int,
) -> list[int]:
  """Which steps to try, first choice first; `steps` are newest first."""
  if which == "latest":
    return steps
  if which == "best":

    def rank(step: int) -> float:
      try:
        return orbax_folder.rank(
          orbax_folder.read_meta(manager, folder, step)["metrics"]
        )
      except orbax_folder.DamagedError:
        return -np.inf

    return sorted(steps, key=rank, reverse=True)
  if not isinstance(which, int):
    raise ValueError(f"checkpoint: expected best, latest or a step, got {which!r}")
  if which not in steps:
    raise FileNotFoundError(
      f"checkpoint: expected one of the steps {sorted(steps)} in {folder}, got {which}"
    )
  return [which]


def _yield_to_training() -> None:
  """Lets this thread, and those that it starts, have only what the steps leave."""
  if sys.platform == "linux":  # where a thread has a priority of its own
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


def _remove(folder: Folder) -> None:
  if isinstance(folder, pathlib.Path):
    shutil.rmtree(folder, ignore_errors=True)
  else:
    folder.rmtree(missing_ok=True)


def _expect_space(folder: Folder, size: int) -> None:
  if not isinstance(folder, pathlib.Path):
    return  # a bucket
  free = shutil.disk_usage(folder).free
  if free < size + FREE_BYTES:
    raise OSError(f"disk full: expected {size + FREE_BYTES:,} bytes free, got {free:,}")


def _cannot_write(folder: str | Folder, error: Exception) -> str:
  reason = " ".join(str(error).split())[:200]
  if "No space left on device" in str(error):
    reason = "disk full"
  return f"checkpoints in {folder}: cannot write ({reason})"


def versions() -> dict[str, str]:
  """Of the packages that a result depends on, by name."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  return found
