"""Writing files as a whole: a reader sees the old content or the new, never a half."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


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
  try:
    yield partial
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
