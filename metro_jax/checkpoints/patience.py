"""Reads again what a file system or a bucket did not give at once.

A stale mount, an expired token or a full memory says nothing of what is stored, so
nobody may conclude from it that a file is damaged or not there.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from absl import logging

DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # before each further attempt

T = TypeVar("T")


class UnreadableError(OSError):
  """Something could not be read, and nothing is known of what it holds."""


def patiently(
  what: str, read: Callable[[], T], answers: tuple[type[Exception], ...] = ()
) -> T:
  """Reads until it works, for about half a minute.

  Args:
    what: What is read, for messages.
    read: Reads it; called again after an error.
    answers: Errors that do say what is stored; they are raised at once.

  Returns:
    What was read.

  Raises:
    UnreadableError: If it never worked, with the last reason.
  """
  for delay_s in (*DELAYS_S, None):
    try:
      return attempt(read)
    except answers:
      raise
    except Exception as error:
      reason = describe(error)
      if delay_s is None:
        raise UnreadableError(f"{what}: cannot be read now ({reason})") from error
    logging.warning(
      "%s: cannot be read now (%s); trying again in %g s", what, reason, delay_s
    )
    time.sleep(delay_s)
  raise AssertionError  # the last attempt returns or raises


def attempt(read: Callable[[], T]) -> T:
  """Every read of a run's files passes here, so that tests can make each one fail."""
  return read()


def describe(error: BaseException) -> str:
  """Says in one line why something failed."""
  text = " ".join(str(error).split())[:200]
  return text if isinstance(error, OSError) and text else _with_kind(error, text)


def _with_kind(error: BaseException, text: str) -> str:
  return f"{type(error).__name__}: {text}" if text else type(error).__name__
