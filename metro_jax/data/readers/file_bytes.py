"""A file's bytes by their places, however many processes read them."""

import os
import pathlib
import weakref

from metro_jax import files


class FileBytes:
  """A file that each process opens when it first reads; pickles without that.

  Args:
    path: The file.

  Raises:
    FileNotFoundError: If it is not there.
    ValueError: If it is a folder, a pipe or a device.
  """

  def __init__(self, path: pathlib.Path):
    files.expect_regular(path)
    self.path = path
    self._stamp = stamp(path)
    self._descriptor: int | None = None

  def read(self, start: int, size: int) -> bytes:
    """So many bytes from a place on.

    Raises:
      ValueError: If the file was cut since it was opened.
    """
    if self._descriptor is None:
      self._descriptor = files.open_regular(self.path)
      weakref.finalize(self, os.close, self._descriptor)
    data = os.pread(self._descriptor, size, start)
    if len(data) != size:
      raise ValueError(f"expected {size} bytes, got {len(data)}: a cut file")
    return data

  def __getstate__(self) -> dict[str, object]:
    return self.__dict__ | {"_descriptor": None}


def stamp(path: pathlib.Path) -> tuple[int, int]:
  """Size and time of a file: with others, a prepared dataset is another."""
  status = path.stat()
  return status.st_size, status.st_mtime_ns
