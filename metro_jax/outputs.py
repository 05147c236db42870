"""Where commands write: in the place of nothing but what they wrote before.

Each folder that a command fills has a ledger with the name and hash of every file it
wrote. A file that the ledger does not know, or that was changed since, is its user's.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

LEDGER = ".metro_jax.jsonl"
_CHUNK_BYTES = 1 << 20
Folder = os.PathLike[str]  # pathlib's, or of a bucket, etils'


class Outputs:
  """A folder that a command writes into.

  Args:
    folder: Where to write, on this machine; made with the first file.
    command: Who writes. Commands do not replace each other's files.
    arrives: Where all is copied to, if not kept in `folder`, which must then hold the
      ledger from there.

  Attributes:
    folder: As given.
  """

  def __init__(self, folder: pathlib.Path, command: str, arrives: Folder | None = None):
    self.folder = folder
    self._command = command
    self._arrives: Any = folder if arrives is None else arrives
    self._known = _read_ledger(folder / LEDGER, command)

  def expect_free(self, names: Iterable[str]) -> None:
    """Checks that files may be written; reads, and changes nothing.

    Args:
      names: Of the files, without a folder.

    Raises:
      FileExistsError: If there is one that this command did not write.
      OSError: If a file or the folder cannot be looked at.
    """
    self._expect_free(self._arrives, names)

  def wrote(self, name: str) -> bool:
    """Returns whether a file is there as this command wrote it."""
    try:
      return self._is_ours(self._arrives, name)
    except OSError:
      return False

  @contextlib.contextmanager
  def adding(self) -> Iterator[pathlib.Path]:
    """Gives a place to write files that come into the folder once all are written.

    Yields:
      An empty folder. If writing fails, nothing of it stays.

    Raises:
      FileExistsError: If a file's place was taken meanwhile.
      OSError: If the folder cannot be written into.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(".partial", ".", self.folder) as made:
      yield pathlib.Path(made)
      written = sorted(pathlib.Path(made).iterdir())
      self._expect_free(self.folder, [path.name for path in written])
      if written:  # noted first, lest a kill in between makes a file a stranger
        self._note(written)
      for path in written:
        path.replace(self.folder / path.name)

  def _expect_free(self, folder: Any, names: Iterable[str]) -> None:
    taken = [name for name in names if not self._may_replace(folder, name)]
    if taken:
      more = f", and {len(taken) - 1:,} more" if len(taken) > 1 else ""
      raise FileExistsError(
        f"{folder / taken[0]}: expected no file, or one that {self._command} wrote and "
        f"nobody changed; got another{more}. No file was replaced: move it, or choose "
        "another --output"
      )

  def _may_replace(self, folder: Any, name: str) -> bool:
    path = folder / name
    here = isinstance(path, pathlib.Path)
    if not (os.path.lexists(path) if here else path.exists()):
      return True
    return _is_plain(path) and (_is_empty(path) or self._is_ours(folder, name))

  def _is_ours(self, folder: Any, name: str) -> bool:
    path = folder / name
    if name not in self._known or not _is_plain(path):
      return False
    with path.open("rb") as file:
      return _sha256(file) in self._known[name]

  def _note(self, paths: Iterable[pathlib.Path]) -> None:
    lines = []
    for path in paths:
      with path.open("rb") as file:
        digest = _sha256(file)
      self._known.setdefault(path.name, set()).add(digest)
      entry = {"command": self._command, "name": path.name, "sha256": digest}
      lines.append("\n" + json.dumps(entry))  # in front: the last may have been cut off
    with open(self.folder / LEDGER, "a", opener=_open_no_link) as file:
      file.write("".join(lines))


@contextlib.contextmanager
def replacing(path: pathlib.Path, command: str) -> Iterator[pathlib.Path]:
  """Gives a place to write a single file that its user named.

  Args:
    path: The file; its folder is made if it is not there.
    command: Who writes.

  Yields:
    A path of the same ending, which becomes `path` once all is written.

  Raises:
    FileExistsError: If there is a file that this command did not write.
    OSError: If the folder cannot be written into.
  """
  with Outputs(path.parent, command).adding() as folder:
    yield folder / path.name


def expect_free(path: pathlib.Path, command: str) -> None:
  """Checks before the work that `replacing` will do.

  Raises:
    FileExistsError: If there is a file that this command did not write.
    OSError: If the folder cannot be looked at.
  """
  Outputs(path.parent, command).expect_free([path.name])


def _read_ledger(path: pathlib.Path, command: str) -> dict[str, set[str]]:
  """Hashes by the file's name; a line that was cut off says nothing."""
  known: dict[str, set[str]] = {}
  try:
    with open(path, errors="replace", opener=_open_no_link) as file:
      lines = file.read().splitlines()
  except FileNotFoundError:
    return known
  for line in lines:
    try:
      entry = json.loads(line)
      if entry["command"] == command:
        known.setdefault(entry["name"], set()).add(entry["sha256"])
    except (ValueError, KeyError, TypeError):
      continue
  return known


def _is_plain(path: Any) -> bool:
  """Whether it is a file; a link is its user's. Buckets have no links."""
  return path.is_file() and not (isinstance(path, pathlib.Path) and path.is_symlink())


def _is_empty(path: Any) -> bool:
  with path.open("rb") as file:
    return not file.read(1)


def _open_no_link(path: str, flags: int) -> int:
  return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _sha256(file: Any) -> str:
  digest = hashlib.sha256()
  while chunk := file.read(_CHUNK_BYTES):
    digest.update(chunk)
  return digest.hexdigest()
