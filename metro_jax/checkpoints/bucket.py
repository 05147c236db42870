"""A run's folder in a bucket: what is not a checkpoint is written here, copied there.

An object store cannot append or rename. Checkpoints go straight into it (`checkpoint`);
logs, pictures and reports are written to a folder of this machine, and their files are
copied whole: every half minute, before a checkpoint becomes valid, and at the end.
"""

import itertools
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence

from absl import logging

from metro_jax import files, folders
from metro_jax.checkpoints import patience
from metro_jax.folders import Folder
from metro_jax.text_files import one_line

EXTRA = "pip install 'metro_jax[gcs]'"
EVERY_S = 30.0  # between two copies
READING = ("storage.objects.get", "storage.objects.list")
WRITING = ("storage.objects.create", "storage.objects.delete")


def expect_usable(address: str, writes: bool = True) -> None:
  """Checks an address, packages, credentials and permissions; local paths pass.

  Args:
    address: As the user gave it.
    writes: Whether the command also writes there.

  Raises:
    ValueError: If it is not an address that is understood.
    OSError: If packages are missing, or the bucket or what one may do in it is.
  """
  if not folders.is_address(address):
    return
  scheme, _, rest = address.partition("://")
  name, _, folder = rest.partition("/")
  if scheme != "gs" or not name or not folder.strip("/"):
    raise ValueError(f"expected a folder or gs://BUCKET/FOLDER, got {address!r}")
  try:
    import fsspec
    import gcsfs  # noqa: F401
    from google.cloud import storage
  except ImportError as error:
    raise OSError(f"{address}: expected packages for gs://; {EXTRA}") from error
  os.environ.setdefault("EPATH_USE_TF", "false")  # gcsfs, also beside TensorFlow
  # Listings that are kept would not show what tensorstore writes beside gcsfs.
  fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
  wanted = [*READING, *(WRITING if writes else ())]
  try:
    client = storage.Client()
    granted = client.get_bucket(name).test_iam_permissions(wanted)
    client.close()
  except Exception as error:  # of several packages, without a common kind
    raise OSError(f"{address}: cannot reach the bucket: {one_line(error)}") from error
  missing = [permission for permission in wanted if permission not in granted]
  if missing:
    raise OSError(f"{address}: expected permission to {', '.join(missing)}")


class RunFolder:
  """Where a command writes its files; a context manager.

  Args:
    address: A folder of this machine, which is then used itself, or of a bucket.
    here: Whether this process is the one that writes.
    fetched: Files to have from the bucket first, where they are there.
    must_arrive: Whether an error at the end says that not all could be copied;
      otherwise a logged line.
    may_copy: Whether the address is still this process's to write to.

  Attributes:
    address: Where all arrives.
    local: Where to write; a temporary folder if the address is a bucket's.
  """

  def __init__(
    self,
    address: str | Folder,
    here: bool = True,
    fetched: Sequence[str] = (),
    must_arrive: bool = True,
    may_copy: Callable[[], bool] = lambda: True,
  ):
    away = folders.is_address(address)
    self.local = files.expand_home(tempfile.gettempdir() if away else address)
    self.address = folders.as_folder(address) if away else self.local
    self._copies = away and here
    self._fetched, self._must_arrive = fetched, must_arrive
    self._may_copy = may_copy
    self._sent: dict[pathlib.Path, tuple[int, int]] = {}
    self._lock, self._stop = threading.Lock(), threading.Event()
    self._thread = threading.Thread(target=self._run, name="bucket", daemon=True)
    self._failure = ""

  def __enter__(self) -> "RunFolder":
    if self._copies:
      self.local = pathlib.Path(tempfile.mkdtemp(prefix="metro_jax-"))
      self._fetch()
      self._thread.start()
    return self

  def __exit__(self, *exc: object) -> None:
    if not self._copies:
      return
    self._stop.set()
    self._thread.join()
    self.copy()
    if not self._failure:
      shutil.rmtree(self.local)
      return
    text = f"{self.address}: cannot write ({self._failure}); all is in {self.local}"
    if self._must_arrive and exc[1] is None:
      raise OSError(text)
    logging.error("%s", text)

  def display(self, text: str | pathlib.Path) -> str:
    """A text or path that names files under `local`, as their user finds them."""
    return str(text).replace(str(self.local), str(self.address))

  def copy(self) -> None:
    """Copies the files that have changed; failing is a warning and tried again."""
    if not self._copies or not self._may_copy():
      return
    with self._lock:
      before, self._failure = self._failure, ""
      try:
        for path in sorted(_finished(self.local)):
          self._copy(path)
      except Exception as error:  # of several packages, without a common kind
        self._failure = one_line(error)
        if self._failure != before:
          line = "%s: cannot write (%s); trying again later"
          logging.warning(line, self.address, self._failure)

  def set_aside(self, name: str) -> str | None:
    """Renames a file of an earlier run, "x.y" to "x.1.y" and so on, if there is one.

    Returns:
      Its new name; None if there was none.
    """
    place = pathlib.PurePath(name)
    names = (f"{place.stem}.{i}{place.suffix}" for i in itertools.count(1))
    local, away = self.local / name, self.address / name
    with self._lock:
      if not (local.exists() or away.exists()):
        return None
      free = next(name for name in names if not (self.address / name).exists())
      if away.exists():
        away.rename(self.address / free)
      if self._copies:
        local.unlink(missing_ok=True)
        self._sent.pop(local, None)
    return free

  def _copy(self, path: pathlib.Path) -> None:
    mark = _mark(path)
    if self._sent.get(path) == mark:
      return
    target = self.address / path.relative_to(self.local).as_posix()
    target.write_bytes(path.read_bytes())
    self._sent[path] = mark

  def _fetch(self) -> None:
    for name in self._fetched:
      source, path = self.address / name, self.local / name
      try:
        data = patience.patiently(str(source), source.read_bytes, (FileNotFoundError,))
      except FileNotFoundError:
        continue
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
      self._sent[path] = _mark(path)

  def _run(self) -> None:
    while not self._stop.wait(EVERY_S):
      self.copy()


def _finished(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The files below a folder that nobody writes any more."""
  for inside, below, names in os.walk(folder):
    below[:] = [name for name in below if not name.endswith(".partial")]
    for name in names:
      if not name.endswith(".partial"):
        yield pathlib.Path(inside, name)


def _mark(path: pathlib.Path) -> tuple[int, int]:
  """What changes when a file does."""
  facts = path.stat()
  return facts.st_mtime_ns, facts.st_size
