"""How Orbax writes and reads one folder of checkpoints, and how damage shows.

Arrays are NumPy's and whole, so that Orbax need not know of other processes. Damage is
only what a hash, a shape, a parse or a missing file says; any other error says nothing
of a checkpoint, is met with patience, and then raised.
"""

import contextlib
import json
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util

from metro_jax import files
from metro_jax.checkpoints import manifest, patience
from metro_jax.folders import MISSING, Folder

Tree = Any  # a pytree of arrays
BEST_METRIC = "pa_mpjpe_mm"
COMMIT_FILE = "commit_success.txt"  # written last where nothing can be renamed
META_FILE = "metadata"
LATE_READS_S = 0.2  # how long reads may go on after one of them failed
# What tensorstore's texts begin with where bytes are there but wrong, or not there.
DAMAGE_CODES = ("DATA_LOSS", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION")
PARSE_ERRORS = (json.JSONDecodeError, UnicodeDecodeError, KeyError)
STEP_NAME = re.compile(r"0|[1-9]\d*")
NO_SUCH_FILE = "2"  # ENOENT, as tensorstore quotes the system


class Restored(NamedTuple):
  """A checkpoint as read.

  Attributes:
    tree: NumPy arrays in the structure that was asked for.
    step: The number of the checkpoint.
    pipeline: The input pipeline's position, as saved.
    meta: Everything else: "config", "earlier", "metrics", "versions", "arrays".
  """

  tree: Tree
  step: int
  pipeline: Any
  meta: dict[str, Any]


def list_steps(folder: Folder) -> list[int]:
  """The steps whose save ended, oldest first.

  Raises:
    FileNotFoundError: If there is no such folder.
    UnreadableError: If it cannot be listed.
  """
  return sorted(int(path.name) for path, finished in _saves(folder) if finished)


def unfinished(folder: Folder) -> list[Folder]:
  """Checkpoints in a bucket whose save did not end; elsewhere Orbax renames."""
  return [path for path, finished in _saves(folder) if not finished]


def list_folder(folder: Folder) -> list[Any]:
  """The paths in a folder; in a bucket, where there are no folders, perhaps none."""
  try:
    return list(folder.iterdir())
  except MISSING:
    if isinstance(folder, pathlib.Path):
      raise
    return []


def _saves(folder: Folder) -> list[tuple[Any, bool]]:
  """What is named like a step, and whether its save ended."""

  def look() -> list[tuple[Any, bool]]:
    found = [path for path in list_folder(folder) if STEP_NAME.fullmatch(path.name)]
    if isinstance(folder, pathlib.Path):
      return [(path, True) for path in found]
    # Listed, because asking whether a file exists can answer errors with "no".
    return [
      (path, COMMIT_FILE in {x.name for x in list_folder(path)}) for path in found
    ]

  return patience.patiently(f"checkpoints in {folder}", look, MISSING)


class DamagedError(Exception):
  """What is on disk is not what was saved."""


def rank(metrics: Mapping[str, float] | None) -> float:
  """Higher is better; without the metric, or with NaN, worst."""
  value = (metrics or {}).get(BEST_METRIC, np.nan)
  return -np.inf if np.isnan(value) else -value


class Keep:
  """Keeps the latest and the best, and whatever cannot be ranked just now.

  Args:
    folder: Of the checkpoints.
    best: How many to keep for their metric.
  """

  def __init__(self, folder: Folder, best: int):
    self._folder, self._best = folder, best
    self._metrics: dict[int, Mapping[str, float]] = {}

  def note(self, step: int, metrics: Mapping[str, float]) -> None:
    """Tells the metrics of a checkpoint that is about to be written."""
    self._metrics[step] = metrics

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Orbax's question, of checkpoints oldest first."""
    del context
    steps = [info.step for info in checkpoints]
    unknown = {step for step in steps if not self._knows(step)}
    ranked = [step for step in steps if self._metrics.get(step)]
    ranked.sort(key=lambda step: (rank(self._metrics[step]), step), reverse=True)
    kept = {*steps[-1:], *ranked[: self._best], *unknown}
    return [step in kept for step in steps]

  def _knows(self, step: int) -> bool:
    if step not in self._metrics:
      try:
        self._metrics[step] = _load_meta(self._folder, step)["metrics"]
      except DamagedError:
        self._metrics[step] = {}  # half deleted when killed
      except Exception as error:
        reason = patience.describe(error)
        logging.warning("checkpoint %s is kept (%s)", self._folder / str(step), reason)
        return False
    return True


def open_manager(
  folder: Folder, keep: Keep | None = None, read_only: bool = False
) -> ocp.CheckpointManager:
  """Orbax's manager of a folder that is there.

  Args:
    folder: Of the checkpoints.
    keep: Which to keep; None keeps all.
    read_only: Whether nothing is written or cleaned up.

  Raises:
    UnreadableError: If the folder cannot be listed.
  """

  def start() -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      enable_async_checkpointing=False,  # our thread hashes, then saves
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=False,  # made by the caller
      lightweight_initialize=True,  # its own metrics file is neither read nor written
      multiprocessing_options=_by_itself(),
    )
    manager = ocp.CheckpointManager(folder, options=options, item_handlers=_handlers())
    found, listed = sorted(manager.all_steps()), list_steps(folder)
    if found != listed:  # a bucket's errors can look like folders without files
      manager.close()
      raise OSError(f"expected the steps {listed}, found {found}")
    return manager

  with quiet():
    return patience.patiently(f"checkpoints in {folder}", start, MISSING)


def _handlers() -> dict[str, ocp.CheckpointHandler]:
  """Orbax's own, but nothing is compressed: it would take a core from the steps.

  Trained weights hardly shrink; compressed or not, a checkpoint is read alike.
  """
  by_itself = _by_itself()
  return {
    "state": ocp.PyTreeCheckpointHandler(
      use_compression=False, multiprocessing_options=by_itself
    ),
    "meta": ocp.JsonCheckpointHandler(META_FILE, multiprocessing_options=by_itself),
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
  """Reads the arrays whose keys start with one of `parts`, or all, and checks them.

  Raises:
    DamagedError: If what is stored is not what was saved.
    ArchitectureError: If it is of another network than `like`.
    UnreadableError: If it cannot be read now.
  """
  meta, where = read_meta(folder, step), f"checkpoint {folder / str(step)}"
  names = _names(meta["arrays"], parts, averaged)
  stored = {key: meta["arrays"][key] for key in names}
  if like is not None:
    named = manifest.flatten(like)
    manifest.expect_same(where, named, {names[k]: a for k, a in stored.items()})
  flat = patience.patiently(
    where, lambda: _read_arrays(manager, folder, step, stored), (DamagedError,)
  )
  flat = {name: flat[key] for key, name in names.items()}
  found = {part: {} for part in parts} | traverse_util.unflatten_dict(flat, sep="/")
  tree = found if like is None else manifest.fill(like, flat)
  return Restored(tree, step, meta.pop("pipeline"), meta)


def _read_arrays(
  manager: ocp.CheckpointManager, folder: Folder, step: int, stored: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  wanted = {k: np.empty(a["shape"], np.dtype(a["dtype"])) for k, a in stored.items()}
  target = traverse_util.unflatten_dict(wanted, sep="/")
  restore = ocp.args.PyTreeRestore(
    item=target,
    restore_args=ocp.checkpoint_utils.construct_restore_args(target),
    partial_restore=True,
  )
  with _naming_damage(folder, step), _without_late_reads(), quiet():
    tree = manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
  flat = manifest.flatten(tree)
  for key, array in stored.items():
    if manifest.describe(flat[key]) != array:
      raise _damaged(folder, step, f"{key} differs from what was saved")
  return flat


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


def read_meta(folder: Folder, step: int) -> dict[str, Any]:
  """What a checkpoint says of itself.

  Raises:
    DamagedError: If that is damaged.
    UnreadableError: If it cannot be read now.
  """
  what = f"checkpoint {folder / str(step)}"
  return patience.patiently(what, lambda: _load_meta(folder, step), (DamagedError,))


def _load_meta(folder: Folder, step: int) -> dict[str, Any]:
  with _naming_damage(folder, step):
    meta = json.loads((folder / str(step) / "meta" / META_FILE).read_text())
  if not isinstance(meta, dict):
    raise _damaged(folder, step, "meta is no dictionary")
  missing = {"pipeline", "metrics", "config", "versions", "arrays"} - set(meta)
  if missing:
    raise _damaged(folder, step, f"meta lacks {sorted(missing)}")
  digest = meta.pop("digest", None)  # None: from before there was one
  if digest is not None and digest != manifest.digest(meta):
    raise _damaged(folder, step, "meta differs from what was saved")
  return meta


def says_damage(error: Exception) -> bool:
  """Whether an error of reading tells what is stored, rather than why it was not read.

  Known damage is listed, not known errors: what nobody has thought of must not cost a
  checkpoint.
  """
  if isinstance(error, (*MISSING, *PARSE_ERRORS)):
    return True
  text = str(error)
  if not text.startswith(tuple(f"{code}:" for code in DAMAGE_CODES)):
    return False
  # The system's errors have codes that mean something else: no such device, say.
  return all(
    code == NO_SUCH_FILE for code in re.findall(r"os_error_code=\W*(\d+)", text)
  )


def _damaged(folder: Folder, step: int, reason: str) -> DamagedError:
  return DamagedError(f"checkpoint {folder / str(step)} is damaged: {reason}")


def write_metrics(folder: Folder, step: int, metrics: Mapping[str, float]) -> None:
  """Gives a checkpoint that was saved without metrics its own."""
  meta = read_meta(folder, step) | {"metrics": {k: float(metrics[k]) for k in metrics}}
  text = json.dumps(meta | {"digest": manifest.digest(meta)})
  path = folder / str(step) / "meta" / META_FILE
  if isinstance(path, pathlib.Path):
    with files.replacing(path) as partial:
      partial.write_text(text)
  else:
    path.write_text(text)  # an object appears whole


@contextlib.contextmanager
def _naming_damage(folder: Folder, step: int) -> Iterator[None]:
  """Turns what a reader raises of damage into a line that names the checkpoint."""
  try:
    yield
  except Exception as error:
    if not says_damage(error):
      raise
    raise _damaged(folder, step, patience.describe(error)) from error


@contextlib.contextmanager
def _without_late_reads() -> Iterator[None]:
  """After one array fails, Orbax leaves the reads of the others to a closed loop."""
  hook = sys.unraisablehook

  def tell(event: Any) -> None:
    if str(event.exc_value) != "Event loop is closed":
      hook(event)

  sys.unraisablehook = tell
  try:
    yield
  except Exception:
    time.sleep(LATE_READS_S)
    raise
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
