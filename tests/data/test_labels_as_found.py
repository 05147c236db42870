"""Label files as people's tools write them: what is right is read, the rest named."""

import base64
import io
import json
import os
import pathlib
import runpy

import cv2
import numpy as np
import pytest
from PIL import Image

from metro_jax.data import jpegs, schema
from metro_jax.data.builders import row_checks
from metro_jax.data.readers import fields, formats, geometry

HERE = pathlib.Path(__file__).parent
rows = runpy.run_path(str(HERE / "tsv_rows.py"))
COCO17 = runpy.run_path(str(HERE.parent / "fixtures/odd_folders.py"))["COCO17"]
NAN = float("nan")
PLACES = np.stack([np.linspace(10, 50, 17), np.linspace(12, 44, 17)], axis=1)


def jpeg(width: int = 60, height: int = 80, turn: int = 1) -> bytes:
  """A picture whose pixels are so wide and high as stored, with an EXIF turn."""
  exif, data = Image.Exif(), io.BytesIO()
  exif[0x0112] = turn
  Image.new("RGB", (width, height), "grey").save(data, "JPEG", exif=exif)
  return data.getvalue()


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  (tmp_path / "a.jpg").write_bytes(jpeg())
  return tmp_path


def opened(name: str, path: pathlib.Path, images: pathlib.Path | None = None):
  return formats.open_reader(name, formats.Source(path, "test", images))


def keypoints(*changes: tuple[int, list]) -> list:
  made = [[x, y, 2] for x, y in PLACES.tolist()]
  for place, value in changes:
    made[place] = value
  return [number for point in made for number in point]


def coco(folder: pathlib.Path, annotations: list, images=None, **more):
  content = {
    "images": images or [{"id": 0, "file_name": "a.jpg"}],
    "annotations": [
      {"id": 100 + i, "image_id": 0, "keypoints": keypoints(), "bbox": [5, 5, 40, 60]}
      | one
      for i, one in enumerate(annotations)
    ],
    **more,
  }
  path = folder / "people.json"
  path.write_text(json.dumps(content))
  return opened("coco", path, folder)


def coco_of(folder: pathlib.Path, *annotations: dict):
  return coco(folder, list(annotations))


def jsonl(folder: pathlib.Path, *lines: dict):
  path = folder / "train.jsonl"
  path.write_text("".join(json.dumps({"image": "a.jpg"} | x) + "\n" for x in lines))
  return opened("jsonl", path)


def joint(example, name: str) -> list[float]:
  return example["joints_2d_px"][schema.BODY.joints.index(name)].tolist()


# Turned photographs.


@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("padded", [False, True])
def test_a_picture_has_the_size_that_opencv_gives_it(turn, padded):
  data = jpeg(61, 80, turn)
  if padded:
    data = data[:2] + b"\xff\xff" + data[2:]  # fill bytes, which the format allows
  height, width = cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape[:2]
  assert (height, width) == ((61, 80) if 5 <= turn <= 8 else (80, 61))
  assert row_checks.picture_size(data) == (height, width)
  assert jpegs.rgba(data).shape == (height, width, 4)


@pytest.mark.parametrize("turn", [6, 8])
@pytest.mark.parametrize("kind", ["jsonl", "coco", "tsv"])
def test_a_box_is_checked_on_the_upright_picture(folder, kind, turn):
  (folder / "a.jpg").write_bytes(jpeg(360, 240, turn))
  for left, top, fits in ((40, 250, True), (300, 40, False)):
    corners = [left, top, left + 60, top + 80]
    if kind == "jsonl":
      reader = jsonl(folder, {"box": corners, "joints_2d": {"Nose": [50, 60]}})
    elif kind == "coco":
      reader = coco(folder, [{"bbox": [left, top, 60, 80]}])
    else:
      label = rows["label"](0) | {"center": [left + 30, top + 40], "scale": 0.48}
      row = rows["key"](0).encode() + b"\t" + base64.b64encode(jpeg(360, 240, turn))
      labels = {0: rows["label_row"](0, label)}
      path = rows["write"](folder / f"{left}", range(1), images={0: row}, labels=labels)
      reader = opened("tsv", path)
    example = reader.read(0)
    if fits:
      row_checks.check(example, schema.BODY)
      continue
    with pytest.raises(ValueError, match="on the picture of 240 x 360, got one of 96"):
      row_checks.check(example, schema.BODY)


# Joints that are not known.


@pytest.mark.parametrize(
  "lost", [[NAN, NAN, 0], [None, None, 0], [NAN, 3, 0], [NAN] * 3]
)
def test_a_joint_that_does_not_count_may_be_anything(folder, lost):
  seen = {"Nose": [9, 8], "L_Knee": [20, 40]}
  for make, label in (
    (coco_of, {"keypoints": keypoints((9, lost))}),
    (jsonl, {"joints_2d": seen | {"L_Wrist": lost}}),
    (jsonl, {"joints_2d": seen | {"L_Wrist": None}}),
  ):
    example = make(folder, label).read(0)
    row_checks.check(example, schema.BODY)
    assert joint(example, "L_Wrist")[2] == 0
    assert joint(example, "L_Knee")[2] == 1


def test_nan_in_a_joint_that_counts_is_named_with_the_joint(folder):
  lost = [NAN, NAN, 1]
  for make, label in (
    (coco_of, {"keypoints": keypoints((9, lost))}),
    (jsonl, {"joints_2d": {"Nose": [9, 8], "L_Wrist": lost}}),
    (jsonl, {"joints_2d": {"Nose": [9, 8], "L_Wrist": lost[:2]}}),
  ):
    reader = make(folder, label, {})
    assert len(reader) == 2
    with pytest.raises(ValueError, match=r"L_Wrist: expected coordinates .* got NaN"):
      reader.read(0)


def test_known_leaves_numbers_alone_and_names_a_confidence():
  points = np.array([[1.0, 2.0, 0.5], [3.0, 4.0, 0.0]])
  assert fields.known("x", points) is points
  points[0, 2] = NAN
  with pytest.raises(ValueError, match=r"x: Nose: expected confidence .* got NaN"):
    fields.known("x", points, ["Nose", "Neck"])


def test_missing_boxes_of_mpii_and_bad_people_spoil_no_other(folder):
  joints = PLACES[:16].tolist()
  good = {"image": "a.jpg", "joints": joints, "joints_vis": [1] * 16}
  lost = good | {"joints": [[NAN, None], *joints[1:]], "joints_vis": [0] + [1] * 15}
  people = [
    good | {"scale": NAN, "center": [30, 30]},
    lost,
    good | {"joints": joints[1:]},
  ]
  path = folder / "train.json"
  path.write_text(json.dumps([*people, 7, good | {"image": None}]))
  reader = opened("mpii", path, folder)
  assert len(reader) == 5
  for row, low in ((0, PLACES[0]), (1, PLACES[1])):
    example = reader.read(row)
    middle = (low + PLACES[15]) / 2 - 0.5
    np.testing.assert_allclose(example["center_px"], middle, rtol=1e-5)
    np.testing.assert_allclose(
      example["box_px"], 1.2 * (PLACES[15] - low)[0], rtol=1e-5
    )
  assert joint(reader.read(1), "R_Ankle")[2] == 0
  wrong = {
    2: r"joints: .* \(16, 2\), got shape \(15, 2\)",
    3: "expected an object, got int",
    4: "image: expected",
  }
  for row, said in wrong.items():
    with pytest.raises(ValueError, match=said):
      reader.read(row)


def test_one_hand_s_bad_row_refuses_that_hand_alone(folder):
  images = folder / "evaluation" / "rgb"
  images.mkdir(parents=True)
  for number in range(4):
    (images / f"{number:08d}.jpg").write_bytes(jpeg(224, 224))
  points = np.random.default_rng(0).uniform(0.4, 0.6, (4, 21, 3)).tolist()
  points[0][20], points[1], points[3] = [NAN] * 3, None, points[3][:20]
  camera = [[200, 0, 112], [0, 200, 112], [0, 0, 1]]
  for name, found in (("K", [camera] * 4), ("xyz", points)):
    text = json.dumps(found)
    (folder / f"evaluation_{name}.json").write_text(text, encoding="utf-8-sig")
  reader = opened("freihand", folder)
  np.testing.assert_allclose(reader.read(2)["joints_3d_m"][:, :3], points[2], rtol=1e-6)
  for row, said in ((0, "got NaN"), (1, "got None"), (3, r"got shape \(20, 3\)")):
    with pytest.raises(ValueError, match=f"evaluation_xyz: expected numbers.*{said}"):
      reader.read(row)


def test_columns_of_an_npz_may_hold_nan_for_what_does_not_count(folder):
  part = np.ones((3, 24, 3))
  part[..., :2] = np.linspace([10, 12], [50, 44], 24)
  part[0, 5], part[1, 5] = [NAN, NAN, 0], [NAN, NAN, 1]
  content = {"center": np.full((3, 2), 30.0), "scale": np.full(3, 0.4), "part": part}
  content |= {"imgname": ["a.jpg"] * 3, "gender": ["m", "f", "?"]}
  content |= {
    "pose": np.zeros((3, 72)),
    "shape": np.zeros((3, 10)),
    "has_smpl": [NAN] * 3,
  }
  np.savez(folder / "x.npz", **content)
  reader = opened("spin_npz", folder / "x.npz")
  example = reader.read(0)
  assert joint(example, schema.BODY.joints[5]) == [0, 0, 0]
  assert not example["has_mesh"] and example["gender"] == 1
  with pytest.raises(ValueError, match=r"part: L_Ankle: expected coordinates .* NaN"):
    reader.read(1)
  with pytest.raises(ValueError, match=r"gender: expected m, f or none, got '\?'"):
    reader.read(2)


# COCO as annotation tools write it.


@pytest.mark.parametrize("kind", [str, float, lambda number: f"image-{number}"])
def test_ids_of_any_type_join_pictures_and_people(folder, kind):
  (folder / "b.jpg").write_bytes(jpeg(61))
  images = [
    {"id": kind(i), "file_name": name} for i, name in enumerate(("a.jpg", "b.jpg"))
  ]
  reader = coco(
    folder, [{"image_id": kind(1), "id": kind(7)}, {"image_id": kind(0)}], images
  )
  assert [reader.read(row)["image"] for row in (0, 1)] == [jpeg(61), jpeg()]
  assert reader.read(0)["key"] == f"b.jpg/{str(kind(7)).removesuffix('.0')}"


def test_annotations_of_no_person_are_left_out_and_counted_by_kind(folder):
  others = [
    {"keypoints": None}, {"keypoints": []}, {"iscrowd": 1, "keypoints": "none"},
    {"category_id": 2}, {"keypoints": keypoints()[:9] + [0] * 42}, {"category_id": 1},
  ]  # fmt: skip
  named = [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}]
  reader = coco(folder, others, categories=named)
  assert len(reader) == 1 and reader.where(0) == "people.json annotation 105"
  assert reader.left_out == {
    "annotations of crowds": 1,
    "people with too few keypoints": 1,
    "annotations without keypoints": 2,
    "annotations of other categories than person": 1,
  }
  assert len(coco(folder, [{"category_id": 2}])) == 1  # it names no categories
  with pytest.raises(ValueError, match="expected one called person, got 'cat', 'dog'"):
    coco(folder, [{}], categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])


@pytest.mark.parametrize("box", [None, [], [7, 7, 0, 0], [NAN, None, 1, 1]])
def test_without_a_box_it_goes_around_the_keypoints(folder, box):
  example = coco(folder, [{"bbox": box}]).read(0)
  np.testing.assert_allclose(example["center_px"], [30.5, 28.5], rtol=1e-6)
  np.testing.assert_allclose(example["box_px"], 1.2 * 40, rtol=1e-6)


def test_a_bad_annotation_is_a_row_that_says_why_and_the_others_are_read(folder):
  images = [{"id": 0, "file_name": "a.jpg"}, {"id": 1}, {"id": 2, "file_name": "a.jpg"},
            {"id": 2, "file_name": "b.jpg"}, 5]  # fmt: skip
  bad = {
    "annotation 0: keypoints: expected 51 numbers, got 50": {"keypoints": [1] * 50},
    "annotation 1: image_id 9 is of no image": {"image_id": 9},
    "annotation 2: images: expected objects with id file_name": {"image_id": 1},
    "annotation 3: image_id 2 is of several images: 'a.jpg', 'b.jpg'": {"image_id": 2},
    "annotation 4: bbox: expected numbers (4,), got shape (3,)": {"bbox": [1, 2, 3]},
    "annotation 5: image_id: expected a whole number": {"image_id": None},
  }
  reader = coco(folder, [*bad.values(), {}], images)
  for row, said in enumerate(bad):
    with pytest.raises(ValueError) as error:
      reader.read(row)
    assert str(error.value).startswith(said)
  assert reader.read(len(bad))["key"] == "a.jpg/106"


# Numbers that no human has.


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"joints_3d": 1000}, r"joints_3d_m: expected up to 4 metres .* got 1[5-9]\d"),
    ({"joints_3d": 100}, r"joints_3d_m: expected up to 4 metres .* got 1[5-9]\."),
    ({"pose": 60}, r"pose: expected up to 12\.6 radians of a joint, got 60"),
    ({"shape": 40}, r"shape: expected up to 15 standard deviations, got 40"),
    ({}, ""),
  ],
)
def test_units_and_shapes_outside_of_any_human_s_are_named(folder, change, said):
  # As large as a hand, about its wrist: even millimetres are small numbers.
  places = np.random.default_rng(0).uniform(-0.1, 0.1, (24, 3))
  places *= change.get("joints_3d", 1)
  line = {
    "box": [5, 5, 50, 70],
    "joints_3d": dict(zip(schema.BODY.joints, places.tolist(), strict=True)),
    "pose": [3.1] + [0] * 70 + [change.get("pose", 0.5)],
    "shape": [0] * 9 + [-change.get("shape", 5)],
  }
  example = jsonl(folder, line).read(0)
  if not said:
    return row_checks.check(example, schema.BODY)
  with pytest.raises(ValueError, match=said):
    row_checks.check(example, schema.BODY)
  return None


def test_a_box_goes_around_joints_that_somebody_is_sure_of(folder):
  sure = {"Nose": [20, 10, 0.9], "L_Knee": [30, 50, 0.1], "R_Knee": [900, 900, 0.09]}
  example = jsonl(folder, {"joints_2d": sure}).read(0)
  np.testing.assert_allclose([*example["center_px"], example["box_px"]], [25, 30, 48])
  said = r"confidence 0\.1 or more to put it around, the surest has 0\.09"
  with pytest.raises(ValueError, match=said):
    geometry.box_around_joints(np.array([[1, 2, 0.09], [30.0, 40, 0.01]]))


# Text, and names of files.


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_lines_of_any_encoding_are_read_by_their_places(folder, encoding):
  # Gurmukhi's letters have the byte of a line's end in UTF-16.
  keys = ["\u0a05\u0a0a", "caf\u00e9", "\u010a\u0a00", "z"]
  lines = [{"image": "a.jpg", "box": [1, 1, 9, 9], "key": key} for key in keys]
  path = folder / "x.jsonl"
  text = "\r\n\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
  path.write_bytes(text.encode(encoding))
  reader = opened("jsonl", path)
  assert [reader.read(row)["key"] for row in range(4)] == keys
  assert reader.where(2) == "x.jsonl line 5"


@pytest.mark.parametrize("indent", [None, 0, 1])
def test_a_list_or_a_spread_object_is_named_for_what_it_is(folder, indent):
  path = folder / "x.jsonl"
  for content, kind in (
    ([{"image": "a.jpg"}], "a list"),
    ({"image": "a"}, "an object"),
  ):
    path.write_text(json.dumps(content, indent=indent))
    if kind == "a list" or indent is not None:
      with pytest.raises(
        ValueError, match=f"one object {{...}} a line, this is {kind}"
      ):
        opened("jsonl", path)


def test_a_bad_first_line_refuses_no_other(folder):
  path = folder / "x.jsonl"
  good = json.dumps({"image": "a.jpg", "box": [1, 1, 9, 9], "kind": "hand"})
  path.write_text(f'{{"image": \n[1]\n{good}\n')
  reader = opened("jsonl", path)
  assert reader.labels == schema.HAND and reader.read(2)["key"] == "a.jpg"
  with pytest.raises(ValueError, match="bad JSON"):
    reader.read(0)


def test_files_of_a_tsv_lie_below_its_folder_and_no_index_is_written_elsewhere(
  tmp_path,
):
  mine, outside = tmp_path / "mine", tmp_path / "outside"
  rows["write"](outside, range(3))
  rows["write"](mine, range(3))
  (mine / "link.img.tsv").symlink_to(outside / "train.img.tsv")
  before = sorted(outside.iterdir())
  wrong = ("../outside/train.img.tsv", str(outside / "train.img.tsv"), "link.img.tsv",
           "..\\outside\\train.img.tsv")  # fmt: skip
  for name in wrong:
    (mine / "x.yaml").write_text(f"img: '{name}'\nlabel: train.label.tsv\n")
    with pytest.raises(ValueError, match=r"x\.yaml: img: expected a name inside"):
      opened("tsv", mine / "x.yaml")
  assert sorted(outside.iterdir()) == before
  source = formats.Source(mine / "x.yaml", "train", outside)
  assert len(formats.open_reader("tsv", source)) == 3  # named with --images
  os.mkfifo(mine / "pipe.tsv")
  (mine / "x.yaml").write_text("img: pipe.tsv\nlabel: train.label.tsv\n")
  with pytest.raises((ValueError, FileNotFoundError), match=r"pipe\.tsv"):
    opened("tsv", mine / "x.yaml")
