"""Nobody waits for ever: lost processes, and input that hangs."""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn

import jax
from absl import logging

from metro_jax.cluster.process_group import PREFIX, ProcessGroup, coordination
from metro_jax.text_files import one_line

POLL_S = 2.0
SILENT_S = 40.0  # a process that was not heard of for so long is lost
SUSPECT_S = 12.0  # the same, once a device has reported a broken connection
FAREWELL_S = 10.0  # for what must still be done, such as a save that has begun
LEFT = f"{PREFIX}/left/"  # of the coordinator: who has ended because it was asked to
SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "connection")


class StalledError(TimeoutError):
  """The input pipeline gave nothing for too long."""


class Watch:
  """Ends this process with a message when another one is gone; a context manager.

  Every process says every two seconds that it lives. The first one listens to all,
  the others to the first one, so that the effort grows only with their number.

  Args:
    team: The run's processes; one alone needs no watch. Its `before_end` is called
      before the process ends, for `FAREWELL_S` at most.
  """

  def __init__(self, team: ProcessGroup):
    self._team = team
    self._done, self._limit_s = threading.Event(), SILENT_S
    self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
    self._seen: dict[str, tuple[str, float]] = {}

  def __enter__(self) -> "Watch":
    if self._team.count > 1:
      self._thread.start()
    return self

  def __exit__(self, *exc: object) -> None:
    if self._team.count == 1:
      return
    if isinstance(exc[1], Exception | KeyboardInterrupt):
      self._end_with(exc[1])
    else:  # done, or asked to stop as all others were
      self._done.set()
      self._thread.join()

  def _end_with(self, error: BaseException) -> None:
    """Tells the others why this process ends, or waits to hear why they did."""
    text = one_line(error, 100_000)
    is_loss = isinstance(error, jax.errors.JaxRuntimeError | ValueError) and any(
      sign in text for sign in SIGNS_OF_LOSS
    )
    if is_loss:  # the watching thread knows soon whom, and ends this process
      self._limit_s = SUSPECT_S
      self._done.wait(SILENT_S + 3 * POLL_S)
    else:
      self._tell(self._team.index, f"{type(error).__name__}: {text[:1000]}")
      time.sleep(2 * POLL_S if self._team.is_first else 0)

  def _run(self) -> None:
    beat = 0
    while not self._done.wait(POLL_S):
      beat += 1
      try:
        lost = self._look(str(beat))
      except RuntimeError as error:
        lost = f"{self._team.name(0)} is gone: {one_line(error)}"
      if lost and not self._done.is_set():
        self._leave(lost)

  def _look(self, beat: str) -> str | None:
    """What is wrong, if anything."""
    team, client = self._team, coordination()
    client.key_value_set(f"{PREFIX}/beat/{team.index}", beat, allow_overwrite=True)
    for key, reason in client.key_value_dir_get(f"{PREFIX}/stopped/"):
      index = int(key.rsplit("/")[-1])
      if index != team.index:
        return f"{team.name(index)} stopped: {reason}"
    if not team.is_first:
      return None
    now = time.monotonic()
    beats = dict(client.key_value_dir_get(f"{PREFIX}/beat/"))
    left = {key for key, _ in client.key_value_dir_get(LEFT)}
    for index in range(team.count):
      if f"{LEFT}{index}" in left:
        continue
      key = f"{PREFIX}/beat/{index}"
      last, since = self._seen.get(key, ("", now))
      text = beats.get(key, "")
      self._seen[key] = (text, since if text == last and key in self._seen else now)
      silent = now - self._seen[key][1]
      if silent > self._limit_s:
        reason = f"not heard of for {silent:.0f} s"
        self._tell(index, reason)
        return f"{team.name(index)} stopped: {reason}"
    return None

  def _tell(self, index: int, reason: str) -> None:
    try:
      key = f"{PREFIX}/stopped/{index}"
      coordination().key_value_set(key, reason, allow_overwrite=True)
    except RuntimeError as error:
      logging.info("cannot tell the other processes: %s", error)

  def _leave(self, reason: str) -> None:
    """Ends the process: the main thread may wait for a device that waits for ever."""
    last = threading.Thread(target=self._team.before_end, daemon=True)
    last.start()
    last.join(FAREWELL_S)
    print(
      f"{self._team.name(self._team.index)} stops: {reason}. Start all processes again "
      "to go on from the last checkpoint",
      file=sys.stderr,
      flush=True,
    )
    if self._team.is_first:
      time.sleep(2 * POLL_S)  # the others ask this process what happened
    exit_now(1)


def exit_now(code: int) -> NoReturn:
  """Ends the process at once, also if threads or other processes hang."""
  sys.stdout.flush()
  sys.stderr.flush()
  logging.flush()
  os._exit(code)


def in_time(
  batches: Iterator[Any], limit_s: float, describe: Callable[[int], str]
) -> Iterator[Any]:
  """Yields the same batches, read by threads; an error if one takes too long.

  Args:
    batches: What to read.
    limit_s: How long one may take; 0 does not limit.
    describe: Says what the n-th, from 0, is and is made of, for the message.

  Yields:
    The batches, in order.

  Raises:
    StalledError: Naming the batch.
  """
  if not limit_s:
    yield from batches
    return
  coming = _read_next(batches)
  for number in itertools.count():
    if not futures.wait([coming], limit_s).done:
      raise StalledError(
        f"input pipeline: expected {describe(number)} within {limit_s:g} s "
        "(config.train.stall_limit_s), got nothing; its storage may hang"
      )
    batch = coming.result()
    if batch is None:
      return
    coming = _read_next(batches)
    yield batch


def _read_next(batches: Iterator[Any]) -> futures.Future[Any]:
  """Reads the next batch, or None behind the last.

  The thread ends with the process, as those of a pool would not.
  """
  coming: futures.Future[Any] = futures.Future()

  def read() -> None:
    try:
      coming.set_result(next(batches, None))
    except BaseException as error:  # goes to the reader's caller
      coming.set_exception(error)

  threading.Thread(target=read, name="batches", daemon=True).start()
  return coming
