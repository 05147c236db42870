"""The examples of one split by row, out of a tensorflow-datasets folder."""

import itertools
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_generated_pb2 as tf_example

from metro_jax.data import schema
from metro_jax.data.schema import Example, LabelSet
from metro_jax.text_files import one_line

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
      raise ValueError(f"{where}: {one_line(error)}; {REMEDY}") from error
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
      return parse(self._records[row], self.labels)
    except Exception as error:  # readers raise what they like on damaged bytes
      raise ValueError(
        f"{self._where}, row {row}: damaged record ({one_line(error)}); {REMEDY}"
      ) from error

  def __repr__(self) -> str:
    return f"SplitSource({self._where})"


def parse(message: bytes, labels: LabelSet) -> Example:
  """Turns a message into an example, whoever wrote it.

  Args:
    message: A tf.train.Example.
    labels: Of bodies or hands.

  Raises:
    ValueError: If it is no message, or lacks a field or numbers of one.
  """
  try:
    stored = tf_example.Example.FromString(message).features.feature
  except DecodeError as error:
    raise ValueError(f"expected a tf.train.Example, {error}") from error

  def only(name: str, default: Any = None) -> Any:
    values = getattr(stored[name], stored[name].WhichOneof("kind") or "", None)
    found = values.value if values else [] if default is None else [default]
    if len(found) != 1:
      raise ValueError(f"{name}: expected one value, got {len(found)}")
    return found[0]

  def floats(name: str) -> np.ndarray:
    found, shape = np.fromiter(stored[name].float_list.value, np.float32), shapes[name]
    if found.size != np.prod(shape):
      raise ValueError(f"{name}: expected shape {shape}, got {found.size} numbers")
    return found.reshape(shape)

  shapes = schema.example_shapes(labels)
  return Example(
    key=only("key").decode(),
    image=only("image"),
    center_px=floats("center_px"),
    box_px=np.float32(floats("box_px")),
    joints_2d_px=floats("joints_2d_px"),
    joints_3d_m=floats("joints_3d_m"),
    pose=floats("pose"),
    shape=floats("shape"),
    camera=floats("camera"),
    has_joints_2d=np.bool_(only("has_joints_2d")),
    has_joints_3d=np.bool_(only("has_joints_3d")),
    has_mesh=np.bool_(only("has_mesh")),
    gender=np.int32(only("gender", 0)),
    group=only("group", b"").decode(),
  )
