"""A request to stop, SIGTERM, is answered wherever a command is, with nothing lost.

Where a command holds nothing that a restart would not make again, it ends at once:
`Stopped` is raised. While it does hold something (`hold` to `release`) it is asked at
certain places (`due`), and saves first. Several processes agree, whichever of them got
the signal. What does not listen, such as a compilation or a wait for a process that has
ended, is ended.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from absl import logging

from metro_jax.cluster import watch
from metro_jax.cluster.process_group import PREFIX, ProcessGroup, coordination

POLL_S = 1.0
POLL_SOON_S = 0.1  # while the processes agree
PATIENCE_S = 6.0  # until a process that does not listen is ended; twice if it does
OTHERS_S = 15.0  # that the first process waits for the others to end; more than those
SAME_S = 1.0  # signals closer than that are one request, sent twice by a launcher
FREE = "free"


class Stopped(SystemExit):
  """The command was asked to stop, and a restart will do all that it did not."""


class StopRequest:
  """SIGTERM as a request to stop; a context manager. A second one ends at once.

  At first it is held, for `PATIENCE_S` at most: `share` says who the processes are.

  Args:
    exit_code: What the process exits with when it is ended from here; None never ends
      it, and only raises.
  """

  def __init__(self, exit_code: int | None = None):
    self._exit_code, self._team = exit_code, ProcessGroup()
    self._asked = self._held = False
    self._met = False  # whether the processes of the run are known
    self._at_once = self._raised = False
    self._heard_at = self._ending_since = 0.0
    self._kicks = 0  # signals to the main thread that are this object's own
    self._kicked_at = -POLL_S
    self._passed, self._stop_at = 0, sys.maxsize  # places, counted alike by all
    self._told, self._agreed = False, False
    self._changed = threading.Condition()
    # Signals can be handled by the main thread only.
    self._handles = threading.current_thread() is threading.main_thread()
    self._thread = threading.Thread(target=self._run, name="stop", daemon=True)
    self._before: Any = None

  def __enter__(self) -> "StopRequest":
    self._inbox, self._outbox = socket.socketpair()
    self._held = True
    self._thread.start()
    if self._handles:
      self._outbox.setblocking(False)
      # The thread hears of a signal also while the main thread is not in Python.
      self._wakeup = signal.set_wakeup_fd(
        self._outbox.fileno(), warn_on_full_buffer=False
      )
      self._before = signal.signal(signal.SIGTERM, self._ask)
      signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return self

  def __exit__(self, *exc: object) -> None:
    self._held = True  # nothing is raised any more
    if self._handles:
      done = self._exit_code is not None and exc[1] is None
      signal.signal(signal.SIGTERM, signal.SIG_IGN if done else self._before)
      signal.set_wakeup_fd(self._wakeup)
    self._outbox.close()
    self._thread.join()
    self._inbox.close()

  def share(self, team: ProcessGroup) -> None:
    """Says who the run's processes are, and releases; all of them must call it.

    Raises:
      Stopped: If this process alone is the run and was asked to stop.
    """
    self._team, self._met = team, True
    self.release()

  def hold(self) -> None:
    """From here on there is something to save; the request waits for `due`."""
    self._held = True

  def release(self) -> None:
    """From here on a restart would make all again.

    Raises:
      Stopped: If the run was asked to stop meanwhile.
    """
    with self._changed:
      self._changed.wait_for(self._is_settled)
      self._held = False
      alone_asked = self._asked and self._team.count == 1
      if alone_asked or self._agreed:  # the place to stop at never came
        self._end()
    self._raise_if_free()

  def due(self) -> bool:
    """Whether to stop here; all processes must ask at the same places.

    Raises:
      Stopped: If other processes have nothing to save, and so no part in a save.
    """
    if self._team.count == 1:
      return self._asked
    with self._changed:
      self._changed.wait_for(self._is_settled)
      self._passed += 1
      if self._at_once:
        raise Stopped(self._exit_code)
      return self._passed >= self._stop_at

  def ends_at_once(self) -> bool:
    """Whether the processes end where they are, so that errors of that are none."""
    with self._changed:
      self._changed.wait_for(self._is_settled, PATIENCE_S)
      return self._at_once

  def leave(self) -> NoReturn:
    """Ends the process; the first one last, for it coordinates the others."""
    if self._team.is_first:
      print("Stopped as asked; the same command goes on", file=sys.stderr, flush=True)
    self._team.before_end()
    if self._team.count > 1:
      with contextlib.suppress(RuntimeError):
        self._leave_in_order()
    watch.exit_now(self._exit_code or 0)

  def _leave_in_order(self) -> None:
    client, own = coordination(), f"{watch.LEFT}{self._team.index}"
    client.key_value_set(own, "", allow_overwrite=True)
    end = time.monotonic() + (OTHERS_S if self._team.is_first else 0)
    while time.monotonic() < end:
      if len(client.key_value_dir_get(watch.LEFT)) == self._team.count:
        return
      time.sleep(POLL_SOON_S)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    """Handles the signal, in the main thread, between any two of its instructions."""
    del number
    self._asked = True
    if self._met and self._team.count == 1 and not self._held:
      self._end()
    if not _is_lost_in(frame) and not _is_handled(sys.exc_info()[1]):
      self._raise_if_free()  # otherwise the thread signals again

  def _raise_if_free(self) -> None:
    if self._at_once and not self._held:
      self._raised = True
      raise Stopped(self._exit_code)

  def _end(self) -> None:
    self._at_once = True
    self._ending_since = self._ending_since or time.monotonic()

  def _is_settled(self) -> bool:
    return self._agreed or not self._told

  def _run(self) -> None:
    """The thread: hears signals, agrees with others, and ends what does not listen."""
    while True:
      agreeing = self._asked and not self._agreed
      wait_s = POLL_SOON_S if agreeing else POLL_S
      if select.select([self._inbox], [], [], wait_s)[0]:
        numbers = self._inbox.recv(64)
        if not numbers:
          return
        self._hear(numbers)
      if self._team.count > 1 and not self._agreed:
        try:
          self._agree()
        except RuntimeError as error:
          logging.info("cannot reach the other processes: %s", error)
      self._kick()
      if self._is_overdue():
        self.leave()

  def _hear(self, numbers: bytes) -> None:
    for number in numbers:
      if number == signal.SIGTERM and self._kicks:
        self._kicks -= 1
      elif number in (signal.SIGTERM, signal.SIGINT) and self._heard_at:
        again = number == signal.SIGTERM
        if not again or time.monotonic() - self._heard_at > SAME_S:
          watch.exit_now(128 + number)
      elif number == signal.SIGTERM:
        self._heard_at, self._asked = time.monotonic(), True
        if self._met and self._team.count == 1 and not self._held:
          self._end()

  def _kick(self) -> None:
    """Has the main thread end; again and again, since what it raises may be lost."""
    due = time.monotonic() - self._kicked_at > POLL_S
    if due and self._at_once and not self._held and self._handles:
      self._kicked_at = time.monotonic()
      self._kicks += 1
      os.kill(os.getpid(), signal.SIGTERM)

  def _agree(self) -> None:
    """Tells the others where this process is; when all have, decides as they do."""
    client, key = coordination(), f"{PREFIX}/stop/"
    told = dict(client.key_value_dir_get(key))
    if not self._told and not self._asked and not told:
      return
    if not self._told:
      with self._changed:
        self._asked = self._told = True
        here = str(self._passed) if self._held else FREE
      client.key_value_set(f"{key}{self._team.index}", here)
      return
    if len(told) < self._team.count:
      return
    with self._changed:
      self._agreed = True
      if FREE in told.values():
        self._end()
      else:
        self._stop_at = max(map(int, told.values())) + 1
      self._changed.notify_all()

  def _is_overdue(self) -> bool:
    if self._exit_code is None:
      return False
    since = self._ending_since or (0.0 if self._met else self._heard_at)
    limit_s = PATIENCE_S * (2 if self._raised else 1)
    return since > 0 and time.monotonic() - since > limit_s


def _is_lost_in(frame: FrameType | None) -> bool:
  """Whether the interpreter drops what is raised here, as in a destructor."""
  callbacks = [getattr(call, "__code__", None) for call in gc.callbacks]
  while frame is not None:
    if frame.f_code.co_name == "__del__" or frame.f_code in callbacks:
      return True
    frame = frame.f_back
  return False


def _is_handled(error: BaseException | None) -> bool:
  """Whether the work is already ending because of the request."""
  while error is not None and not isinstance(error, Stopped):
    error = error.__context__
  return error is not None
