"""Made-up photographs weigh what photographs weigh, and pass for examples."""

import cv2
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.benchmarking import pictures
from metro_jax.data import schema


def test_a_photograph_has_500_pixels_and_a_photographs_weight():
  jpeg = pictures.photograph(0)
  image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
  assert image.shape == (500, 500, 3)
  # Photographs of this size and quality take one to three bits a pixel.
  assert 1 < 8 * len(jpeg) / 500**2 < 3
  assert 30 < image.std() < 90


@pytest.mark.parametrize("labels", (schema.BODY, schema.HAND))
def test_examples_are_valid_and_the_same_every_time(labels):
  source = pictures.Pictures(labels, 40)
  example = source[33]
  schema.check_example(example, labels)
  assert example["image"] == source[33 - pictures.DIFFERENT]["image"]
  np.testing.assert_array_equal(example["pose"], source[33]["pose"])


def test_a_batch_has_the_asked_size_and_the_configs_crop():
  config = base.get_config()
  config.data.image_px = 64
  batch = pictures.batch(config, 6)
  assert batch.image.shape == (6, 64, 64, 3)
  assert batch.has_mesh.all() and batch.valid.all()
  assert config.train.batch_size == base.get_config().train.batch_size
