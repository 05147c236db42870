"""Folders of this machine and of buckets, by one name."""

import os
import pathlib
from typing import Any, TypeAlias

from etils import epath

Folder: TypeAlias = pathlib.Path | epath.Path  # the latter of a bucket
MISSING = (FileNotFoundError, NotADirectoryError)


def is_address(path: str | Folder) -> bool:
  """Whether it names a bucket's folder rather than one of this machine."""
  return "://" in os.fspath(path)


def as_folder(folder: str | Folder) -> Any:
  """An absolute path of this machine, or a bucket's such as "gs://bucket/run"."""
  if is_address(folder):
    return epath.Path(folder)
  return pathlib.Path(folder).expanduser().absolute()
