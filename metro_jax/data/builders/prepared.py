"""Prepared datasets under DATA_DIR/name/split, made once from any reader.

`build` writes shards in parallel (shards.py) into a folder beside the dataset and gives
it its name when all is there: an interrupted build goes on with the shards that are
missing. Rows that are bad are left out and named in `refused.tsv`; too many stop the
build. The result is a dataset of tensorflow-datasets, which opens it like its own.
"""

import collections
import errno
import hashlib
import json
import os
import pathlib
import pickle
import re
import shutil
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow_datasets as tfds
import tqdm

from metro_jax import files
from metro_jax.data import schema
from metro_jax.data.builders import records, shards
from metro_jax.data.builders.shards import Report, Shard
from metro_jax.data.builders.split_source import REMEDY, SplitSource
from metro_jax.data.builders.valid_rows import Refused, TooManyRefused
from metro_jax.data.readers.formats import expect_local
from metro_jax.data.readers.reader import Reader
from metro_jax.text_files import one_line

VERSION = records.VERSION
SUMMARY_FILE = "summary.json"
REFUSED_FILE = "refused.tsv"
_INFO_FILE = "dataset_info.json"
_FIELD = re.compile(r"(?:annotation \d+: )?(\w+): ")  # that a reason begins with
_NAME = re.compile(r"[A-Za-z0-9]\w*")
_MOST_SHARDS = 128
_NAMED_ROWS = 3  # that the error of too many refused rows quotes


class Summary(NamedTuple):
  """What a build read, kept and refused."""

  name: str
  split: str
  labels: str  # "body" or "hand"
  source: str  # the reader's name
  rows: int
  kept: int
  refused: int
  joints_2d: int  # kept rows with 2D joints
  joints_3d: int
  mesh: int
  bytes: int
  fingerprint: str  # of the reader; a source that changed is other data


def folder_of(data_dir: pathlib.Path, name: str, split: str) -> pathlib.Path:
  """Where a dataset's split is or will be."""
  return data_dir / name / split / VERSION


def is_built(data_dir: pathlib.Path, name: str, split: str) -> bool:
  """Whether a dataset's split is there, whole."""
  return (folder_of(data_dir, name, split) / _INFO_FILE).exists()


def open_split(
  data_dir: pathlib.Path, name: str, split: str, title: str = ""
) -> SplitSource:
  """Opens a split that was built.

  Args:
    data_dir: Where prepared datasets live.
    name: Of the dataset.
    split: Of the dataset.
    title: What runs and messages call it; "" is "name/split".

  Returns:
    Its examples by row.

  Raises:
    FileNotFoundError: If it was not built, with the command that does.
    ValueError: If it is damaged, naming the folder and what to do.
  """
  expect_local(data_dir)
  folder = folder_of(data_dir, name, split)
  if not is_built(data_dir, name, split):
    raise FileNotFoundError(
      f"dataset {name}/{split}: expected it in {folder}, got nothing; make it with "
      f"python -m metro_jax.prepare --name={name} --split={split} "
      f"--data_dir={data_dir} --format=FORMAT --source=PATH"
    )
  title = title or f"{name}/{split}"
  where = f"dataset {title} in {folder}"
  try:
    summary = _read_summary(folder)
    builder = tfds.builder_from_directory(folder)
    labels = records.labels_of(builder.info.features.shape)
    stored = next(iter(builder.info.splits))
  except Exception as error:  # whatever a damaged description does
    raise ValueError(f"{where}: {one_line(error)}; {REMEDY}") from error
  if labels is None:
    raise ValueError(f"{where}: expected labels of bodies or hands; {REMEDY}")
  return SplitSource(
    builder,
    stored,
    rows=summary.kept,
    labels=labels,
    name=title,
    where=where,
  )


def build(
  reader: Reader,
  data_dir: pathlib.Path,
  name: str,
  split: str,
  workers: int = 0,
  max_refused: float = 0.01,
  shard_rows: int = 2_000,
  title: str = "",
  needed_bytes: int = 0,
) -> Summary:
  """Builds a split, or goes on with an interrupted build, or finds it built.

  Args:
    reader: Of the rows.
    data_dir: Where prepared datasets live.
    name: What to call the dataset; letters, digits and _.
    split: What to call the split.
    workers: Reading processes; 0 means one a core.
    max_refused: Largest share of rows that may be bad.
    shard_rows: Rows of a file, at least; about a second's work of one process.
    title: What messages call it; "" is "name/split".
    needed_bytes: How large the files will be, if that is known.

  Raises:
    ValueError: If too many rows are bad, naming the first few and the file that names
      all, or if the folder holds other data.
    OSError: If the disk is full or too small, naming the folder and the space that is
      free.
    RuntimeError: If a reading process fails.
  """
  expect_names(data_dir, name, split)
  if not 0 <= max_refused <= 1:
    raise ValueError(f"--max_refused: expected a share 0 to 1, got {max_refused}")
  folder = folder_of(data_dir, name, split)
  partial = folder.with_name(f"{VERSION}.partial")
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.file_lock(folder.with_name(f"{VERSION}.lock"), f"builds {folder}"):
      fingerprint = _fingerprint(reader)
      if is_built(data_dir, name, split):
        return _expect_same(folder, fingerprint)
      if folder.exists():
        raise ValueError(f"{folder}: expected a dataset or nothing, got else; {REMEDY}")
      planned = _plan(partial, fingerprint, name, split, len(reader), shard_rows)
      if shutil.disk_usage(partial).free + _written(partial) < needed_bytes:
        raise OSError(errno.ENOSPC, "No space left on device")
      workers = workers or len(os.sched_getaffinity(0))
      title = title or f"{name}/{split}"
      progress = _Progress(partial, len(reader), max_refused, title)
      progress.run(reader, planned, workers)
      summary = progress.summary(reader, name, split, fingerprint)
      _finish(partial, reader, planned, progress, summary)
      partial.rename(folder)
      return summary
  except Exception as error:
    if not files.means_full_disk(error):
      raise
    raise _full_disk(folder, partial, needed_bytes) from error


def expect_names(data_dir: pathlib.Path, name: str, split: str) -> None:
  """Checks what a dataset is to be called and where it goes.

  Raises:
    ValueError: If a name is not made of letters, digits and _, or the folder is of a
      bucket.
  """
  expect_local(data_dir)
  for what, text in (("name", name), ("split", split)):
    if not _NAME.fullmatch(text):
      raise ValueError(f"--{what}: expected letters, digits and _, got {text!r}")


class _Digest:
  """A file that only its digest is kept of."""

  def __init__(self):
    self._digest = hashlib.sha256()

  def write(self, content: bytes | pickle.PickleBuffer) -> None:
    self._digest.update(content)

  def text(self) -> str:
    return self._digest.hexdigest()[:16]


def _fingerprint(reader: Reader) -> str:
  """Of all that the reader knows: names, sizes and times of files, lists of rows."""
  digest = _Digest()
  pickle.dump((reader, len(reader)), digest, protocol=5)
  return digest.text()


def _read_summary(folder: pathlib.Path) -> Summary:
  found = json.loads((folder / SUMMARY_FILE).read_text())
  return Summary(**{field: found[field] for field in Summary._fields})


def _expect_same(folder: pathlib.Path, fingerprint: str) -> Summary:
  try:
    summary = _read_summary(folder)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{folder}: {one_line(error)}; {REMEDY}") from error
  if summary.fingerprint != fingerprint:
    raise ValueError(
      f"{folder}: holds a dataset of other or older files ({summary.source}); "
      f"{REMEDY}, or choose another --name"
    )
  return summary


def _plan(
  partial: pathlib.Path,
  fingerprint: str,
  name: str,
  split: str,
  rows: int,
  shard_rows: int,
) -> list[Shard]:
  """The shards; those of an interrupted build of other data go."""
  if rows == 0:
    raise ValueError(f"dataset {name}/{split}: expected rows, got none")
  shard_rows = max(shard_rows, -(-rows // _MOST_SHARDS))
  plan = json.dumps([fingerprint, rows, shard_rows])
  plan_file = partial / "plan.json"
  if partial.exists() and (not plan_file.exists() or plan_file.read_text() != plan):
    shutil.rmtree(partial)
  partial.mkdir(exist_ok=True)
  with files.replacing(plan_file) as hidden:
    hidden.write_text(plan)
  return shards.plan(records.stored_name(name), split, rows, shard_rows)


class _Progress:
  """The shards that are done, the rows that were refused, and the bar."""

  def __init__(self, folder: pathlib.Path, rows: int, max_refused: float, title: str):
    self._folder, self._rows, self._title = folder, rows, title
    self._share = max_refused
    self._most = int(max_refused * rows)
    self._lock = threading.Lock()
    self.reports: dict[Shard, Report] = {}

  @property
  def refused(self) -> list[Refused]:
    """In order."""
    return sorted(r for report in self.reports.values() for r in report.refused)

  def run(self, reader: Reader, planned: Sequence[Shard], workers: int) -> None:
    """Writes the shards that are not there.

    Raises:
      ValueError: If too many rows are bad.
    """
    found = {shard: shards.read_report(self._folder, shard) for shard in planned}
    self.reports = {shard: report for shard, report in found.items() if report}
    self._expect_few(self.refused)
    missing = [shard for shard in planned if shard not in self.reports]
    left = sum(shard.end - shard.first for shard in missing)
    start = time.monotonic()
    with tqdm.tqdm(
      total=self._rows,
      initial=self._rows - left,
      unit=" rows",
      desc=self._title,
      disable=None,  # where nobody watches
    ) as bar:
      self._write(reader, missing, workers, bar)
    rate = left / max(time.monotonic() - start, 1e-9)
    print(f"{self._title}: read {left:,} of {self._rows:,} rows, {rate:,.0f} a second")

  def _write(
    self, reader: Reader, missing: Sequence[Shard], workers: int, bar: tqdm.tqdm
  ) -> None:
    def done(shard: Shard, report: Report) -> None:
      with self._lock:
        self.reports[shard] = report
        bar.set_postfix(refused=len(self.refused), refresh=False)
        self._expect_few(self.refused)

    try:
      if missing:
        shards.write_all(
          reader, self._folder, missing, workers, self._most, done, bar.update
        )
    except TooManyRefused as error:
      self._expect_few(sorted([*self.refused, *error.refused]))

  def _expect_few(self, refused: Sequence[Refused]) -> None:
    if len(refused) <= self._most:
      return
    path = self._folder / REFUSED_FILE
    write_refused(path, refused)
    raise ValueError(
      f"{self._title}: {len(refused):,} of {self._rows:,} rows are bad so far, more "
      f"than --max_refused={self._share:g} allows: {_some(refused)}; all are in {path}"
    )

  def summary(self, reader: Reader, name: str, split: str, fingerprint: str) -> Summary:
    """Adds up the shards."""
    reports = self.reports.values()
    labelled = {
      label: sum(report.labelled[label] for report in reports) for label in schema.FLAGS
    }
    return Summary(
      name=name,
      split=split,
      labels=reader.labels.name,
      source=reader.name,
      rows=self._rows,
      kept=sum(report.kept for report in reports),
      refused=len(self.refused),
      joints_2d=labelled["has_joints_2d"],
      joints_3d=labelled["has_joints_3d"],
      mesh=labelled["has_mesh"],
      bytes=sum(report.bytes for report in reports),
      fingerprint=fingerprint,
    )


def _some(refused: Sequence[Refused]) -> str:
  """The first few, for a message."""
  return "; ".join(
    one_line(f"{row.where}: {row.reason}") for row in refused[:_NAMED_ROWS]
  )


def write_refused(path: pathlib.Path, refused: Sequence[Refused]) -> None:
  """Writes the rows that were refused: file and row, reason."""
  with files.replacing(path) as hidden, open(hidden, "w", encoding="utf-8") as file:
    for row in refused:
      file.write(f"{one_line(row.where)}\t{one_line(row.reason)}\n")


def count_refused(folder: pathlib.Path) -> dict[str, int]:
  """How many rows of a built split were refused, by what was wrong with them.

  Args:
    folder: Of the split.

  Returns:
    Counts by the field that each reason names, most frequent first.
  """
  text = (folder / REFUSED_FILE).read_text(encoding="utf-8")
  reasons = [line.partition("\t")[2] for line in text.splitlines()]
  kinds = [_FIELD.match(reason) for reason in reasons]
  counted = collections.Counter(kind[1] if kind else "others" for kind in kinds)
  return dict(counted.most_common())


def _finish(
  partial: pathlib.Path,
  reader: Reader,
  planned: Sequence[Shard],
  progress: _Progress,
  summary: Summary,
) -> None:
  """Writes what describes the shards."""
  write_refused(partial / REFUSED_FILE, progress.refused)
  if summary.kept == 0:
    raise ValueError(
      f"dataset {summary.name}/{summary.split}: no row was kept: "
      f"{_some(progress.refused)}; all are in {partial / REFUSED_FILE}"
    )
  lengths = [progress.reports[shard].kept for shard in planned]
  described = json.dumps(summary._asdict(), indent=2)
  (partial / SUMMARY_FILE).write_text(f"{described}\n")
  records.write_info(
    partial,
    reader.labels,
    summary.name,
    summary.split,
    lengths,
    size=summary.bytes,
    description=f"{summary.name}/{summary.split}, from {summary.source}",
  )
  shards.remove_reports(partial)
  (partial / "plan.json").unlink()


def _full_disk(
  folder: pathlib.Path, partial: pathlib.Path, needed_bytes: int
) -> OSError:
  free, what = shutil.disk_usage(folder.parent).free, "the disk is full after"
  size, after = _written(partial), ""
  if needed_bytes:
    what, size, after = "about", needed_bytes, " are needed"
  return OSError(
    errno.ENOSPC,
    f"{folder}: {what} {size / 1e6:,.1f} MB{after}, {free / 1e6:,.1f} MB are free; "
    "make room or choose another data_dir, then go on with the same command",
  )


def _written(partial: pathlib.Path) -> int:
  return sum(f.stat().st_size for f in partial.glob("*"))
