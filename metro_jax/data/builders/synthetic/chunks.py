"""Draws the dataset in chunks, in parallel, so that an interrupted build goes on.

A chunk is a file of consecutive examples of one split. It appears under its name only
when it is complete, so whatever is there is good. Drawing processes are started with
`python -m metro_jax.data.builders.synthetic.chunks`: they do not import the program
that builds, start no JAX backend, and end when that program ends.
"""

import collections
import concurrent.futures
import contextlib
import errno
import json
import os
import pathlib
import selectors
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from metro_jax import files
from metro_jax.data import schema
from metro_jax.data.builders.synthetic import scene

CHUNK_EXAMPLES = 128
PATIENCE_S = 1800.0  # for a chunk, which takes seconds, and the imports before it
# One thread a process, and freed memory is kept for the next picture's arrays.
_ENVIRONMENT = {
  "OMP_NUM_THREADS": "1",
  "OPENBLAS_NUM_THREADS": "1",
  "MKL_NUM_THREADS": "1",
  "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
  "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


class Chunk(NamedTuple):
  """Consecutive examples of a split."""

  split: str
  first: int
  end: int

  @property
  def file_name(self) -> str:
    """What the chunk is called in its folder."""
    return f"{self.split}-{self.first:08d}-{self.end:08d}.npz"


def plan(counts: Mapping[str, int]) -> list[Chunk]:
  """Cuts every split into chunks, in order."""
  return [
    Chunk(split, first, min(first + CHUNK_EXAMPLES, count))
    for split, count in counts.items()
    for first in range(0, count, CHUNK_EXAMPLES)
  ]


def write_chunk(
  folder: pathlib.Path, chunk: Chunk, examples: Sequence[schema.Example]
) -> None:
  """Writes a chunk under another name, then gives it its own."""
  columns = {name: [e[name] for e in examples] for name in examples[0]}
  images = columns.pop("image")
  arrays = {name: np.array(values) for name, values in columns.items()}
  arrays["image"] = np.frombuffer(b"".join(images), np.uint8)
  arrays["image_bytes"] = np.array([len(i) for i in images], np.int64)
  hidden = folder / f".{chunk.file_name}.{os.getpid()}"
  try:
    with open(hidden, "wb") as file:
      np.savez(file, **arrays)
      file.flush()
      os.fsync(file.fileno())
    os.replace(hidden, folder / chunk.file_name)
  finally:
    hidden.unlink(missing_ok=True)


def read_chunk(folder: pathlib.Path, chunk: Chunk) -> Iterator[schema.Example]:
  """The examples of a chunk, in order."""
  with np.load(folder / chunk.file_name) as file:
    arrays = {name: file[name] for name in file.files}
  ends = np.cumsum(arrays.pop("image_bytes"))
  images = arrays.pop("image").tobytes()
  for row in range(chunk.end - chunk.first):
    start = int(ends[row - 1]) if row else 0
    example = {name: values[row] for name, values in arrays.items()}
    example["key"] = str(example["key"])
    example["image"] = images[start : ends[row]]
    yield schema.Example(**example)


def is_finished(folder: pathlib.Path, chunk: Chunk) -> bool:
  """Whether the chunk is there and its archive's directory can be read."""
  try:
    with zipfile.ZipFile(folder / chunk.file_name) as archive:
      return "image_bytes.npy" in archive.namelist()
  except (FileNotFoundError, zipfile.BadZipFile):
    return False


def render(
  folder: pathlib.Path,
  settings: scene.Settings,
  chunks: Sequence[Chunk],
  workers: int,
  done: Callable[[int], None],
) -> None:
  """Draws chunks in parallel processes.

  Args:
    folder: Where the chunks go.
    settings: What the pictures look like.
    chunks: What to draw.
    workers: Processes.
    done: Called with the number of examples of each finished chunk.

  Raises:
    OSError: With errno ENOSPC when the disk is full.
    RuntimeError: If a process fails otherwise, with what it said.
  """
  waiting = collections.deque(chunks)
  size = max(1, min(workers, len(chunks)))
  # The pool waits for its threads, and they for the processes, so those end first. A
  # thread that waits for a pipe never hears that another has closed it: pipes end last.
  with (
    contextlib.ExitStack() as pipes,
    concurrent.futures.ThreadPoolExecutor(size) as pool,
    contextlib.ExitStack() as stack,
  ):
    futures = []
    for _ in range(size):
      worker = _Worker(folder, settings)
      pipes.callback(worker.close)
      stack.callback(worker.stop)
      futures.append(pool.submit(_keep_busy, worker, waiting, done))
    stack.callback(waiting.clear)
    for future in concurrent.futures.as_completed(futures):
      future.result()


def _keep_busy(worker, waiting, done) -> None:
  while True:
    try:
      chunk = waiting.popleft()
    except IndexError:
      return
    try:
      worker.draw(chunk)
    except BaseException:
      waiting.clear()
      raise
    done(chunk.end - chunk.first)


class _Worker:
  """A drawing process; takes a chunk a line and answers a line."""

  def __init__(self, folder: pathlib.Path, settings: scene.Settings):
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": files.import_path()}
    self._process = subprocess.Popen(
      [sys.executable, "-m", __spec__.name],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    )
    self._send({"folder": str(folder), "settings": settings._asdict()})

  def _send(self, message) -> None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(message) + "\n")
      self._process.stdin.flush()

  def draw(self, chunk: Chunk) -> None:
    """Waits until the chunk is drawn."""
    self._send(chunk)
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      if not selector.select(timeout=PATIENCE_S):
        self._process.kill()
        raise TimeoutError(
          f"expected a drawing process to answer within {PATIENCE_S:g} s, "
          f"got one that hangs at {chunk}"
        )
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(
        f"a drawing process ended with code {self._process.wait()} at {chunk}"
      )
    answer = json.loads(line)
    if answer["errno"] is not None:
      raise OSError(answer["errno"], answer["error"])
    if answer["error"]:
      raise RuntimeError(f"drawing {chunk} failed: {answer['error']}")

  def stop(self) -> None:
    """Ends the process, whatever it does."""
    self._process.terminate()
    self._process.wait()

  def close(self) -> None:
    """Closes what led to the process."""
    for pipe in (self._process.stdin, self._process.stdout):
      with contextlib.suppress(BrokenPipeError):
        pipe.close()


def _serve() -> None:
  """The drawing process: reads the job, then chunks, until its input ends."""
  import cv2

  from metro_jax.body import humanoid

  cv2.setNumThreads(1)
  # Only answers may go to the pipe, whatever prints.
  answers, sys.stdout = sys.stdout, sys.stderr
  job = json.loads(sys.stdin.readline())
  folder, settings = pathlib.Path(job["folder"]), scene.Settings(**job["settings"])
  stage = scene.make_stage(humanoid.load())
  for line in sys.stdin:
    chunk = Chunk(*json.loads(line))
    print(json.dumps(_draw(folder, settings, stage, chunk)), file=answers, flush=True)


def _draw(folder, settings, stage, chunk) -> dict[str, str | int | None]:
  try:
    rows = range(chunk.first, chunk.end)
    examples = [scene.draw_example(stage, settings, chunk.split, i) for i in rows]
    write_chunk(folder, chunk, examples)
  except OSError as error:
    return {"error": str(error), "errno": error.errno or errno.EIO}
  except Exception as error:
    return {"error": f"{type(error).__name__}: {error}", "errno": None}
  return {"error": "", "errno": None}


if __name__ == "__main__":
  with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
    _serve()
