import json
import pathlib

import pytest

from metro_jax.inference import boxes


def test_boxes_are_read_by_picture_name(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps({"a.jpg": [[1, 2, 3, 4.5]], "b.jpg": []}))
  assert boxes.read(path) == {"a.jpg": [(1.0, 2.0, 3.0, 4.5)], "b.jpg": []}


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[1, 2]", "expected an object"),
    ("{", "boxes.json"),
    ('{"a.jpg": [[1, 2, 3]]}', "a.jpg: expected a list of"),
    ('{"a.jpg": [[3, 2, 1, 4]]}', "left < right"),
    ('{"a.jpg": [["x", 2, 3, 4]]}', "a.jpg"),
    ('{"a.jpg": 5}', "got 5"),
    ('{"a.jpg": [[1, 2, 3, NaN]]}', "a.jpg: expected .* got .*nan"),
    ('{"a.jpg": [[1, 2, 3, Infinity]]}', "a.jpg: expected .* got .*inf"),
    ('{"a.jpg": [[1, 2, 3, true]]}', "a.jpg: expected .* got .*True"),
    ('{"a.jpg": [[1, 2, 3, 1' + "0" * 400 + "]]}", "a.jpg: expected"),
    ('{"a.jpg": [[1, 2, 3, 4, 5, 6]]}', "a.jpg: expected"),
    ('{"a.jpg": [1, 2, 3, 4]}', "a.jpg: expected a list of .* got 1"),
    ('{"a.jpg": [[1, 2, 3, 4]], "a.jpg": []}', "every key once, got 'a.jpg'"),
    ("[" * 100_000, "boxes.json"),
  ],
)
def test_bad_boxes_are_refused_by_name(tmp_path, text, message):
  path = tmp_path / "boxes.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    boxes.read(path)


def test_a_score_behind_a_box_is_ignored(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps({"a.jpg": [[1, 2, 3, 4, 0.9], [5, 6, 7, 8]]}))
  assert boxes.read(path) == {"a.jpg": [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]}


def test_a_bad_entry_leaves_the_others(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text('{"a.jpg": [[1, 2, 3, 4], [1, 2, NaN, 4]], "b.jpg": [[1, 2, 3, 4]]}')
  found = boxes.read(path)
  assert found["b.jpg"] == [(1.0, 2.0, 3.0, 4.0)]
  assert "a.jpg: expected a list of" in found["a.jpg"] and "nan" in found["a.jpg"]


FIRST, SECOND = [(1.0, 2.0, 3.0, 4.0)], [(5.0, 6.0, 7.0, 8.0)]
CAMERAS = [pathlib.Path("photos/cam1/1.jpg"), pathlib.Path("photos/cam2/1.jpg")]


@pytest.mark.parametrize(
  "keys",
  [
    ("photos/cam1/1.jpg", "photos/cam2/1.jpg"),
    ("cam1/1.jpg", "cam2/1.jpg"),
    ("cam1\\1.jpg", "photos\\cam2\\1.jpg"),
    ("./photos/cam1/1.jpg", "photos//cam2/1.jpg"),
    (str(CAMERAS[0].absolute()), str(CAMERAS[1].absolute())),
  ],
)
def test_pictures_of_one_name_are_told_apart_by_their_folders(keys):
  found = boxes.match(dict(zip(keys, (FIRST, SECOND), strict=True)), CAMERAS)
  assert found == boxes.Matched([FIRST, SECOND], [])


def test_letters_written_in_another_way_are_the_same():
  pictures = [pathlib.Path("caf\u00e9.jpg"), pathlib.Path("ole\u0301.jpg")]
  found = boxes.match({"cafe\u0301.jpg": FIRST, "ol\u00e9.jpg": SECOND}, pictures)
  assert found.entries == [FIRST, SECOND]


def test_the_path_as_given_goes_before_the_end_of_another():
  pictures = [pathlib.Path("1.jpg"), pathlib.Path("cam/1.jpg")]
  assert boxes.match({"1.jpg": FIRST}, pictures).entries == [FIRST, None]
  assert boxes.match({"cam/1.jpg": FIRST}, pictures).entries == [None, FIRST]


def test_not_listed_nobody_and_no_such_picture_are_three_things():
  pictures = [pathlib.Path(f"{name}.jpg") for name in "abc"]
  found = boxes.match({"a.jpg": [], "c.jpg": FIRST, "d.jpg": SECOND}, pictures)
  assert found == boxes.Matched(
    [[], None, FIRST], ["'d.jpg' means no picture; nearest is c.jpg"]
  )
  assert boxes.match({}, pictures).entries == [None] * 3


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"1.jpg": FIRST}, "'1.jpg' means several pictures: photos/cam1/1.jpg, photos"),
    ({"1": FIRST}, "'1' means no picture; nearest is photos/cam1/1.jpg"),
    ({"2.jpg": FIRST, "": FIRST}, "'2.jpg' means no picture.*; '' means no picture"),
    ({f"{i}.png": FIRST for i in range(9)}, "'4.png' means no .*; and 4 more$"),
    ({"am1/1.jpg": FIRST}, "means no picture"),
    ({"cam1/1.jpg": FIRST, "photos/cam1/1.jpg": SECOND}, "both mean .* photos/cam1/1"),
  ],
)
def test_a_name_of_several_pictures_or_names_of_none_are_refused(given, message):
  with pytest.raises(ValueError, match=message):
    boxes.match(given, CAMERAS)
