"""Writes a dataset's rows as array_record files, in parallel, one shard at a time.

A shard is a run of consecutive rows. It is done when its report is there, which says
what was kept and refused; an interrupted build goes on with the shards that are not.
Reading processes are started with `python -m metro_jax.data.builders.shards`: they do
not import the program that builds, start no JAX backend, and end when that program
ends. One that dies or hangs is started again; if the same row ends it twice, the row
is refused.
"""

import collections
import concurrent.futures
import contextlib
import errno
import json
import mmap
import os
import pathlib
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from metro_jax import files
from metro_jax.data import schema
from metro_jax.data.builders import valid_rows
from metro_jax.data.builders.valid_rows import Refused, TooManyRefused
from metro_jax.data.readers.reader import Reader

# Records are read alone, pictures do not shrink, and one thread costs least.
_WRITER_OPTIONS = "group_size:1,uncompressed,max_parallelism:1"
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
_PLACE = struct.Struct("q")  # the row that a process reads, seen by the one that builds
PATIENCE_S = 120.0  # for one row
START_PATIENCE_S = 900.0  # until the first, with all imports from a slow disk


class Shard(NamedTuple):
  """Consecutive rows."""

  file_name: str
  first: int
  end: int


class Report(NamedTuple):
  """What became of a shard's rows."""

  kept: int
  bytes: int
  labelled: dict[str, int]  # kept rows with each label
  refused: list[Refused]


def plan(dataset: str, split: str, rows: int, shard_rows: int) -> list[Shard]:
  """Cuts rows into shards, named as tensorflow-datasets does."""
  starts = range(0, rows, shard_rows)
  return [
    Shard(
      f"{dataset}-{split}.array_record-{i:05d}-of-{len(starts):05d}",
      first,
      min(first + shard_rows, rows),
    )
    for i, first in enumerate(starts)
  ]


def read_report(folder: pathlib.Path, shard: Shard) -> Report | None:
  """The report of a shard that is done, or None."""
  try:
    found = json.loads(_report_path(folder, shard).read_text())
    report = Report(**found | {"refused": [Refused(*r) for r in found["refused"]]})
    whole = (folder / shard.file_name).stat().st_size == report.bytes
  except (OSError, ValueError, TypeError, KeyError):
    return None
  return report if whole else None


def remove_reports(folder: pathlib.Path) -> None:
  """Takes away what only an unfinished build needs."""
  for path in (*folder.glob("*.report.json"), *folder.glob(".*.partial")):
    path.unlink()


def write_shard(
  reader: Reader,
  folder: pathlib.Path,
  shard: Shard,
  most_refused: int,
  known_bad: Mapping[int, str],
  at_row: Callable[[int], None],
) -> None:
  """Reads, checks and writes a shard's rows, then its report.

  Args:
    reader: Of the dataset.
    folder: Where the shard goes.
    shard: Which rows.
    most_refused: How many rows may be bad.
    known_bad: Rows that must not be tried, and why.
    at_row: Called with each row before anything is done with it.

  Raises:
    TooManyRefused: If more are.
    OSError: If writing fails.
  """
  labelled, refused = dict.fromkeys(schema.FLAGS, 0), []
  with files.replacing(folder / shard.file_name) as partial:
    with contextlib.closing(ArrayRecordWriter(str(partial), _WRITER_OPTIONS)) as out:
      for example, record in valid_rows.sound_rows(
        reader,
        range(shard.first, shard.end),
        known_bad,
        at_row,
        refused,
        most_refused,
      ):
        out.write(record)
        for name in schema.FLAGS:
          labelled[name] += bool(example[name])
    size = _synced_size(partial)
  kept = shard.end - shard.first - len(refused)
  report = Report(kept, size, labelled, refused)._asdict()
  with files.replacing(_report_path(folder, shard)) as partial:
    partial.write_text(json.dumps(report))


def _report_path(folder: pathlib.Path, shard: Shard) -> pathlib.Path:
  return folder / f"{shard.file_name}.report.json"


def _synced_size(path: pathlib.Path) -> int:
  with open(path, "rb") as file:
    os.fsync(file.fileno())
    # Nothing reads it soon: the next shard may have its pages, and others keep theirs.
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
  return path.stat().st_size


def write_all(
  reader: Reader,
  folder: pathlib.Path,
  missing: Sequence[Shard],
  workers: int,
  most_refused: int,
  done: Callable[[Shard, Report], None],
  rows_read: Callable[[int], None],
) -> None:
  """Writes shards in parallel processes.

  Args:
    reader: Of the dataset.
    folder: Where they go.
    missing: Those to write.
    workers: Processes.
    most_refused: How many rows may be bad.
    done: Called with each shard that is done, and its report.
    rows_read: Called with numbers of rows that were read since.

  Raises:
    TooManyRefused: If more are bad in one shard.
    OSError: With errno ENOSPC when the disk is full.
    TimeoutError: If a process does not start.
    RuntimeError: If a process fails otherwise, with what it said.
  """
  waiting = collections.deque(missing)
  size = max(1, min(workers, len(missing)))
  job = pickle.dumps((reader, folder, most_refused))
  # The pool waits for its threads, and they for the processes, so those end first.
  with (
    concurrent.futures.ThreadPoolExecutor(size) as pool,
    contextlib.ExitStack() as stack,
  ):
    futures = []
    for _ in range(size):
      worker = _Worker(job, reader, rows_read)
      stack.callback(worker.stop)
      futures.append(pool.submit(_keep_busy, worker, waiting, folder, done))
    stack.callback(waiting.clear)
    for future in concurrent.futures.as_completed(futures):
      future.result()


def _keep_busy(worker, waiting, folder, done) -> None:
  while True:
    try:
      shard = waiting.popleft()
    except IndexError:
      return
    try:
      worker.write(shard)
      report = read_report(folder, shard)
      if report is None:
        raise RuntimeError(f"{folder / shard.file_name} vanished after it was written")
      done(shard, report)
    except BaseException:
      waiting.clear()
      raise


class _Ended(Exception):  # noqa: N818
  """A process died or hung at a row."""

  def __init__(self, row: int, reason: str):
    super().__init__(reason)
    self.row = row


class _Worker:
  """A reading process, which is started again when it ends."""

  def __init__(self, job: bytes, reader: Reader, rows_read: Callable[[int], None]):
    self._job, self._reader, self._rows_read = job, reader, rows_read
    self._stopped = False
    self._start()

  def _start(self) -> None:
    self._shared = tempfile.TemporaryFile()  # noqa: SIM115
    self._shared.truncate(_PLACE.size)
    self._place = mmap.mmap(self._shared.fileno(), _PLACE.size)
    self._process = subprocess.Popen(
      [sys.executable, "-m", __spec__.name, str(self._shared.fileno())],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=os.environ | _ONE_THREAD | {"PYTHONPATH": files.import_path()},
      pass_fds=[self._shared.fileno()],
    )
    self._send(self._job)

  def _send(self, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(content)
      self._process.stdin.flush()

  def write(self, shard: Shard) -> None:
    """Waits until the shard is written."""
    known_bad: dict[int, str] = {}
    suspect = -1
    while True:
      try:
        return self._try(shard, known_bad)
      except _Ended as ended:
        if self._stopped:
          raise RuntimeError("the build was stopped") from None
        if ended.row < shard.first:
          raise RuntimeError(f"a reading process did not start: {ended}") from None
        if ended.row == suspect:
          known_bad[suspect] = str(ended)
        suspect = ended.row
        self._close()
        self._start()

  def _try(self, shard: Shard, known_bad: Mapping[int, str]) -> None:
    _PLACE.pack_into(self._place, 0, shard.first - 1)
    self._send(pickle.dumps((shard, known_bad)))
    line = self._await_line(shard)
    if not line:
      code = self._process.wait()
      how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
      raise _Ended(self._row(), f"reading it ended a process twice ({how})")
    answer = json.loads(line)
    if "refused" in answer:
      raise TooManyRefused([Refused(*r) for r in answer["refused"]])
    if answer["errno"] is not None:
      raise OSError(answer["errno"], answer["error"])
    if answer["error"]:
      raise RuntimeError(f"writing {shard.file_name} failed: {answer['error']}")

  def _row(self) -> int:
    return _PLACE.unpack_from(self._place, 0)[0]

  def _await_line(self, shard: Shard) -> bytes:
    """The answer; counts rows meanwhile, and ends a process that hangs at one."""
    counted, last = shard.first, shard.first - 1
    since = time.monotonic()
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      while not selector.select(timeout=0.2):
        row = self._row()
        if row != last:
          last, since = row, time.monotonic()
          self._rows_read(max(row - counted, 0))
          counted = max(row, counted)
          continue
        started = row >= shard.first
        if time.monotonic() - since > (PATIENCE_S if started else START_PATIENCE_S):
          self._process.kill()
          self._process.wait()
          if not started:
            raise TimeoutError(
              f"expected a reading process to start within {START_PATIENCE_S:g} s, "
              "got one that hangs in its imports or at the data's files"
            )
          raise _Ended(row, f"reading it took over {PATIENCE_S:g} s twice")
    line = self._process.stdout.readline()
    end = shard.end if line else shard.first
    self._rows_read(end - counted)
    return line

  def stop(self) -> None:
    """Ends the process, whatever it does."""
    self._stopped = True
    self._close()

  def _close(self) -> None:
    self._process.terminate()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(BrokenPipeError, ValueError):
        pipe.close()
    self._shared.close()


def _serve(shared: int) -> None:
  """The reading process: takes the job, then shards, until its input ends."""
  # Only answers may go to the pipe, whatever prints.
  answers, sys.stdout = sys.stdout, sys.stderr
  place = mmap.mmap(shared, _PLACE.size)
  parent = os.getppid()
  reader, folder, most_refused = pickle.load(sys.stdin.buffer)

  def at_row(row: int) -> None:
    if os.getppid() != parent:
      raise SystemExit(1)  # the build has ended
    _PLACE.pack_into(place, 0, row)

  with contextlib.suppress(EOFError):
    while True:
      shard, known_bad = pickle.load(sys.stdin.buffer)
      answer = _write(reader, folder, shard, most_refused, known_bad, at_row)
      print(json.dumps(answer), file=answers, flush=True)


def _write(*arguments: Any) -> dict[str, Any]:
  try:
    write_shard(*arguments)
  except TooManyRefused as error:
    return {"refused": error.refused}
  except OSError as error:
    return {"error": str(error), "errno": error.errno or errno.EIO}
  except Exception as error:
    full = files.means_full_disk(error)
    return {"error": valid_rows.reason(error), "errno": errno.ENOSPC if full else None}
  return {"error": "", "errno": None}


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
    _serve(int(sys.argv[1]))
