"""The yardstick does what the original does: same picture, same labels."""

import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.benchmarking import pictures
from metro_jax.data import augment, schema
from tests.benchmarks import original_input
from tests.fixtures.augmented import apply, augment_pose

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DRAWN = {
  "turned": augment.Augmentation(1.1, 0.4, False, np.array([0.7, 1.0, 1.3], "f4")),
  "mirrored": augment.Augmentation(0.9, 0.0, True, np.array([1.0, 1.2, 0.8], "f4")),
  "both": augment.Augmentation(0.8, -0.7, True, np.ones(3, "f4")),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_sample_is_what_our_released_crop_gives_after_the_device(name):
  example, drawn = pictures.Pictures(schema.BODY, 3)[1], DRAWN[name]
  theirs = original_input.sample(example, drawn, 224, np.random.default_rng(0))
  ours = apply(example, drawn, 224, "released")
  pixels = np.clip(ours["image"] * drawn.color_gain, 0, 255) / 255
  want = ((pixels - MEAN) / STD).transpose(2, 0, 1)
  # Ours are rounded to whole grey levels first: half a level, times gain and 1 / std.
  bound = 0.5 / 255 * 1.3 / min(STD) + 1e-4
  assert np.abs(theirs["image"] - want).max() < bound
  assert theirs["image"].dtype == np.float32
  for mine, yours in (("joints_2d", "joints_2d"), ("joints_3d", "joints_3d_m")):
    np.testing.assert_allclose(theirs[mine], ours[yours], atol=1e-5)


@pytest.mark.parametrize("name", DRAWN)
def test_its_pose_is_ours_as_a_rotation(name):
  cv2 = pytest.importorskip("cv2")
  example, drawn = pictures.Pictures(schema.BODY, 3)[2], DRAWN[name]
  theirs = original_input.sample(example, drawn, 224, np.random.default_rng(0))["pose"]
  ours = augment_pose(example["pose"], drawn)
  for a, b in zip(theirs.reshape(24, 3), ours.reshape(24, 3), strict=True):
    np.testing.assert_allclose(
      cv2.Rodrigues(a.astype(float))[0], cv2.Rodrigues(b.astype(float))[0], atol=1e-5
    )


def test_at_most_three_tenths_of_the_tokens_are_masked():
  rng = np.random.default_rng(1)
  example = pictures.Pictures(schema.BODY, 1)[0]
  masks = [
    original_input.sample(example, DRAWN["both"], 32, rng)["mask"] for _ in range(8)
  ]
  hidden = np.array([[(m[:14] == 0).sum(), (m[14:] == 0).sum()] for m in masks])
  assert masks[0].shape == (445, 1)
  assert hidden.max(0)[0] <= 4 and 0 < hidden.max(0)[1] <= 129


def test_a_batch_stacks_samples_in_order():
  source = pictures.Pictures(schema.BODY, 8)
  config = base.get_config()
  config.data.image_px = 64
  found = original_input.batch(source, range(3, 6), config, np.random.default_rng(0))
  assert found["image"].shape == (3, 3, 64, 64)
  np.testing.assert_array_equal(
    found["shape"], [source[row]["shape"] for row in range(3, 6)]
  )
