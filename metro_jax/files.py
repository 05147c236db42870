"""Files as a whole: written so that no reader sees a half, read only if they end."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import stat
import sys
from collections.abc import Iterator
from typing import Any

LONGEST_NAME = 255  # bytes; the limit of nearly all file systems
_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFIFO: "a pipe",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Gives a place to write that becomes `path` once all is written.

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


def open_regular(path: str | os.PathLike[str]) -> int:
  """Opens a file to read, and nothing else: pipes and devices can wait for ever.

  Returns:
    The descriptor.

  Raises:
    OSError: If it cannot be opened.
    ValueError: If it is a folder, a pipe or a device, naming it.
  """
  expect_regular(path)
  # Should it become a pipe meanwhile, opening it does not wait.
  descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
  try:
    expect_regular(path, os.fstat(descriptor))
  except ValueError:
    os.close(descriptor)
    raise
  return descriptor


def read_bytes(path: str | os.PathLike[str], most_bytes: int | None = None) -> bytes:
  """Reads all of a regular file.

  Args:
    path: The file.
    most_bytes: How large it may be; None sets no limit.

  Raises:
    OSError: If it cannot be read.
    ValueError: If it is a folder, a pipe or a device, or larger.
  """
  with open(open_regular(path), "rb") as file:
    size = os.fstat(file.fileno()).st_size
    if most_bytes is not None and size > most_bytes:
      raise ValueError(
        f"{path}: expected a file of at most {most_bytes / 1e6:,.0f} MB, got "
        f"{size / 1e6:,.0f} MB"
      )
    return file.read() if most_bytes is None else file.read(size)


def expect_regular(
  path: str | os.PathLike[str], status: os.stat_result | None = None
) -> None:
  """Refuses what is no file, without opening it.

  Args:
    path: The file, or a link to it.
    status: Of the file, if it is known.

  Raises:
    OSError: If it is not there.
    ValueError: If it is a folder, a pipe or a device, naming it.
  """
  status = os.stat(path) if status is None else status
  if not stat.S_ISREG(status.st_mode):
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
    raise ValueError(f"{path}: expected a file, got {kind}")


def expand_home(path: str | os.PathLike[str]) -> pathlib.Path:
  """Replaces a leading ~ or ~user by the home folder that it stands for.

  Raises:
    ValueError: If there is no such user.
  """
  try:
    return pathlib.Path(path).expanduser()
  except RuntimeError as error:
    raise ValueError(f"{path}: expected the name of a user behind ~") from error


def import_path() -> str:
  """Returns PYTHONPATH for a process that is to import what this one can."""
  return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


@contextlib.contextmanager
def file_lock(lock: pathlib.Path, work: str) -> Iterator[None]:
  """Holds a file that the system lets go of when this process ends, however it does.

  Args:
    lock: The file; made, and left.
    work: What another process that holds it does, for the message while waiting.
  """
  with open(lock, "w") as file:
    if not lock_now(file.fileno()):
      print(f"Waiting for another process that {work}", file=sys.stderr)
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def lock_now(descriptor: int) -> bool:
  """Locks an open file for this process, unless another one has locked it.

  Raises:
    OSError: If its file system knows no locks.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def means_full_disk(error: BaseException | None) -> bool:
  """Returns whether an error, or one that caused it, is a full disk or quota."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if "No space left on device" in str(error):  # what the record writer says
      return True
    error = error.__cause__ or error.__context__
  return False
