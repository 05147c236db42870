"""One training a workdir: a lock that says who holds it, also in a bucket.

A holder renews a record of itself. On its own machine the system's lock of that file
says at once whether it lives. Elsewhere, and in buckets, whoever wants the workdir
watches the record: one that is not renewed in time belongs to a dead holder. So no
clocks need to agree, and a run that was killed goes on wherever it is started next.
"""

import datetime
import getpass
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from typing import Any, NamedTuple

from absl import logging

from metro_jax import files, folders
from metro_jax.checkpoints import patience
from metro_jax.folders import Folder

FILE = "train.lock"
BEAT_S = 10.0  # between two renewals
LEASE_S = 60.0  # a record that is not renewed for so long is a dead holder's
CLOCKS_S = 300.0  # how far the clocks of two machines may be apart
RECORD_BYTES = 1024  # written at once, so that nobody reads half a record
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class HeldError(OSError):
  """Another process trains in this workdir."""


class Record(NamedTuple):
  """Who holds a workdir, and when that was last said."""

  host: str
  pid: int
  user: str
  started: str
  machine: str  # the running system; hosts' names repeat
  token: str  # of this holder alone
  renewed_s: float  # by the holder's clock

  def __str__(self) -> str:
    return (
      f"process {self.pid} on {self.host} of {self.user}, started {self.started}, "
      f"last heard of at {_as_text(self.renewed_s)}"
    )


class RunLock:
  """Holds a workdir for this process; a context manager.

  Args:
    workdir: A folder, which is made, or a bucket's.
    here: Whether this process is the one that holds it for its run.
  """

  def __init__(self, workdir: str | Folder, here: bool = True):
    self._workdir = folders.as_folder(workdir)
    self._here, self._lost = here, False
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
    self._store: Any = None
    self._record = _record_of_this_process()

  def __enter__(self) -> "RunLock":
    if self._here:
      away = folders.is_address(self._workdir)
      self._store = (_Object if away else _File)(self._workdir, self._record.machine)
      try:
        self._wait_for_silence()
        self._write()
      except BaseException:
        self._store.close()
        raise
      self._thread.start()
    return self

  def __exit__(self, *exc: object) -> None:
    if not self._here:
      return
    self._stop.set()
    self._thread.join()
    try:
      self.expect_held()
      self._store.remove()
    except HeldError as lost:
      logging.error("%s", lost)
    except Exception as rest:  # of several packages, without a common kind
      logging.warning("%s: %s stays (%s)", self._workdir, FILE, patience.describe(rest))
    self._store.close()

  def is_held(self) -> bool:
    """Whether the workdir is still this process's, as far as it knows."""
    return not self._lost

  def expect_held(self) -> None:
    """Looks whether the workdir is still this process's.

    Raises:
      HeldError: If another process has taken it over, or the lock was removed.
    """
    if not self._here:
      return
    found = patience.patiently(f"{self._workdir}: {FILE}", self._store.read)
    if found is None or found.token != self._record.token:
      self._lost = True
      who = "somebody removed its lock" if found is None else f"taken over by {found}"
      raise HeldError(f"{self._workdir}: no longer this process's to write: {who}")

  def _wait_for_silence(self) -> None:
    """Returns when nobody holds the workdir."""
    seen = patience.patiently(f"{self._workdir}: {FILE}", self._store.read)
    if self._store.is_locked:
      raise self._held(seen)
    if seen is None:
      return
    too_old = time.time() - seen.renewed_s > LEASE_S + CLOCKS_S
    if too_old or self._store.is_dead(seen):
      logging.warning("%s: taken over from %s, which is gone", FILE, seen)
      return
    logging.warning("%s: waiting %g s whether it lives: %s", FILE, LEASE_S, seen)
    end = time.monotonic() + LEASE_S
    while time.monotonic() < end:
      time.sleep(min(1.0, LEASE_S / 10))
      found = patience.patiently(f"{self._workdir}: {FILE}", self._store.read)
      if found is None:
        return
      if found != seen:
        raise self._held(found)

  def _held(self, record: Record | None) -> HeldError:
    who = record or "another process, which has not said which"
    return HeldError(
      f"{self._workdir}: expected nobody else to train here, but it is held by {who}; "
      "stop that one or give another --workdir"
    )

  def _write(self) -> None:
    self._record = self._record._replace(renewed_s=time.time())
    self._store.write(self._record)

  def _renew(self) -> None:
    while not self._stop.wait(BEAT_S):
      try:
        self.expect_held()
        self._write()
      except HeldError as error:
        self._lost = True
        logging.error("%s", error)
        return
      except Exception as error:  # a bucket or a mount that is out of order
        logging.warning(
          "%s: %s not renewed (%s)", self._workdir, FILE, patience.describe(error)
        )


class _File:
  """The record in a folder.

  Attributes:
    is_locked: Whether another process of this machine holds it.
  """

  def __init__(self, workdir: pathlib.Path, machine: str):
    self._workdir, self._path, self._machine = workdir, workdir / FILE, machine
    self._made = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    self._knows_locks, self.is_locked = True, False
    while True:
      self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        self.is_locked = not files.lock_now(self._file)
      except OSError:
        self._knows_locks = False  # some network file systems have none
      if self.is_locked or self._is_there():
        return
      os.close(self._file)  # its holder has just removed it

  def _is_there(self) -> bool:
    try:
      return os.path.samestat(os.fstat(self._file), self._path.stat())
    except FileNotFoundError:
      return False

  def is_dead(self, record: Record) -> bool:
    """Whether a record's holder is surely gone: the system would hold its lock."""
    return self._knows_locks and record.machine == self._machine

  def read(self) -> Record | None:
    try:
      return _parse(self._path.read_bytes())
    except FileNotFoundError:
      return None

  def write(self, record: Record) -> None:
    os.pwrite(self._file, _format(record), 0)
    os.fsync(self._file)

  def remove(self) -> None:
    self._path.unlink(missing_ok=True)

  def close(self) -> None:
    os.close(self._file)
    if self._made and not any(self._workdir.iterdir()):
      self._workdir.rmdir()  # a start that failed leaves nothing


class _Object:
  """The record in a bucket, where every write names what it replaces."""

  is_locked = False

  def __init__(self, workdir: Folder, machine: str):
    del machine
    from google.cloud import storage

    name, _, folder = os.fspath(workdir).partition("://")[2].partition("/")
    self._client = storage.Client()
    self._bucket, self._name = self._client.bucket(name), f"{folder.strip('/')}/{FILE}"
    self._generation = 0  # of nothing

  def is_dead(self, record: Record) -> bool:
    del record
    return False

  def read(self) -> Record | None:
    blob = self._bucket.get_blob(self._name)
    self._generation = blob.generation if blob else 0
    return _parse(blob.download_as_bytes()) if blob else None

  def write(self, record: Record) -> None:
    from google.api_core import exceptions

    blob, before = self._bucket.blob(self._name), self._generation
    try:
      blob.upload_from_string(_format(record), if_generation_match=before)
      self._generation = blob.generation
    except exceptions.PreconditionFailed as error:
      found = self.read()  # ours, if an answer was lost and the upload repeated
      if found is None or found.token != record.token:
        raise HeldError(f"gs://{self._bucket.name}/{self._name}: {found}") from error

  def remove(self) -> None:
    self._bucket.blob(self._name).delete(if_generation_match=self._generation)

  def close(self) -> None:
    self._client.close()


def _record_of_this_process() -> Record:
  try:
    user = getpass.getuser()
  except (ImportError, KeyError, OSError):  # a container without names
    user = str(os.getuid())
  return Record(
    socket.gethostname(), os.getpid(), user, _as_text(time.time()), _machine(),
    uuid.uuid4().hex, time.time(),
  )  # fmt: skip


def _machine() -> str:
  """The same for all processes of a running system, and for no other system."""
  try:
    return BOOT_ID.read_text().strip()
  except OSError:
    return f"{uuid.getnode():x}"


def _as_text(time_s: float) -> str:
  when = datetime.datetime.fromtimestamp(time_s).astimezone()
  return when.isoformat(" ", "seconds")


def _format(record: Record) -> bytes:
  return json.dumps(record._asdict()).encode().ljust(RECORD_BYTES)


def _parse(data: bytes) -> Record | None:
  """The record; what is no record is taken for one of long ago."""
  if not data.strip():
    return None
  try:
    return Record(**json.loads(data))
  except (ValueError, TypeError):
    return Record("?", 0, "?", "?", "?", "?", 0.0)
