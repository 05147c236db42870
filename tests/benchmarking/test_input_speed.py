"""Every run reads as many pictures; speeds follow from their times."""

from metro_jax import config as base
from metro_jax.benchmarking import input_speed, pictures
from metro_jax.benchmarking.timing import Timing
from metro_jax.data import augment, exact_crop, schema


def small_config():
  config = base.get_config()
  config.train.batch_size = 2
  config.data.image_px = 32
  return config


def test_every_run_reads_the_same_number_of_pictures(monkeypatch):
  read = []
  crop = exact_crop.views
  way = augment.ARITHMETICS["exact"]._replace(
    views=lambda *a: read.append(0) or crop(*a)
  )
  monkeypatch.setitem(augment.ARITHMETICS, "exact", way)
  found = input_speed.measure(small_config(), budget_s=0.0, examples=5)
  assert found.examples == 4  # two batches of two
  # Twice, with one thread and with all, and in the second a little ahead.
  wanted = 4 * (2 + found.one_core.repeats + found.whole.repeats)
  assert wanted <= len(read) <= wanted + 2 * 2 * small_config().data.prefetch_batches


def test_speeds_are_images_over_seconds():
  found = input_speed.InputSpeed(
    one_core=Timing(0.5, 0.5, 0.5, 3), whole=Timing(0.3, 0.3, 0.3, 3), examples=100
  )
  assert found.per_core == 200


def test_stored_pictures_come_again_and_again():
  stored = input_speed.stored(small_config())
  first = pictures.Pictures(schema.BODY, 2)[1]
  row = 100 * pictures.DIFFERENT + 1
  assert stored[row]["key"] == first["key"]
  assert len(stored) == input_speed.MANY
