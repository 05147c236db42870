"""Checkpoints: saved behind the training's back, checked when they are read.

One folder holds a numbered checkpoint a step: the latest and the best by PA-MPJPE.
Each holds `state` (nested dicts of arrays) and `meta` (pipeline position, metrics,
config, versions, and of every array shape, type and hash). Orbax writes aside and
renames, so a checkpoint is there or it is not, and whatever stops a save, the ones
before it stay. Orbax does not notice a changed bit in an array; the hashes do.
"""

import contextlib
import importlib.metadata
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from metro_jax.training import manifest
from metro_jax.training.manifest import ArchitectureError as ArchitectureError

Tree = Any  # a pytree of arrays
BEST_METRIC = "pa_mpjpe_mm"
PACKAGES = ("metro_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
VARIABLES = ("params", "batch_stats")
FREE_BYTES = 64 * 2**20  # left over after a save, for logs and pictures
LATE_READS_S = 0.2  # how long reads may go on after one of them failed


class CheckpointError(OSError):
  """A checkpoint could not be written; those before it are as they were."""


class Restored(NamedTuple):
  """A checkpoint as read.

  Attributes:
    tree: NumPy arrays in the structure that was asked for.
    step: The number of the checkpoint.
    pipeline: The input pipeline's position, as saved.
    meta: Everything else: "config", "metrics", "versions", "arrays".
  """

  tree: Tree
  step: int
  pipeline: Any
  meta: dict[str, Any]


class Checkpoints:
  """The checkpoints of one run; a context manager that finishes the last save.

  Args:
    folder: Where they live; made if it does not exist.
    keep_best: How many to keep for their PA-MPJPE beside the latest.
  """

  def __init__(self, folder: pathlib.Path, keep_best: int = 1):
    self._folder = pathlib.Path(folder).absolute()
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._manager = _manager(self._folder, keep_best)
    except OSError as error:
      raise CheckpointError(_cannot_write(self._folder, error)) from error
    self._thread = futures.ThreadPoolExecutor(1, "checkpoint")
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
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

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
        return _read(self._manager, self._folder, step, state)
      except _DamagedError as damage:
        self._set_aside(step)
        logging.warning("%s; set aside as %d.damaged", damage, step)
    if steps:
      raise ValueError(f"checkpoints in {self._folder}: all are damaged ({steps})")
    return None

  def _write(self, flat: dict[str, np.ndarray], step: int, meta: dict) -> None:
    """Runs in the thread."""
    try:
      _expect_space(self._folder, sum(x.nbytes for x in flat.values()))
      meta["arrays"] = {key: manifest.describe(x) for key, x in flat.items()}
      state = traverse_util.unflatten_dict(flat, sep="/")
      items = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
      )
      with _quiet():
        self._manager.save(step, args=items, metrics=meta["metrics"], force=True)
    except Exception as error:
      self._clean_up(step)
      kept = max(self.steps(), default=None)
      now = "there is none yet" if kept is None else f"step {kept} is the last good one"
      raise CheckpointError(
        f"{_cannot_write(self._folder, error)} at step {step}; {now}"
      ) from error

  def _clean_up(self, step: int) -> None:
    """Removes what a failed save left, so that it does not fill the disk."""
    for rest in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
      shutil.rmtree(rest, ignore_errors=True)
    self._manager.reload()

  def _set_aside(self, step: int) -> None:
    aside = self._folder / f"{step}.damaged"
    shutil.rmtree(aside, ignore_errors=True)
    (self._folder / str(step)).rename(aside)
    self._manager.reload()


def restore_variables(
  folder: pathlib.Path,
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
  folder = pathlib.Path(folder).absolute()
  if not folder.is_dir():
    raise FileNotFoundError(f"checkpoints: expected a folder, got {folder}")
  with _manager(folder, 1, read_only=True) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(f"checkpoints: expected some in {folder}, found none")
    order = _order(manager, folder, steps, which)
    for step in order:
      try:
        return _read(manager, folder, step, like, VARIABLES, averaged)
      except _DamagedError as damage:
        if isinstance(which, int):
          raise ValueError(str(damage)) from damage
        logging.warning("%s; trying the next best", damage)
  raise ValueError(f"checkpoints in {folder}: all are damaged ({steps})")


class _DamagedError(Exception):
  """What is on disk is not what was saved."""


def _rank(metrics: Mapping[str, float] | None) -> float:
  """Higher is better; without the metric, or with NaN, worst."""
  value = (metrics or {}).get(BEST_METRIC, np.nan)
  return -np.inf if np.isnan(value) else -value


def _manager(
  folder: pathlib.Path, keep_best: int, read_only: bool = False
) -> ocp.CheckpointManager:
  keep = checkpoint_managers.AnyPreservationPolicy(
    [
      checkpoint_managers.LatestN(1),
      checkpoint_managers.BestN(
        get_metric_fn=_rank,
        n=keep_best,
        keep_checkpoints_without_metrics=False,  # those half deleted when killed
      ),
    ]
  )
  with _quiet():
    options = ocp.CheckpointManagerOptions(
      best_fn=_rank,  # without it the metrics are not written
      preservation_policy=keep,
      enable_async_checkpointing=False,  # our thread hashes, then saves
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=False,  # made by the caller
      multiprocessing_options=_by_itself(),
    )
    return ocp.CheckpointManager(folder, options=options)


def _by_itself() -> ocp.options.MultiprocessingOptions:
  """Has Orbax wait for no other process: NumPy arrays are whole in every one."""
  here, count = jax.process_index(), jax.process_count()
  if count == 1:
    return ocp.options.MultiprocessingOptions()
  return ocp.options.MultiprocessingOptions(
    primary_host=here,
    active_processes={here},
    barrier_sync_key_prefix=f"metro_jax_{here}",
  )


def _order(
  manager: ocp.CheckpointManager,
  folder: pathlib.Path,
  steps: list[int],
  which: str | int,
) -> list[int]:
  """Which steps to try, first choice first; `steps` are newest first."""
  if which == "latest":
    return steps
  if which == "best":

    def rank(step: int) -> float:
      try:
        return _rank(_meta(manager, folder, step)["metrics"])
      except _DamagedError:
        return -np.inf

    return sorted(steps, key=rank, reverse=True)
  if not isinstance(which, int):
    raise ValueError(f"checkpoint: expected best, latest or a step, got {which!r}")
  if which not in steps:
    raise FileNotFoundError(
      f"checkpoint: expected one of the steps {sorted(steps)} in {folder}, got {which}"
    )
  return [which]


def _read(
  manager: ocp.CheckpointManager,
  folder: pathlib.Path,
  step: int,
  like: Tree | None,
  parts: tuple[str, ...] = (),
  averaged: bool = False,
) -> Restored:
  """Reads the arrays whose keys start with one of `parts`, or all, and checks them."""
  meta = _meta(manager, folder, step)
  names = _names(meta["arrays"], parts, averaged)
  stored = {key: meta["arrays"][key] for key in names}
  if like is not None:
    where, named = f"checkpoint {folder / str(step)}", manifest.flatten(like)
    manifest.expect_same(where, named, {names[k]: a for k, a in stored.items()})
  wanted = {k: np.empty(a["shape"], np.dtype(a["dtype"])) for k, a in stored.items()}
  target = traverse_util.unflatten_dict(wanted, sep="/")
  restore = ocp.args.PyTreeRestore(
    item=target,
    restore_args=ocp.checkpoint_utils.construct_restore_args(target),
    partial_restore=True,
  )
  with _damage(folder, step):
    tree = manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
    flat = manifest.flatten(tree)
    for key, array in stored.items():
      if manifest.describe(flat[key]) != array:
        raise ValueError(f"{key} differs from what was saved")
  flat = {name: flat[key] for key, name in names.items()}
  found = {part: {} for part in parts} | traverse_util.unflatten_dict(flat, sep="/")
  tree = found if like is None else manifest.fill(like, flat)
  return Restored(tree, step, meta.pop("pipeline"), meta)


def _names(
  arrays: Mapping[str, Any], parts: tuple[str, ...], averaged: bool
) -> dict[str, str]:
  """The arrays to read, and what each is called in the result."""
  names = {key: key for key in arrays if not parts or key.split("/")[0] in parts}
  averages = [key for key in arrays if key.startswith("ema/")] if averaged else []
  for key in averages:
    name = "params/" + key.removeprefix("ema/")
    del names[name]
    names[key] = name
  return names


def _meta(
  manager: ocp.CheckpointManager, folder: pathlib.Path, step: int
) -> dict[str, Any]:
  with _damage(folder, step):
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = manager.restore(step, args=args)["meta"]
    missing = {"pipeline", "metrics", "config", "versions", "arrays"} - set(meta)
    if missing:
      raise ValueError(f"meta lacks {sorted(missing)}")
    return meta


@contextlib.contextmanager
def _damage(folder: pathlib.Path, step: int) -> Iterator[None]:
  """Turns whatever a reader raises into a line that names the checkpoint."""
  hook = sys.unraisablehook

  def without_late_reads(event: Any) -> None:
    # After one array fails, Orbax leaves the reads of the others to a closed loop.
    if str(event.exc_value) != "Event loop is closed":
      hook(event)

  sys.unraisablehook = without_late_reads
  try:
    with _quiet():
      yield
  except Exception as error:
    time.sleep(LATE_READS_S)
    reason = " ".join(str(error).split())[:200]
    path = folder / str(step)
    raise _DamagedError(f"checkpoint {path} is damaged: {reason}") from error
  finally:
    sys.unraisablehook = hook


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without Orbax's remarks on its options and its own traces of what it raises."""

  def not_from_orbax(record: Any) -> bool:
    return "orbax" not in record.pathname

  logger = logging.get_absl_logger()
  logger.addFilter(not_from_orbax)
  try:
    yield
  finally:
    logger.removeFilter(not_from_orbax)


def _expect_space(folder: pathlib.Path, size: int) -> None:
  free = shutil.disk_usage(folder).free
  if free < size + FREE_BYTES:
    raise OSError(f"disk full: expected {size + FREE_BYTES:,} bytes free, got {free:,}")


def _cannot_write(folder: pathlib.Path, error: Exception) -> str:
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
