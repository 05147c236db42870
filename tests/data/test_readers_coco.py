"""COCO's keypoints against what is drawn in the pictures."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from metro_jax.data.readers import formats

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
checks = runpy.run_path(str(FIXTURES / "checks.py"))


def opened(path: pathlib.Path, images: pathlib.Path | None = None, **options: str):
  return formats.open_reader("coco", formats.Source(path, "train", images, options))


@pytest.fixture(scope="module")
def made() -> list:
  return written["bodies"](2)


@pytest.fixture(scope="module")
def path(tmp_path_factory, made) -> pathlib.Path:
  return written["write_coco"](tmp_path_factory.mktemp("coco"), made)


def test_every_keypoint_lies_where_it_is_drawn(path, made):
  reader = opened(path)
  for example, scene in zip(checks["read_all"](reader), made, strict=True):
    checks["expect_drawn"](example, scene)
    known = example["joints_2d_px"][:, 2] > 0
    found, drawn = example["joints_2d_px"][known, :2], scene.joints_px[known]
    np.testing.assert_allclose(found, drawn, atol=1e-3)
    assert not example["has_joints_3d"]
    assert not example["has_mesh"]


def test_hidden_keypoints_count_if_they_are_labelled(path, made):
  reader, names = opened(path), made[0].labels.joints
  for row, expected in ((0, 0), (1, 1)):
    confidence = dict(zip(names, reader.read(row)["joints_2d_px"][:, 2], strict=True))
    assert confidence["L_Ear"] == confidence["R_Ear"] == expected
    assert confidence["L_Hip"] == 1
    assert confidence["Neck"] == confidence["Pelvis"] == 0


def test_crowds_and_people_of_whom_little_is_seen_are_left_out_and_counted(path):
  reader = opened(path)
  assert reader.left_out == {
    "annotations of crowds": 1,
    "people with too few keypoints": 1,
  }
  assert [reader.where(row) for row in range(len(reader))] == [
    "person_keypoints_train2014.json annotation 900",
    "person_keypoints_train2014.json annotation 901",
  ]
  everyone = opened(path, min_keypoints="3")
  assert everyone.left_out == {
    "annotations of crowds": 1,
    "people with too few keypoints": 0,
  }
  assert everyone.where(0).endswith("annotation 999")
  with pytest.raises(ValueError, match="expected people, got none"):
    opened(path, min_limbs="13")


def test_the_box_has_1_2_times_the_longer_side_of_the_annotated_one(path, made):
  low, high = made[1].joints_px.min(0), made[1].joints_px.max(0)
  example = opened(path).read(1)
  np.testing.assert_allclose(example["center_px"], (low + high) / 2, rtol=1e-5)
  np.testing.assert_allclose(example["box_px"], 1.2 * (high - low).max(), rtol=1e-5)


def test_pictures_pass_as_they_are_from_the_folder_beside_or_named(path):
  jpeg = (path.parents[1] / "train2014/COCO_train2014_000000000100.jpg").read_bytes()
  assert opened(path).read(0)["image"] == jpeg
  assert opened(path, images=path.parents[1] / "train2014").read(0)["image"] == jpeg


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"annotations": None}, "expected COCO's person_keypoints with images"),
    ({"images": [{"id": 1}]}, "images: expected objects with id file_name"),
    ({"annotations": [{"keypoints": [1, 2]}]}, "annotation 0: keypoints: expected 51"),
    ({"annotations": [{"keypoints": [1] * 51}]}, "image_id: expected a whole number"),
    ({"images": [{"id": 2, "file_name": "a.jpg"}]}, "image_id 1 is of no image"),
    ({"images": [{"id": [1], "file_name": "a.jpg"}]}, "image 0: id: expected a whole"),
    ({"images": [{"id": 1, "file_name": "../x.jpg"}]}, "expected a name inside"),
  ],
)
def test_another_file_is_refused_with_its_name(tmp_path, change, message):
  person = {"id": 7, "image_id": 1, "keypoints": [1] * 51, "bbox": [0, 0, 9, 9]}
  content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [person]}
  path = tmp_path / "instances.json"
  path.write_text(json.dumps(content | change))
  with pytest.raises(ValueError, match=message):
    opened(path).read(0)


def test_what_is_missing_or_no_number_is_named(tmp_path, path):
  with pytest.raises(FileNotFoundError, match="name the pictures with --images"):
    lonely = tmp_path / "annotations" / path.name
    lonely.parent.mkdir()
    lonely.write_bytes(path.read_bytes())
    opened(lonely)
  with pytest.raises(ValueError, match="min_keypoints: expected a whole number"):
    opened(path, min_keypoints="few")
