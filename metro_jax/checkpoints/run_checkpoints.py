"""The checkpoints of a run of several processes: the first one writes and reads them.

Every process holds the same state, so that a checkpoint does not know how many
processes or devices wrote it, and only the first process needs the folder.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from metro_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from metro_jax.cluster import parallel
from metro_jax.cluster.process_group import ProcessGroup
from metro_jax.folders import Folder

Tree = Any  # a pytree of arrays


class Start(NamedTuple):
  """What a run begins with.

  Attributes:
    state: NumPy arrays, the same bits on every process.
    step: Updates that made it; 0 for a fresh run.
    pipeline: The input pipeline's position as saved; None for a fresh run.
    config: What its last steps were made with, as plain values; None for a fresh run.
    earlier: What steps before those were made with, where that differs.
    validated: Whether the checkpoint has validation errors.
  """

  state: Tree
  step: int
  pipeline: Any
  config: Mapping[str, Any] | None = None
  earlier: Sequence[Mapping[str, Any]] = ()
  validated: bool = False


class RunCheckpoints:
  """A run's checkpoints, with the same calls on all of its processes.

  A context manager; at its end the last save is finished.

  Args:
    folder: Where they live; only the first process uses it.
    keep_best: How many to keep for their PA-MPJPE beside the latest.
    team: The run's processes.
    before_save: As of `Checkpoints`.
  """

  def __init__(
    self,
    folder: Folder,
    keep_best: int,
    team: ProcessGroup,
    before_save: Callable[[], None] | None = None,
  ):
    self._team, self._own = team, None
    if team.is_first:
      self._own = Checkpoints(folder, keep_best, before_save)
    team.before_end = self._finish_save

  def __enter__(self) -> "RunCheckpoints":
    return self

  def __exit__(self, *exc: object) -> None:
    if self._own is not None:
      self._own.__exit__(*exc)

  def _finish_save(self) -> None:
    try:
      if self._own is not None:
        self._own.wait()
    except CheckpointError as error:
      logging.error("%s", error)

  def latest(self) -> int | None:
    """The last step that is saved, after waiting for it; the first process's only."""
    if self._own is None:
      return None
    self._own.wait()
    return max(self._own.steps(), default=None)

  def start(
    self, fresh: Tree, begin: Callable[[Tree], Tree], start_over: bool = False
  ) -> Start:
    """The latest good checkpoint, or the fresh state.

    Args:
      fresh: Structure, shapes and types count, and what `begin` takes of it.
      begin: Makes the state of a run without checkpoints, on the first process; fails
        if there should have been some.
      start_over: As of `Checkpoints.restore`.

    Returns:
      The first process's state, position and step, on every process.

    Raises:
      ArchitectureError, OSError, ValueError: As `Checkpoints.restore`, on the first
        process.
    """
    facts: list[Any] = [0, None, None, [], False]
    state = fresh
    if self._own is not None:
      restored = self._own.restore(fresh, start_over)
      if restored is None:
        state = begin(fresh)
      else:
        state, meta = restored.tree, restored.meta
        facts = [restored.step, restored.pipeline]
        facts += [meta["config"], meta.get("earlier", []), bool(meta["metrics"])]
    step, *rest = self._team.broadcast("restoring the latest checkpoint", facts)
    return Start(self._team.broadcast_arrays(state), step, *rest)

  def save(
    self,
    stacked: Tree,
    step: int,
    pipeline: Any,
    metrics: Mapping[str, float] | None,
    config: Mapping[str, Any],
    earlier: Sequence[Mapping[str, Any]] = (),
  ) -> None:
    """Starts to write a checkpoint, as `Checkpoints.save`.

    Args:
      stacked: The state on the devices; copied before this returns.
      step: Updates made so far.
      pipeline: The input pipeline's position.
      metrics: Validation errors.
      config: The run's config as plain values.
      earlier: As of `Checkpoints.save`.
    """
    if self._own is not None:
      state = parallel.unreplicate(stacked)
      self._own.save(state, step, pipeline, metrics, config, earlier)

  def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Gives a checkpoint its validation errors, as `Checkpoints.add_metrics`."""
    if self._own is not None:
      self._own.add_metrics(step, metrics)
