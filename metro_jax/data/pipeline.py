"""From stored examples to batches: order, processes, reading, checking, stacking.

Everything about a training example follows from its place in one endless global
order: its row (the split shuffled anew every epoch) and its augmentation (drawn
from the seed and the place). Batch k holds the places k B to (k + 1) B - 1, and each
process takes its own run of them. So the same batches come out whatever the number
of processes and threads and wherever a run starts, and the only state of the
pipeline is the step.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import cv2
import grain
import numpy as np
from ml_collections import ConfigDict

from metro_jax.data import augment, mixture, schema
from metro_jax.data.batch import Batch
from metro_jax.data.schema import Example, LabelSet


@runtime_checkable
class Source(Protocol):
  """One split of a dataset, read in any order by several threads."""

  name: str  # "dataset/split", as errors call it

  def __len__(self) -> int: ...

  def __getitem__(self, row: int) -> Example: ...


def train_batches(
  source: Source,
  config: ConfigDict,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Endless shuffled and augmented batches, this process's share of each.

  Args:
    source: The training split.
    config: Uses `seed`, `data` and `train.batch_size`, which counts the examples of
      all processes.
    start_step: Number of the first batch; the ones before are skipped at no cost.
    process_index: Which share to take.
    process_count: How many processes share a batch.

  Returns:
    Batches of NumPy arrays; concatenated over the processes they are the same for
    any number of processes.

  Raises:
    ValueError: At once, if the batch does not divide by the processes or the split
      is empty; from the iterator, naming the split, row and field of a bad example.
  """
  _expect_examples(source)
  rows = mixture.order(source, config.seed)
  labels = schema.labels_of(config.body.model)

  def load(position: int) -> dict[str, Any]:
    rng = np.random.default_rng((config.seed, position))
    augmentation = augment.sample(rng, config.data.augment)
    return _load(source, int(rows[position]), augmentation, config.data, labels)

  size = config.train.batch_size
  local, position = _share("train.batch_size", size, process_index, process_count)
  positions = grain.MapDataset.range(start_step * local, sys.maxsize).map(position)
  return _batches(positions.map(load), local, config.data)


def eval_batches(
  source: Source,
  config: ConfigDict,
  process_index: int = 0,
  process_count: int = 1,
  max_examples: int = 0,
) -> Iterator[Batch]:
  """Every example once, in order and as it is, this process's share of each batch.

  The last batch is filled up with zeros that are not `valid` and have index -1, so
  that every process sees the same number of full batches.

  Args:
    source: The split to evaluate.
    config: Uses `data` and `eval.batch_size`, which counts the examples of all
      processes.
    process_index: Which share to take.
    process_count: How many processes share a batch.
    max_examples: If above 0, only so many examples, spread evenly over the split.

  Returns:
    Batches of NumPy arrays.

  Raises:
    ValueError: As `train_batches`.
  """
  _expect_examples(source)
  count = min(len(source), max_examples or len(source))
  labels = schema.labels_of(config.body.model)

  def load(position: int) -> dict[str, Any]:
    if position >= count:
      return _padding(config.data.image_px, labels)
    row = position * len(source) // count
    return _load(source, row, augment.identity(), config.data, labels)

  size = config.eval.batch_size
  local, position = _share("eval.batch_size", size, process_index, process_count)
  positions = grain.MapDataset.range(-(-count // size) * local).map(position)
  return _batches(positions.map(load), local, config.data)


def saved_position(step: int, source: Source, config: ConfigDict) -> dict[str, Any]:
  """What a checkpoint keeps of the pipeline: the next step and what gives it meaning.

  Args:
    step: Number of the next batch, which is how many have been trained on.
    source: The training split.
    config: The run's config.

  Returns:
    Plain values, fit for JSON.
  """
  return {
    "step": int(step),
    "global_batch": int(config.train.batch_size),
    "seed": int(config.seed),
    "source": source.name,
    "examples": len(source),
  }


def restored_step(saved: dict[str, Any], source: Source, config: ConfigDict) -> int:
  """The step to go on with after a checkpoint.

  Args:
    saved: What `saved_position` gave.
    source: The training split now.
    config: The config now.

  Returns:
    `start_step` for `train_batches`.

  Raises:
    ValueError: If the order of the examples has changed since, saying what differs.
  """
  now = saved_position(saved["step"], source, config)
  changed = [
    f"{name} was {saved.get(name)!r} and is {now[name]!r}"
    for name in now
    if saved.get(name) != now[name]
  ]
  if changed:
    raise ValueError(
      f"checkpoint at step {saved['step']}: expected the data it was trained on, got "
      f"other ({'; '.join(changed)}); restore these settings or start a new workdir"
    )
  return int(saved["step"])


def _load(
  source: Source,
  row: int,
  augmentation: augment.Augmentation,
  data: ConfigDict,
  labels: LabelSet,
) -> dict[str, Any]:
  """Reads, checks and augments a row; any failure names the row."""
  where = f"{source.name} row {row}"
  try:
    example = source[row]
    where += f" ({_text(example['key'])})" if "key" in example else ""
    schema.check_example(example, labels)
    crop = (data.image_px, data.crop, labels)
    fields = augment.apply(example, augmentation, *crop)
  except (ValueError, RuntimeError, OSError, LookupError) as error:
    raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
  return fields | {
    "valid": np.bool_(True),
    "index": np.int32(row),
    "dataset": np.int32(mixture.part(source, row)),
  }


def _text(key: str | bytes) -> str:
  return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _padding(crop_px: int, labels: LabelSet) -> dict[str, Any]:
  no, count = np.bool_(False), len(labels.joints)
  return {
    "image": np.zeros((crop_px, crop_px, 3), np.uint8),
    "color_gain": np.ones(3, np.float32),
    "joints_2d": np.zeros((count, 3), np.float32),
    "joints_3d_m": np.zeros((count, 4), np.float32),
    "pose": np.zeros(3 * len(labels.tree), np.float32),
    "shape": np.zeros(schema.SHAPES, np.float32),
    "gender": np.int32(0),
    "has_joints_2d": no,
    "has_joints_3d": no,
    "has_mesh": no,
    "valid": no,
    "index": np.int32(-1),
    "dataset": np.int32(-1),
  }


def _expect_examples(source: Source) -> None:
  if len(source) == 0:
    raise ValueError(f"{source.name}: expected at least one example, got none")


def _share(
  key: str, global_batch: int, process_index: int, process_count: int
) -> tuple[int, Callable[[int], int]]:
  """A process's batch size, and the global place of its n-th example."""
  if global_batch % process_count:
    raise ValueError(
      f"config.{key}: expected a multiple of the {process_count} processes, "
      f"got {global_batch}"
    )
  local = global_batch // process_count

  def position(n: int) -> int:
    batch, within = divmod(n, local)
    return batch * global_batch + process_index * local + within

  return local, position


def _batches(
  examples: grain.MapDataset, batch_size: int, data: ConfigDict
) -> Iterator[Batch]:
  """Reads ahead in threads, in order, and stacks."""
  cv2.setNumThreads(0)  # the reading threads are the parallelism
  options = grain.ReadOptions(
    num_threads=data.read_threads, prefetch_buffer_size=data.prefetch
  )
  return iter(examples.to_iter_dataset(options).batch(batch_size, batch_fn=_stack))


def _stack(examples: Sequence[dict[str, Any]]) -> Batch:
  return Batch(**{k: np.stack([e[k] for e in examples]) for k in examples[0]})
