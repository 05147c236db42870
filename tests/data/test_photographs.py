import json

import cv2
import numpy as np
import pytest

from metro_jax.data import photographs
from metro_jax.data.framing import Frame
from metro_jax.rendering.overlay import Box


def write_png(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), image[..., ::-1])
  return path


def test_folders_give_their_pictures_sorted_and_files_stay_as_they_are(tmp_path):
  for name in ("b.PNG", "a.jpg", "notes.txt"):
    (tmp_path / name).touch()
  (tmp_path / "inner").mkdir()
  (tmp_path / "inner" / "c.jpg").touch()
  odd = tmp_path / "picture-without-suffix"
  found = photographs.find([odd, str(tmp_path), tmp_path / "a.jpg"])
  assert found == [odd, tmp_path / "a.jpg", tmp_path / "b.PNG"]


def test_no_pictures_at_all_is_an_error_that_names_the_folder(tmp_path):
  with pytest.raises(ValueError, match=f"expected image files.*{tmp_path.name}"):
    photographs.find([tmp_path])
  with pytest.raises(ValueError, match="got nothing"):
    photographs.find([])


def test_pictures_are_read_as_rgb(tmp_path):
  image = np.zeros((4, 6, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
  np.testing.assert_array_equal(
    photographs.read(write_png(tmp_path / "a.png", image)), image
  )


@pytest.mark.parametrize("content", [b"", b"this is no picture"])
def test_an_unreadable_picture_is_named(tmp_path, content):
  path = tmp_path / "broken.jpg"
  path.write_bytes(content)
  with pytest.raises(
    ValueError, match=f"broken.jpg: expected an image.*{len(content)}"
  ):
    photographs.read(path)
  with pytest.raises(ValueError, match=r"missing\.jpg: No such file"):
    photographs.read(tmp_path / "missing.jpg")


def test_boxes_become_enlarged_squares_around_the_same_middle():
  boxes = [(10.0, 20.0, 30.0, 60.0)]
  assert photographs.squares(100, 200, boxes, 1.5) == [Box(20.0, 40.0, 60.0)]
  assert photographs.squares(100, 200, None, 1.5) == [Box(100.0, 50.0, 200.0)]
  assert photographs.squares(100, 200, [], 1.5) == []


def test_boxes_are_read_by_picture_name(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps({"a.jpg": [[1, 2, 3, 4.5]], "b.jpg": []}))
  assert photographs.read_boxes(path) == {"a.jpg": [(1.0, 2.0, 3.0, 4.5)], "b.jpg": []}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[1, 2]", "expected an object"),
    ("{", "boxes.json"),
    ('{"a.jpg": [[1, 2, 3]]}', "a.jpg: expected a list of"),
    ('{"a.jpg": [[3, 2, 1, 4]]}', "left < right"),
    ('{"a.jpg": [["x", 2, 3, 4]]}', "a.jpg"),
    ('{"a.jpg": 5}', "got 5"),
  ],
)
def test_bad_boxes_are_refused_by_name(tmp_path, text, message):
  path = tmp_path / "boxes.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    photographs.read_boxes(path)


def test_crop_cuts_the_square_and_is_black_beyond_the_border():
  image = np.zeros((8, 8, 3), np.uint8)
  image[:, :, 0] = np.arange(8) * 10 + 50
  crop = photographs.crop(image, Frame(np.array([6.0, 4.0]), 4.0, 0.0), 4)
  np.testing.assert_array_equal(crop, image[2:6, 4:8])
  outside = photographs.crop(image, Frame(np.array([8.0, 4.0]), 4.0, 0.0), 4)
  np.testing.assert_array_equal(outside[:, :2], image[2:6, 6:8])
  assert not outside[:, 2:].any()
