"""Order, processes, resuming, padding and complaints of the input pipeline."""

import itertools
import json
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.data import augment, mixture, pipeline
from tests.fixtures.augmented import apply

IMAGE_PX = 32


def example(row):
  rng = np.random.default_rng(row)
  image = rng.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
  ones = np.ones((24, 1))
  return {
    "key": f"record-{row:04d}",
    "image": cv2.imencode(".jpg", image)[1].tobytes(),
    "center_px": np.array([16.0, 16.0], np.float32),
    "box_px": np.float32(30.0),
    "joints_2d_px": np.concatenate([rng.uniform(0, 32, (24, 2)), ones], 1),
    "joints_3d_m": np.concatenate([rng.normal(size=(24, 3)), ones], 1),
    "pose": rng.normal(0, 0.3, 72).astype(np.float32),
    "shape": rng.normal(size=10).astype(np.float32),
    "camera": np.full(3, np.nan, np.float32),
    "has_joints_2d": np.bool_(True),
    "has_joints_3d": np.bool_(row % 2 == 0),
    "has_mesh": np.bool_(row % 3 == 0),
  }


class Source:
  """Small made-up examples; `damaged` replaces fields of row 3."""

  def __init__(self, examples, **damaged):
    self.name = "made_up/train"
    self.examples = [example(row) for row in range(examples)]
    self.reads = 0
    if damaged:
      self.examples[3] |= damaged

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, row):
    self.reads += 1
    return self.examples[row]


def make_config(batch_size=6, threads=2, seed=0):
  config = base.get_config()
  config.seed = seed
  config.data.image_px = IMAGE_PX
  config.data.read_threads = threads
  config.train.batch_size = batch_size
  config.eval.batch_size = batch_size
  return config


def train(source, count, config=None, **kwargs):
  batches = pipeline.train_batches(source, config or make_config(), **kwargs)
  return list(itertools.islice(batches, count))


def evaluate(source, config=None, **kwargs):
  return list(pipeline.eval_batches(source, config or make_config(), **kwargs))


def assert_same(ours, theirs):
  for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_array_equal(our, their)


def concatenate(batches):
  return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)


def test_a_batch_is_as_the_schema_says():
  (batch,) = train(Source(7), 1)
  kinds = {name: value.dtype for name, value in vars(batch).items()}
  assert kinds.pop("image") == np.uint8
  for name in ("index", "dataset", "gender"):
    assert kinds.pop(name) == np.int32
  for name in ("has_joints_2d", "has_joints_3d", "has_mesh", "valid"):
    assert kinds.pop(name) == np.bool_
  assert set(kinds.values()) == {np.dtype(np.float32)}
  assert batch.image.shape == (6, IMAGE_PX, IMAGE_PX, 3)
  assert batch.valid.all()


def test_hands_go_the_same_way():
  config = make_config()
  config.body.model = "mano"
  config.data.augment.flip_probability = 0.0
  source = Source(7)
  rng = np.random.default_rng(0)
  for row in range(7):
    source.examples[row] |= {
      "joints_2d_px": np.ones((21, 3)),
      "joints_3d_m": np.ones((21, 4)),
      "pose": rng.normal(0, 0.3, 48).astype(np.float32),
    }
  (batch,) = train(source, 1, config)
  assert batch.joints_2d.shape == (6, 21, 3)
  assert batch.joints_3d_m.shape == (6, 21, 4)
  assert batch.pose.shape == (6, 48)
  rest = np.array([source.examples[row]["pose"][3:] for row in batch.index])
  np.testing.assert_array_equal(batch.pose[:, 3:], rest * batch.has_mesh[:, None])
  padded = evaluate(source, config)[-1]
  assert padded.joints_2d.shape == (6, 21, 3) and not padded.valid[-1]


def test_an_example_knows_its_dataset_in_a_mixture():
  mixed = mixture.Mixture([Source(4), Source(5)], (1, 2))
  batches = train(mixed, 4)
  for batch in batches:
    np.testing.assert_array_equal(batch.dataset, batch.index >= 4)
    assert batch.dataset.sum() == 4  # of 6: two thirds
  whole = evaluate(mixed)
  assert [int(i) for b in whole for i in b.dataset] == [0] * 4 + [1] * 5 + [-1] * 3


def test_every_epoch_shows_every_example_once_in_another_order():
  epochs = concatenate(train(Source(12), 6)).index.reshape(3, 12)
  for epoch in epochs:
    assert sorted(epoch) == list(range(12))
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_seed_decides_order_and_augmentation():
  source = Source(12)
  (first,) = train(source, 1)
  (again,) = train(source, 1)
  (other,) = train(source, 1, make_config(seed=1))
  assert_same(first, again)
  assert (first.index != other.index).any()
  assert (first.color_gain != other.color_gain).all()


def test_an_example_is_augmented_anew_every_epoch():
  seen = concatenate(train(Source(4), 4, make_config(batch_size=4)))
  gains = seen.color_gain[seen.index == 2]
  assert len(gains) == 4 and len(np.unique(gains[:, 0])) == 4


def test_training_examples_are_what_their_seed_and_place_say():
  config, source = make_config(), Source(12)
  seen = concatenate(train(source, 3, config))
  place = 15
  drawn = augment.numbers(config.seed, place, 1)
  (change,) = augment.sample(drawn, config.data.augment)
  fields = apply(source.examples[seen.index[place]], change, IMAGE_PX)
  for name, value in fields.items():
    np.testing.assert_array_equal(getattr(seen, name)[place], value)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_starting_at_a_step_continues_the_uninterrupted_run(step):
  source = Source(10)  # 6 does not divide it: batches span epochs
  whole = train(source, 7)
  for ours, theirs in zip(
    train(source, 2, start_step=step), whole[step:], strict=False
  ):
    assert_same(ours, theirs)


def test_starting_late_reads_nothing_before():
  source = Source(10)
  train(source, 1, start_step=100_000)
  assert source.reads <= 6 + 12  # a batch and the two read ahead


def test_a_run_that_ends_reads_no_further():
  whole, source = train(Source(10), 5), Source(10)
  for ours, theirs in zip(
    train(source, 9, start_step=3, end_step=5), whole[3:], strict=True
  ):
    assert_same(ours, theirs)
  assert source.reads == 2 * 6


@pytest.mark.parametrize(("batch_size", "threads"), [(6, 12), (7, 4), (6, 1), (6, 0)])
def test_how_many_examples_a_thread_takes_changes_nothing(batch_size, threads):
  config, source = make_config(batch_size), Source(10)
  config.data.read_threads = threads
  for kind in (train, evaluate):
    size = (3,) if kind is train else ()
    ours = kind(source, *size, config=config)
    theirs = kind(source, *size, config=make_config(batch_size))
    for our, their in zip(ours, theirs, strict=True):
      assert_same(our, their)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_one_global_order(processes):
  source = Source(10)
  alone = train(source, 4)
  shares = [
    train(source, 4, process_index=i, process_count=processes) for i in range(processes)
  ]
  for k, batch in enumerate(alone):
    assert_same(concatenate([share[k] for share in shares]), batch)


def test_resuming_on_another_number_of_processes_repeats_and_skips_nothing():
  source = Source(12)
  before = [
    train(source, 1, process_index=i, process_count=3)[0].index for i in range(3)
  ]
  after = [
    train(source, 1, start_step=1, process_index=i, process_count=2)[0].index
    for i in range(2)
  ]
  assert sorted(np.concatenate(before + after)) == list(range(12))


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_change_nothing(threads):
  source = Source(10)
  for ours, theirs in zip(
    train(source, 3, make_config(threads=threads)), train(source, 3), strict=True
  ):
    assert_same(ours, theirs)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("examples", [1, 5, 6, 7, 12, 13])
def test_evaluation_sees_every_example_exactly_once(examples, processes):
  source = Source(examples)
  shares = [
    evaluate(source, process_index=i, process_count=processes) for i in range(processes)
  ]
  assert {len(share) for share in shares} == {-(-examples // 6)}
  batches = [batch for share in shares for batch in share]
  assert all(batch.image.shape[0] == 6 // processes for batch in batches)
  everything = concatenate(batches)
  assert sorted(everything.index[everything.valid]) == list(range(examples))
  assert (everything.index[~everything.valid] == -1).all()
  assert not everything.image[~everything.valid].any()
  assert not everything.has_mesh[~everything.valid].any()


def test_evaluation_changes_nothing_about_an_example():
  source = Source(5)
  (batch,) = evaluate(source)
  fields = apply(source.examples[4], augment.identity(), IMAGE_PX)
  for name, value in fields.items():
    np.testing.assert_array_equal(getattr(batch, name)[4], value)


def test_a_limited_evaluation_is_spread_over_the_split():
  rows = concatenate(evaluate(Source(10), max_examples=4))
  assert list(rows.index[rows.valid]) == [0, 2, 5, 7]
  whole = concatenate(evaluate(Source(5), max_examples=50))
  assert whole.valid.sum() == 5


def test_opencv_does_not_start_threads_of_its_own():
  cv2.setNumThreads(4)
  train(Source(6), 1)
  assert cv2.getNumThreads() == 1


def test_batches_that_do_not_divide_by_the_processes_are_refused():
  with pytest.raises(
    ValueError, match=r"config.train.batch_size: .*multiple of the 4 processes, got 6"
  ):
    pipeline.train_batches(Source(10), make_config(), process_count=4)
  with pytest.raises(ValueError, match=r"config.eval.batch_size: .* got 6"):
    pipeline.eval_batches(Source(10), make_config(), process_count=4)


def test_an_empty_split_is_refused():
  for make in (pipeline.train_batches, pipeline.eval_batches):
    with pytest.raises(ValueError, match="made_up/train: expected at least one"):
      make(Source(0), make_config())


WHOLE = example(3)["image"]


@pytest.mark.parametrize(
  ("damaged", "message"),
  [
    ({"image": WHOLE[: len(WHOLE) // 2]}, "image: expected a whole JPEG, got "),
    ({"image": b""}, "image: expected a whole JPEG, got 0 bytes"),
  ],
)
def test_a_bad_picture_is_named_in_one_line(damaged, message):
  source = Source(6, **damaged)
  with pytest.raises(ValueError, match=message) as caught:
    evaluate(source)
  assert str(caught.value).startswith("made_up/train row 3 (record-0003): ")
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=r"^made_up/train row 3 "):
    train(source, 1)


def test_an_unreadable_record_is_named_in_one_line():
  class Unreadable(Source):
    def __getitem__(self, row):
      if row == 3:
        raise RuntimeError("chunk hash mismatch\n  in file 7")
      return super().__getitem__(row)

  with pytest.raises(ValueError) as caught:
    evaluate(Unreadable(6))
  assert str(caught.value) == "made_up/train row 3: chunk hash mismatch in file 7"


def test_a_checkpoint_remembers_the_step():
  source, config = Source(10), make_config()
  saved = json.loads(json.dumps(pipeline.saved_position(17, source, config)))
  assert pipeline.restored_step(saved, source, config) == 17


@pytest.mark.parametrize(
  ("source", "config", "message"),
  [
    (Source(10), make_config(batch_size=12), "global_batch was 6 and is 12"),
    (Source(10), make_config(seed=4), "seed was 0 and is 4"),
    (Source(11), make_config(), "examples was 10 and is 11"),
  ],
)
def test_a_checkpoint_of_other_data_is_refused(source, config, message):
  saved = pipeline.saved_position(17, Source(10), make_config())
  with pytest.raises(ValueError, match=f"checkpoint at step 17: .*{message}"):
    pipeline.restored_step(saved, source, config)


def test_anything_with_a_name_a_length_and_rows_is_a_source():
  assert isinstance(Source(1), pipeline.Source)
  assert not isinstance(SimpleNamespace(name="no rows"), pipeline.Source)
