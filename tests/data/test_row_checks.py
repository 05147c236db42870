"""A stored row has a whole picture, a box on it and numbers that a label can hold."""

import functools
import io
import pathlib
import runpy

import cv2
import numpy as np
import PIL.Image
import pytest

from metro_jax.data import schema
from metro_jax.data.builders import row_checks

rows = runpy.run_path(str(pathlib.Path(__file__).with_name("tsv_rows.py")))
check = functools.partial(row_checks.check, labels=schema.BODY)


def example(**fields):
  count = len(schema.BODY.joints)
  made = schema.make_example(
    schema.BODY,
    "k",
    rows["picture"](0),
    [24, 24],
    40,
    joints_2d_px=np.full((count, 3), 0.5),
    joints_3d_m=np.full((count, 4), 0.5),
    pose=np.zeros(72),
    shape=np.zeros(10),
  )
  return made | fields


def test_a_good_example_passes_and_its_picture_is_measured():
  check(example())
  wide = cv2.imencode(".jpg", np.zeros((30, 50, 3), np.uint8))[1].tobytes()
  assert row_checks.picture_size(wide) == (30, 50)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_passes(mode, progressive):
  image = PIL.Image.open(io.BytesIO(rows["picture"](1))).convert(mode)
  data = io.BytesIO()
  image.save(data, "jpeg", progressive=progressive)
  assert row_checks.picture_size(data.getvalue()) == (48, 48)


def test_no_cut_picture_passes():
  whole = rows["picture"](2)
  for end in [0, 1, 2, *range(3, len(whole) - 1, 11), len(whole) - 2, len(whole) - 1]:
    with pytest.raises(ValueError, match="image: expected a"):
      row_checks.picture_size(whole[:end])


def test_most_pictures_with_a_hole_fail_which_ordinary_decoders_take():
  rng = np.random.default_rng(4)
  found = 0
  for seed in range(60):
    whole = rows["picture"](seed, side=96)
    start = whole.find(b"\xff\xda") + 20  # behind the headers
    place = rng.integers(start, len(whole) - 300)
    holed = whole[:place] + whole[place + 200 :]
    try:
      row_checks.picture_size(holed)
    except ValueError:
      found += 1
  assert found > 50


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"GIF89a", b"x"])
def test_other_kinds_of_files_fail(data):
  with pytest.raises(ValueError, match="image: expected a whole JPEG"):
    row_checks.picture_size(data)


def test_a_header_that_claims_a_huge_picture_is_not_decoded():
  data = bytearray(rows["picture"](0))
  frame = data.find(b"\xff\xc0") + 5  # height and width, two bytes each
  data[frame : frame + 4] = b"\xff\x00\xff\x00"
  with pytest.raises(ValueError, match="below 100 megapixels, got 65280 x 65280"):
    row_checks.picture_size(bytes(data))


@pytest.mark.parametrize(
  ("center", "side", "problem"),
  [
    ([-20.5, 24], 40, "expected a box on the picture of 48 x 48"),
    ([24, 68.5], 40, "expected a box on the picture of 48 x 48"),
    ([1e30, 24], 40, "expected a box on the picture"),
    ([24, 24], 1000, "box_px: expected 1 to 960 on a picture of 48 x 48, got 1000"),
    ([24, 24], 0.5, "box_px: expected 1 to 960"),
    ([np.nan, 24], 40, "center_px: expected finite|expected a box"),
    ([24, 24], np.inf, "box_px: expected"),
  ],
)
def test_a_box_must_lie_on_the_picture(center, side, problem):
  fields = {"center_px": np.float32(center), "box_px": np.float32(side)}
  with pytest.raises(ValueError, match=problem):
    check(example(**fields))


@pytest.mark.parametrize(("x", "y"), [(-19.5, 24), (67.5, 67.5)])
def test_a_box_that_touches_the_picture_passes(x, y):
  check(example(center_px=np.float32([x, y])))


@pytest.mark.parametrize(
  ("name", "place", "value", "problem"),
  [
    ("joints_2d_px", (3, 0), 2e5, "numbers up to 100000, got 200000"),
    ("joints_2d_px", (3, 0), np.nan, "finite numbers, got nan"),
    ("joints_2d_px", (3, 2), 1.5, "confidences 0 to 1"),
    ("joints_2d_px", (3, 2), -0.5, "confidences 0 to 1"),
    ("joints_3d_m", (0, 1), -1500, "numbers up to 100, got 1500"),
    ("joints_3d_m", (0, 1), np.inf, "finite numbers, got inf"),
    ("pose", 5, 1e4, "numbers up to 100, got 10000"),
    ("shape", 9, -1e4, "numbers up to 100, got 10000"),
    ("shape", 9, np.nan, "finite numbers, got nan"),
  ],
)
def test_numbers_that_no_label_holds_are_named(name, place, value, problem):
  damaged = example()
  damaged[name][place] = value
  with pytest.raises(ValueError, match=f"{name}: expected {problem}"):
    check(damaged)


def test_a_joint_without_confidence_may_be_anywhere():
  found = example()
  found["joints_2d_px"][3] = (-1e9, 1e9, 0)
  check(found)


@pytest.mark.parametrize(
  ("fields", "problem"),
  [
    ({"pose": np.zeros(48, np.float32)}, r"pose: expected shape \(72,\), got \(48,\)"),
    ({"key": b"k"}, "key: expected text, got bytes"),
    ({"group": None}, "group: expected text, got NoneType"),
    ({"key": "\ud800"}, "key: expected Unicode"),
    ({"gender": np.int32(3)}, "gender: expected an index below 3, got 3"),
    ({"image": "text"}, "image: expected bytes, got str"),
  ],
)
def test_fields_of_the_wrong_shape_or_type_are_named(fields, problem):
  with pytest.raises(ValueError, match=problem):
    check(example(**fields))


def test_a_missing_field_is_named():
  found = example()
  del found["shape"]
  with pytest.raises(ValueError, match="expected the field shape"):
    check(found)
