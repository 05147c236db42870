"""Photographs and people made up for timing: of real sizes, of no meaning."""

import functools

import cv2
import numpy as np
from ml_collections import ConfigDict

from metro_jax.data import pipeline, schema
from metro_jax.data.batch import Batch
from metro_jax.data.schema import Example, LabelSet

SIDE_PX = 500
QUALITY = 92
DIFFERENT = 16  # pictures; more would only fill memory


class Pictures:
  """A split of made-up photographs that need no disk.

  Args:
    labels: Of a body or a hand.
    count: Rows; the same few pictures come again and again.
    side_px: Of a picture.
  """

  name = "pictures/train"

  def __init__(self, labels: LabelSet, count: int, side_px: int = SIDE_PX):
    self._labels, self._count, self._side_px = labels, count, side_px

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, row: int) -> Example:
    rng = np.random.default_rng(row)
    joints, turns = len(self._labels.joints), len(self._labels.tree)
    places = self._side_px * rng.uniform(0.2, 0.8, (joints, 2))
    sure = np.ones((joints, 1))
    return schema.make_example(
      self._labels,
      f"pictures/{row}",
      photograph(row % DIFFERENT, self._side_px),
      np.full(2, self._side_px / 2),
      0.8 * self._side_px,
      joints_2d_px=np.concatenate([places, sure], axis=1),
      joints_3d_m=np.concatenate([rng.normal(0, 0.3, (joints, 3)), sure], axis=1),
      pose=rng.normal(0, 0.3, 3 * turns),
      shape=rng.normal(0, 1, schema.SHAPES),
    )


@functools.cache
def photograph(seed: int, side_px: int = SIDE_PX) -> bytes:
  """A JPEG with detail of every size, as photographs have it.

  The amplitude of a detail goes with its size.
  """
  rng = np.random.default_rng(seed)
  picture = np.full((side_px, side_px, 3), 128.0)
  size = 4
  while size <= side_px:
    field = rng.normal(0, 160 / size**0.7, (size, size, 3))
    picture += cv2.resize(field, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    size *= 2
  pixels = np.clip(picture, 0, 255).astype(np.uint8)
  return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def batch(config: ConfigDict, size: int) -> Batch:
  """A training batch of made-up people, through the pipeline.

  Args:
    config: The whole config.
    size: Examples in it.
  """
  one = with_size(config, size)
  source = Pictures(schema.labels_of(config.body.model), size)
  return next(pipeline.train_batches(source, one))


def with_size(config: ConfigDict, size: int) -> ConfigDict:
  """The config with another training batch."""
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.train.batch_size = size
  return changed
