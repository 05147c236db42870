"""Checkpoints: saved behind the training's back, checked when they are read.

One folder holds a numbered checkpoint a step: the latest and the best by PA-MPJPE.
Each holds `state` (nested dicts of arrays) and `meta` (pipeline position, metrics,
config, versions, and of every array shape, type and hash). Orbax writes aside and
renames, or in a bucket writes a last file that makes the others count, so a checkpoint
is there or it is not, and whatever stops a save, the ones before it stay. Orbax does
not notice a changed bit in an array; the hashes do.
"""

import json
import os
import pathlib
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util

from metro_jax import folders, versions
from metro_jax.checkpoints import manifest, orbax_folder, patience
from metro_jax.checkpoints.manifest import ArchitectureError as ArchitectureError
from metro_jax.checkpoints.orbax_folder import Restored
from metro_jax.folders import Folder
from metro_jax.text_files import one_line

Tree = Any  # a pytree of arrays
VARIABLES = ("params", "batch_stats")
START_OVER = "--start_over"  # the flag of `train`
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
    self._folder = folders.as_folder(folder)
    self._before_save = before_save or (lambda: None)
    self._keep = orbax_folder.Keep(self._folder, keep_best)
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      for rest in orbax_folder.unfinished(self._folder):
        logging.warning("checkpoint %s was never finished; removed", rest)
        _remove(rest)
      self._manager = orbax_folder.open_manager(self._folder, self._keep)
    except patience.UnreadableError:
      raise
    except OSError as error:
      raise CheckpointError(_cannot_write(self._folder, error)) from error
    self._thread = futures.ThreadPoolExecutor(1, "checkpoint", _yield_to_training)
    self._saving: futures.Future[None] | None = None

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc: object) -> None:
    try:
      self.wait()
    except CheckpointError as lost:
      if exc[1] is None:
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
    earlier: Sequence[Mapping[str, Any]] = (),
  ) -> None:
    """Starts to write a checkpoint and returns; waits only for the save before it.

    Args:
      state: NumPy arrays that nobody changes any more (`parallel.unreplicate`).
      step: Updates made so far; names the checkpoint.
      pipeline: The input pipeline's position; anything that JSON holds.
      metrics: Validation errors; "pa_mpjpe_mm" ranks the checkpoint.
      config: The run's config as plain values.
      earlier: What steps before were made with, where that differs.

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
      "earlier": list(earlier),
      "versions": versions.installed(),
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
    orbax_folder.write_metrics(self._folder, step, metrics)
    self._keep.note(step, metrics)

  def restore(self, state: Tree, start_over: bool = False) -> Restored | None:
    """The latest good checkpoint, to go on from.

    If the latest are damaged, the one before is taken, and then, with a warning, they
    are set aside as `<step>.damaged`. Nothing is set aside for any other reason.

    Args:
      state: A state like the one saved; only structure, shapes and types count.
      start_over: Whether a run may begin anew beside checkpoints that are damaged.

    Returns:
      The checkpoint, or None if the folder has none.

    Raises:
      ArchitectureError: If it is of another network or optimizer.
      ValueError: If there are checkpoints, or what is left of some, but no good one.
      UnreadableError: If the latest cannot be read now.
    """
    self.wait()
    steps, restored = self.steps(), None
    damaged: list[tuple[int, str]] = []
    while restored is None and len(damaged) < len(steps):
      step = steps[-1 - len(damaged)]
      try:
        restored = orbax_folder.read(self._manager, self._folder, step, state)
      except orbax_folder.DamagedError as damage:
        damaged.append((step, str(damage)))
    if restored is None and not start_over:
      _expect_nothing(self._folder, steps)
    for step, what in damaged:
      logging.warning("%s; set aside as %s", what, self._set_aside(step))
    return restored

  def _write(self, flat: dict[str, np.ndarray], step: int, meta: dict) -> None:
    """Runs in the thread."""
    try:
      self._before_save()
      _expect_space(self._folder, sum(x.nbytes for x in flat.values()))
      meta["arrays"] = {key: manifest.describe(x) for key, x in flat.items()}
      meta = json.loads(json.dumps(meta))  # as it is read back
      meta["digest"] = manifest.digest(meta)
      state = traverse_util.unflatten_dict(flat, sep="/")
      self._keep.note(step, meta["metrics"])
      items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
      )
      with orbax_folder.quiet():
        self._manager.save(step, args=items, force=True)
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
    self._reopen()

  def _set_aside(self, step: int) -> str:
    """Renames a checkpoint; its new name."""
    name, count = f"{step}.damaged", 1
    while (self._folder / name).exists():
      name, count = f"{step}.damaged.{count}", count + 1
    (self._folder / str(step)).rename(self._folder / name)
    self._reopen()
    return name

  def _reopen(self) -> None:
    """Has Orbax list the folder again."""
    self._manager.close()
    self._manager = orbax_folder.open_manager(self._folder, self._keep)


def restore_variables(
  folder: str | Folder,
  which: str | int = "best",
  like: Tree | None = None,
  averaged: bool = True,
) -> Restored:
  """The network's parameters and BatchNorm statistics, without the optimizer's state.

  Only reads, also while a training writes to the folder. If "best" or "latest" is
  damaged the next good one is taken, with a warning that says which.

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
    UnreadableError: If it cannot be read now.
  """
  folder = folders.as_folder(folder)
  try:
    steps = sorted(orbax_folder.list_steps(folder), reverse=True)
  except folders.MISSING as error:
    raise FileNotFoundError(f"checkpoints: expected a folder, got {folder}") from error
  if not steps:
    raise FileNotFoundError(f"checkpoints: expected some in {folder}, found none")
  order, damaged = _order(folder, steps, which)
  with orbax_folder.open_manager(folder, read_only=True) as manager:
    for step in order:
      try:
        found = orbax_folder.read(manager, folder, step, like, VARIABLES, averaged)
      except orbax_folder.DamagedError as damage:
        if isinstance(which, int):
          raise ValueError(str(damage)) from damage
        damaged[step] = str(damage)
      else:
        for what in damaged.values():
          logging.warning("%s; step %d is taken for the %s", what, step, which)
        return found
  raise ValueError(f"checkpoints in {folder}: all are damaged ({steps})")


def as_like(restored: Restored, like: Tree, where: str | Folder) -> Tree:
  """Checks the variables of `restore_variables` against a network's.

  Args:
    restored: As read without `like`.
    like: {"params", "batch_stats"} as the network wants them.
    where: The run, for the message.

  Returns:
    The variables in the structure of `like`.

  Raises:
    ArchitectureError: If they are of another network.
  """
  where = f"{where}, step {restored.step}"
  return manifest.fit(like, manifest.flatten(restored.tree), where)


def _order(
  folder: Folder, steps: list[int], which: str | int
) -> tuple[list[int], dict[int, str]]:
  """Which steps to try, first choice first, and those already known to be damaged.

  `steps` are newest first.
  """
  if which == "latest":
    return steps, {}
  if which == "best":
    ranks, damaged = {}, {}
    for step in steps:
      try:
        metrics = orbax_folder.read_meta(folder, step)["metrics"]
      except orbax_folder.DamagedError as damage:
        damaged[step] = str(damage)
      else:
        ranks[step] = orbax_folder.rank(metrics)
    return sorted(ranks, key=ranks.__getitem__, reverse=True), damaged
  if not isinstance(which, int):
    raise ValueError(f"checkpoint: expected best, latest or a step, got {which!r}")
  if which not in steps:
    raise FileNotFoundError(
      f"checkpoint: expected one of the steps {sorted(steps)} in {folder}, got {which}"
    )
  return [which], {}


def _expect_nothing(folder: Folder, steps: list[int]) -> None:
  """Refuses to begin a run where an earlier one's checkpoints are or were."""
  if steps:
    raise ValueError(
      f"checkpoints in {folder}: all are damaged ({steps}) and left as they are; "
      f"{START_OVER} begins at step 0 and sets them aside"
    )
  names = [path.name for path in orbax_folder.list_folder(folder)]
  rests = sorted(name for name in names if _is_rest(name))
  if rests:
    raise ValueError(
      f"checkpoints in {folder}: expected none or a good one, found only what is left "
      f"of some ({', '.join(rests[:5])}); {START_OVER} begins at step 0 beside them"
    )


def _is_rest(name: str) -> bool:
  """Whether a file belongs to a checkpoint, and not to a first save that was killed."""
  return name.split(".")[0].isdecimal() and "orbax-checkpoint-tmp" not in name


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
  reason = one_line(error)
  if "No space left on device" in str(error):
    reason = "disk full"
  return f"checkpoints in {folder}: cannot write ({reason})"
