"""A user's own JSON lines against what is drawn in the pictures, and their errors."""

import json
import pathlib
import runpy

import cv2
import numpy as np
import pytest

from metro_jax.data import schema
from metro_jax.data.readers import formats
from metro_jax.data.readers.reader import Reader

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
checks = runpy.run_path(str(FIXTURES / "checks.py"))


def opened(path: pathlib.Path, images: pathlib.Path | None = None) -> Reader:
  return formats.open_reader("jsonl", formats.Source(path, "train", images))


@pytest.fixture(scope="module")
def made() -> dict:
  return {"bodies": written["bodies"](2), "hands": written["hands"](2)}


@pytest.fixture
def line(tmp_path) -> dict:
  """A good line, whose picture exists."""
  written["save"](tmp_path / "a.jpg", np.full((40, 60, 3), 128, np.uint8))
  return {
    "image": "a.jpg",
    "box": [10, 5, 30, 35],
    "joints_2d": {"R_Knee": [20, 30], "Nose": [15.5, 8, 0.25]},
  }


def reader_of(folder: pathlib.Path, *lines: dict | str) -> Reader:
  texts = (text if isinstance(text, str) else json.dumps(text) for text in lines)
  path = folder / "train.jsonl"
  path.write_text("\n".join(texts))
  return opened(path)


@pytest.mark.parametrize(("kind", "ending"), [("bodies", ".png"), ("hands", ".jpg")])
def test_every_label_lies_where_it_is_drawn(tmp_path, made, kind, ending):
  scenes = made[kind]
  reader = opened(written["write_jsonl"](tmp_path, scenes, ending))
  assert isinstance(reader, Reader)
  assert len(reader) == len(scenes)
  for i, (example, scene) in enumerate(
    zip(checks["read_all"](reader), scenes, strict=True)
  ):
    checks["expect_drawn"](example, scene)
    checks["expect_joints"](example, scene, scene.labels.joints)
    checks["expect_mesh"](example, scene)
    assert example["group"] == f"scene {i}"
    assert example["joints_2d_px"][0, 2] == np.float32(0.9)


def test_a_jpeg_passes_as_it_is_and_a_png_becomes_a_close_jpeg(tmp_path, made):
  scene = made["bodies"][0]
  jpeg = opened(written["write_jsonl"](tmp_path / "a", [scene], ".jpg")).read(0)
  assert jpeg["image"] == (tmp_path / "a/photos/0.jpg").read_bytes()
  png = opened(written["write_jsonl"](tmp_path / "b", [scene], ".png")).read(0)
  assert png["image"].startswith(b"\xff\xd8\xff")
  again = cv2.imdecode(np.frombuffer(png["image"], np.uint8), cv2.IMREAD_COLOR)
  difference = np.abs(again[..., ::-1].astype(int) - scene.image)
  assert difference.mean() < 2


def test_absent_labels_become_flags_and_absent_joints_confidence_0(tmp_path, line):
  example = reader_of(tmp_path, line).read(0)
  assert [bool(example[f"has_{x}"]) for x in ("joints_2d", "joints_3d", "mesh")] == [
    *(True, False, False)
  ]
  knee, nose = (schema.BODY.joints.index(name) for name in ("R_Knee", "Nose"))
  np.testing.assert_allclose(example["joints_2d_px"][knee], [20, 30, 1])
  np.testing.assert_allclose(example["joints_2d_px"][nose], [15.5, 8, 0.25])
  assert example["joints_2d_px"][:, 2].sum() == 1.25
  assert example["key"] == "a.jpg"


@pytest.mark.parametrize(
  ("change", "center", "side"),
  [
    ({}, [20, 20], 36),  # 1.2 times the height of 30
    ({"box": None, "center": [21, 22], "scale": 0.15}, [21, 22], 30),
    ({"box": None}, [17.75, 19], 26.4),  # around the two joints, 22 apart
  ],
)
def test_the_box_comes_from_box_or_center_and_scale_or_joints(
  tmp_path, line, change, center, side
):
  example = reader_of(tmp_path, line | change).read(0)
  np.testing.assert_allclose(example["center_px"], center, rtol=1e-6)
  np.testing.assert_allclose(example["box_px"], side, rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"joint_2d": {}}, r"'joint_2d': not known; nearest is joints_2d"),
    ({"joints_2d": {"r_kne": [1, 2]}}, r"'r_kne' not known; nearest is R_Knee"),
    ({"joints_2d": {"Nose": [1]}}, r"joints_2d: Nose: expected .* 2 or 3 numbers"),
    ({"joints_2d": {"Nose": [1, True]}}, r"joints_2d: Nose: expected a list"),
    ({"joints_2d": {"Nose": [1, 2, 7]}}, r"expected confidences 0 to 1, got 7"),
    ({"joints_2d": [[1, 2]]}, r"joints_2d: expected an object of joints"),
    ({"joints_3d": {"Nose": [1, 2]}}, r"joints_3d: Nose: expected .* 3 or 4"),
    ({"box": [30, 5, 10, 35]}, r"box: expected left < right"),
    ({"box": "all"}, r"box: expected a list of 4 numbers, got 'all'"),
    ({"center": [1, 2]}, r"box: expected box, or center and scale"),
    ({"pose": [0] * 72}, r"shape: expected pose and shape together"),
    ({"pose": [0] * 71, "shape": [0] * 10}, r"pose: expected shape \(72,\)"),
    ({"gender": "f"}, r"gender: expected one of neutral, male, female, got 'f'"),
    ({"kind": "hands"}, r"kind: expected body or hand, got 'hands'"),
    ({"kind": "hand"}, r"kind: expected body as in the first line, got hand"),
    ({"image": 7}, r"image: expected text, got 7"),
    ({"image": None}, r"image: expected the path of a picture, got none"),
    ({"image": "train.jsonl"}, r"train.jsonl: expected a picture"),
  ],
)
def test_a_bad_line_says_what_is_wrong(tmp_path, line, change, message):
  reader = reader_of(tmp_path, line, line | change)
  with pytest.raises(ValueError, match=message):
    schema.check_example(reader.read(1))
  schema.check_example(reader.read(0))


def test_a_missing_picture_is_named(tmp_path, line):
  with pytest.raises(FileNotFoundError, match=r"b\.jpg is not there"):
    reader_of(tmp_path, line | {"image": "b.jpg"}).read(0)


@pytest.mark.parametrize("text", ["{'image': 1}", '{"image": nan}', "[1, 2]", "\xff{"])
def test_a_line_that_is_no_object_says_so(tmp_path, line, text):
  reader = reader_of(tmp_path, line, text)
  with pytest.raises(ValueError, match=r"bad JSON|expected an object"):
    reader.read(1)


def test_lines_are_counted_as_editors_do_and_blank_ones_skipped(tmp_path, line):
  reader = reader_of(tmp_path, "", line, "  \t", line | {"key": "second"}, "")
  assert len(reader) == 2
  assert [reader.where(row) for row in (0, 1)] == [
    *("train.jsonl line 2", "train.jsonl line 4"),
  ]
  assert reader.read(1)["key"] == "second"


def test_a_first_line_of_no_kind_fails_at_once_with_its_place(tmp_path, line):
  with pytest.raises(ValueError, match=r"train\.jsonl line 2: key 'knd': .* kind"):
    reader_of(tmp_path, "", line | {"knd": "body"})
  with pytest.raises(ValueError, match="expected lines, got an empty file"):
    reader_of(tmp_path, " ")


def test_pictures_are_found_in_the_folder_that_is_named(tmp_path, line):
  path = tmp_path / "labels" / "train.jsonl"
  path.parent.mkdir()
  path.write_text(json.dumps(line))
  assert opened(path, images=tmp_path).read(0)["image"].startswith(b"\xff\xd8")
