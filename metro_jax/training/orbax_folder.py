"""How Orbax writes and reads one folder of checkpoints, and how damage shows.

Arrays are NumPy's and whole, so that Orbax need not know of other processes.
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax import traverse_util
from orbax.checkpoint import checkpoint_managers

from metro_jax import files
from metro_jax.training import manifest

Tree = Any  # a pytree of arrays
Folder = os.PathLike[str]  # pathlib's, or of a bucket, etils'
BEST_METRIC = "pa_mpjpe_mm"
COMMIT_FILE = "commit_success.txt"  # written last where nothing can be renamed
LATE_READS_S = 0.2  # how long reads may go on after one of them failed


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


def is_address(path: str | Folder) -> bool:
  """Whether it names a bucket's folder rather than one of this machine."""
  return "://" in os.fspath(path)


def as_folder(folder: str | Folder) -> Any:
  """An absolute path of this machine, or a bucket's such as "gs://bucket/run"."""
  if is_address(folder):
    return epath.Path(folder)
  return pathlib.Path(folder).expanduser().absolute()


def unfinished(folder: Folder) -> list[Folder]:
  """Checkpoints in a bucket whose save did not end; elsewhere Orbax renames."""
  if isinstance(folder, pathlib.Path) or not folder.exists():
    return []
  return [
    path
    for path in folder.iterdir()
    if path.name.isdecimal() and not (path / COMMIT_FILE).exists()
  ]


class DamagedError(Exception):
  """What is on disk is not what was saved."""


def rank(metrics: Mapping[str, float] | None) -> float:
  """Higher is better; without the metric, or with NaN, worst."""
  value = (metrics or {}).get(BEST_METRIC, np.nan)
  return -np.inf if np.isnan(value) else -value


def open_manager(
  folder: Folder, keep_best: int, read_only: bool = False
) -> ocp.CheckpointManager:
  keep = checkpoint_managers.AnyPreservationPolicy(
    [
      checkpoint_managers.LatestN(1),
      checkpoint_managers.BestN(
        get_metric_fn=rank,
        n=keep_best,
        keep_checkpoints_without_metrics=False,  # those half deleted when killed
      ),
    ]
  )
  with quiet():
    options = ocp.CheckpointManagerOptions(
      best_fn=rank,  # without it the metrics are not written
      preservation_policy=keep,
      enable_async_checkpointing=False,  # our thread hashes, then saves
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=False,  # made by the caller
      multiprocessing_options=_by_itself(),
    )
    return ocp.CheckpointManager(folder, options=options, item_handlers=_handlers())


def _handlers() -> dict[str, ocp.CheckpointHandler]:
  """Orbax's own, but nothing is compressed: it would take a core from the steps.

  Trained weights hardly shrink; compressed or not, a checkpoint is read alike.
  """
  by_itself = _by_itself()
  return {
    "state": ocp.PyTreeCheckpointHandler(
      use_compression=False, multiprocessing_options=by_itself
    ),
    "meta": ocp.JsonCheckpointHandler(multiprocessing_options=by_itself),
  }


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


def read(
  manager: ocp.CheckpointManager,
  folder: Folder,
  step: int,
  like: Tree | None,
  parts: tuple[str, ...] = (),
  averaged: bool = False,
) -> Restored:
  """Reads the arrays whose keys start with one of `parts`, or all, and checks them."""
  meta = read_meta(manager, folder, step)
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


def read_meta(
  manager: ocp.CheckpointManager, folder: Folder, step: int
) -> dict[str, Any]:
  with _damage(folder, step):
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    meta = manager.restore(step, args=args)["meta"]
    missing = {"pipeline", "metrics", "config", "versions", "arrays"} - set(meta)
    if missing:
      raise ValueError(f"meta lacks {sorted(missing)}")
    return meta


def write_metrics(checkpoint: Folder, metrics: Mapping[str, float]) -> None:
  """Writes the metrics of a checkpoint that was saved without, Orbax's copy first."""
  values = {k: float(v) for k, v in metrics.items()}
  meta = checkpoint / "meta" / "metadata"
  content = json.loads(meta.read_text()) | {"metrics": values}
  for path, value in ((checkpoint / "metrics" / "metrics", values), (meta, content)):
    if isinstance(path, pathlib.Path):
      with files.replacing(path) as partial:
        partial.write_text(json.dumps(value))
    else:
      path.write_text(json.dumps(value))  # an object appears whole


@contextlib.contextmanager
def _damage(folder: Folder, step: int) -> Iterator[None]:
  """Turns whatever a reader raises into a line that names the checkpoint."""
  hook = sys.unraisablehook

  def without_late_reads(event: Any) -> None:
    # After one array fails, Orbax leaves the reads of the others to a closed loop.
    if str(event.exc_value) != "Event loop is closed":
      hook(event)

  sys.unraisablehook = without_late_reads
  try:
    with quiet():
      yield
  except Exception as error:
    time.sleep(LATE_READS_S)
    reason = " ".join(str(error).split())[:200]
    path = folder / str(step)
    raise DamagedError(f"checkpoint {path} is damaged: {reason}") from error
  finally:
    sys.unraisablehook = hook


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Without Orbax's remarks on its options and its own traces of what it raises."""

  def not_from_orbax(record: Any) -> bool:
    return "orbax" not in record.pathname

  logger = logging.get_absl_logger()
  logger.addFilter(not_from_orbax)
  try:
    yield
  finally:
    logger.removeFilter(not_from_orbax)
