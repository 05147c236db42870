"""The released code's crop and labels against its own numbers on small pictures.

The goldens' library was OpenCV 5; another version may round a turned or resized pixel
otherwise, by at most a grey level. The tests print how many do.
"""

import pathlib

import cv2
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.data import augment, pipeline, released_crop
from tests.fixtures.augmented import apply
from tests.fixtures.in_memory import InMemory

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "image_cv5.npz"
CENTER_PX, BOX_PX = np.array([24.0, 30.0], np.float32), np.float32(60)
IMAGES = {"rand": "img", "smooth": "img_smooth"}


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
  with np.load(GOLDENS) as file:
    return dict(file)


def example(goldens):
  """The goldens' person as stored; PNG, which is exact, for JPEG."""
  encoded = cv2.imencode(".png", goldens["img_smooth"][..., ::-1])[1]
  return {
    "key": "made/0",
    "image": encoded.tobytes(),
    "center_px": CENTER_PX,
    "box_px": BOX_PX,
    "joints_2d_px": goldens["kp_img"],
    "joints_3d_m": goldens["S"],
    "pose": goldens["pose"],
    "shape": np.zeros(10, np.float32),
    "camera": np.full(3, np.nan, np.float32),
    "has_joints_2d": np.bool_(True),
    "has_joints_3d": np.bool_(True),
    "has_mesh": np.bool_(True),
  }


def augmentation(goldens, case: int) -> augment.Augmentation:
  """A golden case in our terms: we mirror first, the released code turns first."""
  degrees, flip = goldens["j_cases_rot_flip"][case]
  turn = float(np.deg2rad(degrees)) * (1 if flip else -1)
  return augment.Augmentation(1.0, turn, bool(flip), goldens["pn"].astype(np.float32))


def assert_grey_levels_equal(what: str, got: np.ndarray, want: np.ndarray) -> None:
  """Equal up to a grey level; prints how many numbers are not quite equal."""
  difference = np.abs(got - want)
  count = int((difference > 1e-6).sum())
  print(
    f"{what}: {count} of {difference.size} differ, by {difference.max():.3g} at most"
  )
  assert got.shape == want.shape
  assert difference.max() <= 1, what


@pytest.mark.parametrize("case", range(5))
def test_the_map_and_whole_pixels_are_the_released_codes(goldens, case):
  *center_px, scale, height, _, degrees = goldens["cases"][case]
  got = released_crop.affine(np.array(center_px), scale, int(height), degrees)
  np.testing.assert_allclose(got, goldens[f"get_transform/{case}"][:2], rtol=1e-12)
  # The released function counts pixels from 1, its callers from 0.
  snapped = released_crop.snap(goldens["pts"] - 1, got)
  np.testing.assert_array_equal(snapped, goldens[f"transform/{case}"])


@pytest.mark.parametrize("picture", IMAGES)
@pytest.mark.parametrize("case", range(6))
def test_crops_are_the_released_codes(goldens, case, picture):
  *center_px, scale, side, degrees = goldens[f"crop32_case/{case}"]
  image = goldens[IMAGES[picture]]
  got = released_crop.cut_out(image, np.array(center_px), scale, int(side), degrees)
  assert_grey_levels_equal("crop", got, goldens[f"crop32/{picture}/{case}"])


@pytest.mark.parametrize(("case", "degrees"), [(0, 0.0), (1, 25.0)])
def test_large_crops_are_the_released_codes(goldens, case, degrees):
  got = released_crop.cut_out(goldens["img"], CENTER_PX, 0.25, 224, degrees)
  want = goldens[f"crop224/{case}/every7"]
  assert_grey_levels_equal("crop", got[::7, ::7], want)
  stat = got.mean(), got.std(), got.min(), got.max()
  np.testing.assert_allclose(stat, goldens[f"crop224/{case}/stat"], atol=0.05)


@pytest.mark.parametrize("case", range(5))
def test_an_augmented_example_has_the_released_codes_picture_and_labels(goldens, case):
  change = augmentation(goldens, case)
  got = apply(example(goldens), change, 224, "released")

  pixels = np.clip(got["image"] * change.color_gain, 0, 255).transpose(2, 0, 1)
  want = goldens[f"rgb/{case}/every7"] * 255.0
  assert_grey_levels_equal("picture", pixels[:, ::7, ::7], want)
  np.testing.assert_array_equal(got["joints_2d"], goldens[f"j2d/{case}"])
  want = goldens[f"j3d/{case}"]
  kept = want[:, 3] > 0  # we drop places that nobody is sure of
  np.testing.assert_allclose(got["joints_3d_m"][kept], want[kept], atol=1e-6)
  np.testing.assert_allclose(got["pose"], goldens[f"pose/{case}"], atol=1e-6)


@pytest.mark.parametrize(("item", "flip"), [(0, False), (1, True), (2, True)])
def test_scaled_joints_are_those_of_the_released_dataset(goldens, item, flip):
  scale = float(goldens[f"item/{item}/scale"]) / 0.3
  change = augment.Augmentation(scale, 0.0, flip, np.ones(3, np.float32))
  got = apply(example(goldens), change, 224, "released")
  np.testing.assert_array_equal(got["joints_2d"], goldens[f"item/{item}/joints_2d"])


def test_a_turned_crop_reads_from_places_rounded_to_a_32nd_of_a_pixel():
  ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None], (64, 1, 3))
  # The box is as large as the crop, so that resizing changes nothing.
  got = released_crop.cut_out(ramp, np.array([32.0, 32.0]), 32 / 200, 32, 25.0)
  row, column = np.mgrid[-15.5:16, -15.5:16]
  angle = np.deg2rad(25.0)
  exact = 31.5 + np.cos(angle) * column - np.sin(angle) * row
  np.testing.assert_array_equal(got[..., 0] * 32 % 1, 0)
  assert 1 / 64 < np.abs(got[..., 0] - exact).max() < 1 / 16


def test_a_box_that_begins_between_pixels_left_of_the_picture_loses_a_column():
  image = np.random.default_rng(0).integers(0, 256, (60, 48, 3), dtype=np.uint8)
  # From -19.5 to 30.5 px becomes -19 to 30, from 5.5 to 55.5 px becomes 5 to 55.
  got = released_crop.cut_out(image, np.array([5.5, 30.5]), 50 / 200, 50)
  window = np.pad(image[5:55, :30].astype(float), ((0, 0), (19, 0), (0, 0)))
  assert window.shape == (50, 49, 3)
  np.testing.assert_allclose(got, cv2.resize(window, (50, 50)), atol=1e-9)


def test_a_box_beside_the_picture_is_black():
  image = np.full((60, 48, 3), 200, np.uint8)
  for x in (-300.0, 300.0):
    assert released_crop.cut_out(image, np.array([x, 30.0]), 0.25, 32, 10.0).max() == 0


@pytest.mark.parametrize("side_px", [0.5, 1e6])
def test_boxes_without_a_pixel_or_of_a_million_are_refused(side_px):
  image = np.zeros((60, 48, 3), np.uint8)
  with pytest.raises(ValueError, match="box: expected a side of 1 to 8192"):
    released_crop.cut_out(image, np.array([24.5, 30.5]), side_px / 200, 32)


@pytest.mark.parametrize("arithmetic", ["exact", "released"])
def test_the_pipeline_crops_as_the_config_says(goldens, arithmetic):
  stored = example(goldens)
  stored["joints_3d_m"] = np.abs(stored["joints_3d_m"]).clip(max=1)
  config = base.get_config()
  config.data.crop = arithmetic
  config.eval.batch_size = 1
  batch = next(pipeline.eval_batches(InMemory("made_up/validation", [stored]), config))
  want = apply(stored, augment.identity(), 224, arithmetic)
  np.testing.assert_array_equal(batch.image[0], want["image"])
  pixels = (batch.joints_2d[0, :, :2].astype(np.float64) + 1) * 112
  whole = np.abs(pixels - np.rint(pixels)).max() < 1e-4
  assert whole == (arithmetic == "released")


def test_other_crops_are_refused():
  config = base.get_config()
  config.data.crop = "rounded"
  with pytest.raises(ValueError, match=r"config\.data\.crop: expected one of exact"):
    base.validate(config)
