"""From stored examples to batches: order, processes, reading, checking, stacking.

Everything about a training example follows from its place in one endless global
order: its row (the split shuffled anew every epoch) and its augmentation (drawn
from the seed and the place). Batch k holds the places k B to (k + 1) B - 1, and each
process takes its own run of them. So the same batches come out whatever the number
of processes and threads and wherever a run starts, and the only state of the
pipeline is the step.

A thread takes several neighbouring places at a time, since handing work over and
calling NumPy for each would cost as much as a tenth of the pictures.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import grain
import numpy as np
from jaxtyping import Float16
from ml_collections import ConfigDict

from metro_jax.data import augment, degradation, framing, mixture, schema
from metro_jax.data.batch import Batch
from metro_jax.data.schema import Example, LabelSet

Fields = dict[str, np.ndarray]  # of a `Batch`, of several examples
_FAULTS = (ValueError, RuntimeError, OSError, LookupError)  # of files and examples
_TOGETHER = 16  # places, at most, that a thread takes at a time


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
  end_step: int | None = None,
  maps: Float16[np.ndarray, "slots gh gw c"] | None = None,
) -> Iterator[Batch]:
  """Endless shuffled and augmented batches, this process's share of each.

  Args:
    source: The training split.
    config: Uses `seed`, `data` and `train.batch_size`, which counts the examples of
      all processes.
    start_step: Number of the first batch; the ones before are skipped at no cost.
    process_index: Which share to take.
    process_count: How many processes share a batch.
    end_step: Number of the first batch that is not wanted and not read ahead.
    maps: What the backbone makes of the crops of `view_batches`, in that order; they
      take the place of pictures.

  Returns:
    Batches of NumPy arrays; concatenated over the processes they are the same for
    any number of processes.

  Raises:
    ValueError: At once, if the batch does not divide by the processes or the split
      is empty; from the iterator, naming the split, row and field of a bad example.
  """
  _expect_examples(source)
  rows, count = mixture.order(source, config.seed), len(source)

  def load(places: range) -> Fields:
    chosen = [int(rows[place]) for place in places]
    if maps is None:
      return _augmented(source, chosen, places, config)
    views = len(maps) // count
    slots = [
      place // count % views * count + row
      for place, row in zip(places, chosen, strict=True)
    ]
    return _augmented(source, chosen, slots, config, maps)

  size = config.train.batch_size
  share = _share("train.batch_size", size, process_index, process_count)
  return _batches(load, share, config.data, start_step, end_step)


def view_batches(
  source: Source, config: ConfigDict, start_step: int, batch_size: int
) -> Iterator[Batch]:
  """Every example `data.map_views` times, augmented: view after view, row by row.

  Slot v n + r is view v of row r of n.

  Args:
    source: The training split.
    config: Uses `seed`, `data` and `body.model`.
    start_step: Number of the first batch.
    batch_size: Slots a batch; the last one is as small as it must be.
  """
  count = len(source)
  end = config.data.map_views * count

  def load(slots: range) -> Fields:
    slots = range(slots.start, min(slots.stop, end))
    return _augmented(source, [slot % count for slot in slots], slots, config)

  share = _Share(0, batch_size, batch_size)
  return _batches(load, share, config.data, start_step, -(-end // batch_size), 1)


def _augmented(
  source: Source,
  rows: Sequence[int],
  places: Sequence[int],
  config: ConfigDict,
  maps: Float16[np.ndarray, "slots gh gw c"] | None = None,
) -> Fields:
  """Examples changed as their places say; with their maps instead of pictures."""
  seed, data = config.seed, config.data
  if isinstance(places, range):
    drawn = augment.numbers(seed, places.start, len(places))
  else:
    drawn = np.concatenate([augment.numbers(seed, place, 1) for place in places])
  augmentations = augment.sample(drawn, data.augment)
  more = data.passes > 1 or data.augment.degradation > 0
  streams = [augment.stream(seed, place) for place in places] if more else ()
  labels = schema.labels_of(config.body.model)
  seen = None if maps is None else maps[np.asarray(places)]
  return _load(source, rows, augmentations, data, labels, streams, seen)


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

  def load(places: range) -> Fields:
    chosen = [place * len(source) // count for place in places if place < count]
    rows = chosen or [0]
    unchanged = [augment.identity()] * len(rows)
    loaded = _load(source, rows, unchanged, config.data, labels)
    return _filled_up(loaded, len(chosen), len(places))

  size = config.eval.batch_size
  share = _share("eval.batch_size", size, process_index, process_count)
  return _batches(load, share, config.data, 0, -(-count // size))


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


def framed_batch(
  source: Source,
  rows: Sequence[int],
  frames: Mapping[int, framing.Frame],
  config: ConfigDict,
) -> Batch:
  """The examples of an evaluation's batch again, through other squares.

  Args:
    source: The split.
    rows: As the batch's `index` has them; -1 is padding.
    frames: Of every row.
    config: Uses `data` and `body.model`.
  """
  labels = schema.labels_of(config.body.model)
  chosen = [row for row in rows if row >= 0]
  seen = _Framed(source, frames) if chosen else source
  turned = [
    augment.identity()._replace(rotation_rad=frames[row].rotation_rad) for row in chosen
  ]
  unturned = [augment.identity()]
  loaded = _load(seen, chosen or [0], turned or unturned, config.data, labels)
  return Batch(**_filled_up(loaded, len(chosen), len(rows)))


class _Framed:
  """A split whose examples have other boxes."""

  def __init__(self, source: Source, frames: Mapping[int, framing.Frame]):
    self._source, self._frames = source, frames
    self.name = source.name

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, row: int) -> Example:
    frame = self._frames[row]
    center_px = frame.center_px.astype(np.float32)
    box = {"center_px": center_px, "box_px": np.float32(frame.side_px)}
    return {**self._source[row], **box}


def _load(
  source: Source,
  rows: Sequence[int],
  augmentations: Sequence[augment.Augmentation],
  data: ConfigDict,
  labels: LabelSet,
  streams: Sequence[np.random.Generator] = (),
  maps: Float16[np.ndarray, "n gh gw c"] | None = None,
) -> Fields:
  """Reads, checks and augments rows; any failure names the row.

  With `streams`, one a row, also frames and degrades them as the settings say. With
  `maps` there are no pictures to crop.
  """
  crop_px = data.image_px
  side = crop_px if maps is None else 0
  images = np.empty((len(rows), side, side, 3), np.uint8)
  examples: list[Example] = []
  for row in rows:
    example = None
    try:
      example = source[row]
      schema.check_example(example, labels)
    except _FAULTS as error:
      raise _named(source, row, example, error) from error
    examples.append(example)
  if streams and data.passes > 1:
    drawn = zip(streams, examples, augmentations, strict=True)
    pairs = [framing.train_view(*one) for one in drawn]
    examples, augmentations = ([*part] for part in zip(*pairs, strict=True))
  affines = augment.crop_affines(examples, augmentations, crop_px)
  for n, example in enumerate(examples if maps is None else ()):
    try:
      augment.crop_example(example, augmentations[n], affines[n], images[n], data.crop)
    except _FAULTS as error:
      raise _named(source, rows[n], example, error) from error
  labelled = (affines, crop_px, data.crop, labels)
  fields = augment.move_labels(examples, augmentations, *labelled)
  if streams and data.augment.degradation and maps is None:
    seen, strength = fields["joints_2d"][..., :2], data.augment.degradation
    for n, stream in enumerate(streams):
      images[n] = degradation.degrade(stream, images[n], seen[n], strength)
  return fields | {
    "image": images if maps is None else maps,
    "valid": np.ones(len(rows), np.bool_),
    "index": np.array(rows, np.int32),
    "dataset": np.array([mixture.part(source, row) for row in rows], np.int32),
  }


def _named(
  source: Source, row: int, example: Example | None, error: Exception
) -> ValueError:
  """An error in one line that says where."""
  key = f" ({_text(example['key'])})" if example and "key" in example else ""
  return ValueError(f"{source.name} row {row}{key}: {' '.join(str(error).split())}")


def _text(key: str | bytes) -> str:
  return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _filled_up(fields: Fields, kept: int, count: int) -> Fields:
  """The first `kept` examples, filled up with zeros that are not valid."""
  filled = {}
  for name, values in fields.items():
    nothing = np.zeros((count - kept, *values.shape[1:]), values.dtype)
    if name in ("index", "dataset"):
      nothing -= 1
    filled[name] = np.concatenate([values[:kept], nothing])
  return filled


def _expect_examples(source: Source) -> None:
  if len(source) == 0:
    raise ValueError(f"{source.name}: expected at least one example, got none")


class _Share(NamedTuple):
  """The places that one process takes of each batch."""

  first: int  # of its places in the first batch
  size: int  # how many it takes of each
  stride: int  # how many all take of each


def _share(
  key: str, global_batch: int, process_index: int, process_count: int
) -> _Share:
  if global_batch % process_count:
    raise ValueError(
      f"config.{key}: expected a multiple of the {process_count} processes, "
      f"got {global_batch}"
    )
  local = global_batch // process_count
  return _Share(process_index * local, local, global_batch)


def _batches(
  load: Callable[[range], Fields],
  share: _Share,
  data: ConfigDict,
  start_step: int,
  end_step: int | None,
  parts: int = 0,
) -> Iterator[Batch]:
  """Reads ahead in threads, in order, and joins; a batch in so many parts, or 0."""
  cv2.setNumThreads(0)  # the reading threads are the parallelism
  most = max(1, min(_TOGETHER, data.prefetch // data.read_threads))
  if not parts:
    parts = share.size // next(n for n in range(most, 0, -1) if share.size % n == 0)
  together = share.size // parts

  def load_part(n: int) -> Fields:
    step, part = divmod(n, parts)
    first = step * share.stride + share.first + part * together
    return load(range(first, first + together))

  end = sys.maxsize if end_step is None else end_step * parts
  numbers = grain.MapDataset.range(start_step * parts, end)
  options = grain.ReadOptions(
    num_threads=data.read_threads,
    prefetch_buffer_size=max(1, data.prefetch // together),
  )
  loaded = numbers.map(load_part).to_iter_dataset(options)
  return iter(loaded.batch(parts, batch_fn=lambda fields: Batch(**_joined(fields))))


def _joined(parts: Sequence[Fields]) -> Fields:
  if len(parts) == 1:
    return parts[0]
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
