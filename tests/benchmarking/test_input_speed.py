"""Both ways read the same pictures; speeds follow from their times."""

from metro_jax import config as base
from metro_jax.benchmarking import input_speed, original_input, pictures
from metro_jax.benchmarking.timing import Timing
from metro_jax.data import augment, exact_crop, schema


def small_config():
  config = base.get_config()
  config.train.batch_size = 2
  config.data.image_px = 32
  return config


def test_both_sides_do_the_same_number_of_pictures(monkeypatch):
  ours, theirs = [], []
  crop, sample = exact_crop.views, original_input.sample
  way = augment.ARITHMETICS["exact"]._replace(
    views=lambda *a: ours.append(0) or crop(*a)
  )
  monkeypatch.setitem(augment.ARITHMETICS, "exact", way)
  monkeypatch.setattr(
    original_input, "sample", lambda *a: theirs.append(0) or sample(*a)
  )
  found = input_speed.measure(small_config(), budget_s=0.0, examples=5)
  assert found.examples == 4  # two batches of two
  assert len(theirs) == 4 * (1 + found.original.repeats)
  # Ours twice, alone and with all threads, and in the second a little ahead.
  wanted = 4 * (2 + found.ours.repeats + found.whole.repeats)
  assert wanted <= len(ours) <= wanted + 2 * 2 * small_config().data.prefetch_batches


def test_speeds_are_images_over_seconds():
  found = input_speed.InputSpeed(
    ours=Timing(0.5, 0.5, 0.5, 3),
    original=Timing(2.0, 2.0, 2.0, 3),
    whole=Timing(0.3, 0.3, 0.3, 3),
    examples=100,
    cores=2,
  )
  assert (found.per_core, found.ratio) == (200, 4)


def test_a_batch_on_its_way_to_the_devices_has_its_pictures_bytes():
  config = small_config()
  taken, size = input_speed.to_devices(config, budget_s=0.0)
  assert taken.repeats == 3
  assert 2 * 32 * 32 * 3 < size < 2 * 32 * 32 * 3 + 4_000


def test_stored_pictures_come_again_and_again():
  source = pictures.Pictures(schema.BODY, 2)
  stored = input_speed._Stored([source[0], source[1]])
  assert stored[100_001]["key"] == source[1]["key"]
  assert len(stored) == input_speed.MANY
