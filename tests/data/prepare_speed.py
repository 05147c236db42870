"""How fast a TSV dataset is prepared, and in how much memory.

Run:    python tests/data/prepare_speed.py [--rows=100000] [--workers=1] [--folder=TMP]
Result: rows a second, of wall time and of the processes' own time, and the largest
        memory of the build and all its processes together. Writes the dataset first:
        224-pixel JPEGs of about 12 KB with all labels, 23 KB a row.

The processes' own time counts neither waiting for a disk nor for other programs.
"""

import argparse
import base64
import pathlib
import resource
import runpy
import tempfile
import threading
import time
from typing import NamedTuple

from metro_jax.data.builders import prepared
from metro_jax.data.readers import formats

rows = runpy.run_path(str(pathlib.Path(__file__).with_name("tsv_rows.py")))
PICTURES = 200  # different ones


class Measured(NamedTuple):
  """Of one build."""

  rows: int
  wall_s: float
  processor_s: float  # of the reading processes, with their start
  peak_mb: float  # proportional set size of all processes


def write(folder: pathlib.Path, count: int) -> pathlib.Path:
  """Writes a dataset row by row; gives its yaml file."""
  path = rows["write"](folder, range(1))
  pictures = [
    base64.b64encode(rows["picture"](seed, side=224, quality=70))
    for seed in range(PICTURES)
  ]
  labels = [
    rows["label_row"](seed, rows["label"](seed, side=224)).split(b"\t")[1]
    for seed in range(PICTURES)
  ]
  with (
    open(folder / "train.img.tsv", "wb") as images_file,
    open(folder / "train.label.tsv", "wb") as labels_file,
  ):
    for row in range(count):
      key = rows["key"](row).encode()
      images_file.write(b"%s\t%s\n" % (key, pictures[row % PICTURES]))
      labels_file.write(b"%s\t%s\n" % (key, labels[row % PICTURES]))
  print(f"pictures of {sum(map(len, pictures)) * 0.75 / PICTURES:,.0f} bytes")
  return path


def measure(path: pathlib.Path, folder: pathlib.Path, workers: int) -> Measured:
  """Builds, and watches its memory."""
  peak, ended = [0.0], threading.Event()

  def watch() -> None:
    while not ended.wait(0.1):
      peak[0] = max(peak[0], memory_mb())

  threading.Thread(target=watch, daemon=True).start()
  before, start = children_s(), time.monotonic()
  reader = formats.open_reader("tsv", formats.Source(path, "train"))
  summary = prepared.build(reader, folder, "speed", "train", workers)
  wall = time.monotonic() - start
  ended.set()
  return Measured(summary.kept, wall, children_s() - before, peak[0])


def children_s() -> float:
  """Processor time of the processes that have ended."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def memory_mb() -> float:
  """Of this process and its children, shared pages counted once."""
  task = pathlib.Path("/proc/self/task")
  children = [
    child for thread in task.iterdir() for child in _read(thread / "children").split()
  ]
  return sum(_proportional_mb(process) for process in ["self", *children])


def _proportional_mb(process: str) -> float:
  for line in _read(pathlib.Path("/proc") / process / "smaps_rollup").splitlines():
    if line.startswith("Pss:"):
      return int(line.split()[1]) / 1024
  return 0.0


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text()
  except OSError:  # a process that has just ended
    return ""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--rows", type=int, default=100_000)
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--folder", type=pathlib.Path)
  chosen = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
    folder = pathlib.Path(temporary)
    path = write(folder / "source", chosen.rows)
    found = measure(path, folder, chosen.workers)
  print(
    f"{found.rows:,} rows, {chosen.workers} workers: {found.rows / found.wall_s:,.0f} "
    f"rows/s, {found.rows / found.processor_s:,.0f} rows a second of processor time, "
    f"at most {found.peak_mb:,.0f} MB"
  )


if __name__ == "__main__":
  main()
