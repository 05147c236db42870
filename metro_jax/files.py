"""Writing files as a whole: a reader sees the old content or the new, never a half."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

LONGEST_NAME = 255  # bytes; the limit of nearly all file systems


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """A place to write that becomes `path` once all is written.

  Args:
    path: The file to make or replace; its folder must exist.

  Yields:
    A path beside it, of this process alone. It is moved at the end, or removed if
    writing fails.
  """
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  if len(os.fsencode(partial.name)) > LONGEST_NAME:
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".{digest}.{os.getpid()}.partial")
  try:
    yield partial
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def write_json(
  path: str | os.PathLike[str], content: Any, *, allow_nan: bool = True
) -> None:
  """Writes plain values as a whole JSON file.

  Raises:
    ValueError: If there is a NaN or infinity that `allow_nan` forbids.
  """
  text = json.dumps(content, indent=2, allow_nan=allow_nan) + "\n"
  with replacing(path) as partial:
    partial.write_text(text)


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
  """A path as given if something is there, otherwise with the home folder for ~."""
  path = os.fspath(path)
  return pathlib.Path(path if os.path.lexists(path) else os.path.expanduser(path))


def shown(path: str | os.PathLike[str]) -> str:
  """A path on one line that every terminal and file takes."""
  text = os.fspath(path).encode("utf-8", "backslashreplace").decode()
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def import_path() -> str:
  """PYTHONPATH for a process that is to import what this one can."""
  return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


@contextlib.contextmanager
def alone(lock: pathlib.Path, work: str) -> Iterator[None]:
  """Holds a file that the system lets go of when this process ends, however it does.

  Args:
    lock: The file; made, and left.
    work: What another process that holds it does, for the message while waiting.
  """
  with open(lock, "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"Waiting for another process that {work}", file=sys.stderr)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def means_full_disk(error: BaseException | None) -> bool:
  """Whether an error, or one that caused it, is a full disk or quota."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if "No space left on device" in str(error):  # what the record writer says
      return True
    error = error.__cause__ or error.__context__
  return False
