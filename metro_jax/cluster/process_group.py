"""What the processes of a run tell each other, always with a time limit.

Values go through the coordinator, which is part of the first process, as JSON; arrays
go from device to device. A process that does not come in time is named.
"""

import itertools
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

Tree = Any  # a pytree of arrays
LIMIT_S = 600.0
PREFIX = "metro_jax"
CHUNK = 64 * 2**20  # bytes of arrays that travel at once


class LostProcessError(OSError):
  """Another process of the run did not come, or is gone."""


class MismatchError(ValueError):
  """The processes were started with different settings, code or data."""


class Team:
  """The processes of a run; one of one process needs nobody.

  All processes must call the same methods in the same order.

  Args:
    index: Which process this is, from 0.
    count: How many there are.
    source: What said so, for messages.
    limit_s: How long to wait for the others where a call says nothing else.
  """

  def __init__(
    self,
    index: int = 0,
    count: int = 1,
    source: str = "no launcher",
    limit_s: float = LIMIT_S,
  ):
    self.index, self.count, self.source, self.limit_s = index, count, source, limit_s
    self.before_end: Callable[[], None] = lambda: None  # if another process is lost
    self._calls = itertools.count()
    self._hosts = [socket.gethostname()] * count
    if count > 1:
      self._hosts = self.gather("host", socket.gethostname())

  @property
  def is_first(self) -> bool:
    """Whether this is the process that writes logs, checkpoints and reports."""
    return self.index == 0

  def name(self, index: int) -> str:
    """How messages call a process."""
    return f"process {index} ({self._hosts[index]})"

  def gather(self, what: str, value: Any, limit_s: float | None = None) -> list[Any]:
    """Every process's value, in order; also a barrier.

    Args:
      what: What the processes do or tell, for messages.
      value: Anything that JSON holds.
      limit_s: How long to wait for the others.

    Raises:
      LostProcessError: Naming the processes that did not come in time.
    """
    if self.count == 1:
      return [value]
    limit_s = self.limit_s if limit_s is None else limit_s
    client, key = coordination(), f"{PREFIX}/{next(self._calls)}/"
    client.key_value_set(f"{key}{self.index}", json.dumps([what, value]))
    try:
      client.wait_at_barrier(key, int(limit_s * 1000))
    except RuntimeError as error:
      raise self._missing(key, what, limit_s, error) from error
    found = {int(k.rsplit("/")[-1]): v for k, v in client.key_value_dir_get(key)}
    pairs = [json.loads(found[index]) for index in range(self.count)]
    for index, (theirs, _) in enumerate(pairs):
      if theirs != what:
        raise MismatchError(
          f"{self.name(index)}: expected to meet at {what!r}, got {theirs!r}"
        )
    return [value for _, value in pairs]

  def share(self, what: str, value: Any = None, limit_s: float | None = None) -> Any:
    """The first process's value on every process; the others' do not count."""
    return self.gather(what, value if self.is_first else None, limit_s)[0]

  def meet(self, what: str, limit_s: float | None = None) -> None:
    """Waits until every process is here."""
    self.gather(what, None, limit_s)

  def expect_same(
    self, what: str, values: Mapping[str, Any], limit_s: float | None = None
  ) -> None:
    """Compares what the processes were started with.

    Args:
      what: What is compared, for messages.
      values: By name; anything that JSON holds.
      limit_s: How long to wait for the others.

    Raises:
      MismatchError: On every process, naming those that differ from the first one
        and in what.
    """
    # As they look after JSON, where a tuple is a list.
    everyone = self.gather(what, json.loads(json.dumps(dict(values))), limit_s)
    first, lines = everyone[0], []
    for index, theirs in enumerate(everyone):
      for name in sorted(first.keys() | theirs.keys()):
        want, got = first.get(name, "nothing"), theirs.get(name, "nothing")
        if want != got:
          lines.append(f"  {self.name(index)}: {name} is {got!r}, expected {want!r}")
    if lines:
      raise MismatchError(
        f"{what}: expected what {self.name(0)} has on all {self.count} processes, got\n"
        + "\n".join(lines)
      )

  def spread(self, tree: Tree) -> Tree:
    """The first process's arrays on every process, bit for bit.

    Args:
      tree: NumPy arrays; of the others only structure, shapes and types count.
    """
    if self.count == 1:
      return tree
    arrays, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    data = b"".join(array.tobytes() for array in arrays)
    data = np.frombuffer(data + bytes(-len(data) % CHUNK), np.uint32)
    # In equal pieces, so that one program is compiled for all.
    pieces = [
      np.asarray(multihost_utils.broadcast_one_to_all(piece))
      for piece in np.split(data, len(data) * 4 // CHUNK)
    ]
    data, start, found = np.concatenate(pieces).view(np.uint8), 0, []
    for array in arrays:
      part = data[start : start + array.nbytes]
      found.append(part.copy().view(array.dtype).reshape(array.shape))
      start += array.nbytes
    return jax.tree.unflatten(structure, found)

  def _missing(
    self, key: str, what: str, limit_s: float, error: Exception
  ) -> LostProcessError:
    try:
      here = {int(k.rsplit("/")[-1]) for k, _ in coordination().key_value_dir_get(key)}
    except RuntimeError:  # the coordinator itself is gone
      return LostProcessError(
        f"{what}: {self.name(0)}, the coordinator, cannot be reached: "
        + " ".join(str(error).split())[:200]
      )
    missing = [self.name(index) for index in range(self.count) if index not in here]
    if not missing:
      return LostProcessError(f"{what}: {' '.join(str(error).split())[:300]}")
    return LostProcessError(
      f"{what}: expected all {self.count} processes within {limit_s:.0f} s, "
      f"missing {', '.join(missing)}"
    )


def coordination() -> Any:
  """JAX's connection to the coordinator, which JAX does not publish."""
  from jax._src import distributed

  return distributed.global_state.client
