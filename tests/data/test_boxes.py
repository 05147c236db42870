import json

import pytest

from metro_jax.data import boxes


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
  ],
)
def test_bad_boxes_are_refused_by_name(tmp_path, text, message):
  path = tmp_path / "boxes.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    boxes.read(path)
