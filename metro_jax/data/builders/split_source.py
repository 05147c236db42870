"""The examples of one split by row, out of a tensorflow-datasets folder."""

import itertools
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from metro_jax.data.builders import records
from metro_jax.data.schema import Example, LabelSet

REMEDY = "delete the folder to build it again"


class SplitSource:
  """The examples of a split by row, for grain: pictures still as JPEG bytes."""

  def __init__(
    self,
    builder: Any,
    split: str,
    *,
    rows: int,
    labels: LabelSet,
    name: str,
    where: str,
  ):
    """Opens every file and reads a row of each.

    What is not there or cut off fails now, not in the middle of training.

    Args:
      builder: Of tensorflow-datasets.
      split: Its split.
      rows: How many it must have.
      labels: Of bodies or hands.
      name: "dataset/split".
      where: Kind of data and folder, for messages.

    Raises:
      ValueError: If files are missing or damaged, with what to do.
    """
    self.name = name
    self.labels = labels
    self._where = where
    self.built = ""  # tells apart what was built here at other times
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
      described = (pathlib.Path(builder.data_path) / "dataset_info.json").stat()
      self.built = f"{described.st_mtime_ns} {described.st_size}"
      lengths = builder.info.splits[split].shard_lengths
      self._records = builder.as_data_source(split, deserialize_method=raw)
      self._length = len(self._records)
    except Exception as error:  # readers raise what they like on damaged files
      raise ValueError(f"{where}: {first_line(error)}; {REMEDY}") from error
    if self._length != rows:
      raise ValueError(f"{where}: expected {rows} rows, got {self._length}; {REMEDY}")
    starts = itertools.accumulate(lengths, initial=0)
    for start, length in zip(starts, lengths, strict=False):
      if length:
        self[start]

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, row: int) -> Example:
    """Reads one example.

    Args:
      row: From 0; negative numbers count from the end.

    Returns:
      The example as stored.

    Raises:
      IndexError: If there is no such row.
      ValueError: If the record is damaged, naming the split and the row.
    """
    row = int(row)
    if not -self._length <= row < self._length:
      raise IndexError(f"{self._where}: expected a row below {len(self)}, got {row}")
    row %= self._length
    try:
      return records.parse(self._records[row], self.labels)
    except Exception as error:  # readers raise what they like on damaged bytes
      raise ValueError(
        f"{self._where}, row {row}: damaged record ({first_line(error)}); {REMEDY}"
      ) from error

  def __repr__(self) -> str:
    return f"SplitSource({self._where})"


def first_line(error: Exception) -> str:
  """What an error says, in one line."""
  return (str(error) or type(error).__name__).splitlines()[0]
