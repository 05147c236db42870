"""3DPW's pickles and frames against what is drawn in them."""

import pathlib
import pickle
import runpy

import numpy as np
import pytest

from metro_jax.data import schema
from metro_jax.data.readers import formats, threedpw

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
checks = runpy.run_path(str(FIXTURES / "checks.py"))
standins = written["standins"]
LIMBS = (
  *("R_Ankle", "R_Knee", "L_Knee", "L_Ankle", "R_Wrist", "R_Elbow", "R_Shoulder"),
  *("L_Shoulder", "L_Elbow", "L_Wrist"),
)


def opened(folder: pathlib.Path, split: str = "test"):
  return formats.open_reader("3dpw", formats.Source(folder, split))


@pytest.fixture(scope="module")
def made() -> list:
  return written["bodies"](3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made) -> pathlib.Path:
  return written["write_threedpw"](tmp_path_factory.mktemp("3dpw"), made)


def test_every_label_lies_where_it_is_drawn_and_the_camera_turns_the_root(folder, made):
  examples = checks["read_all"](opened(folder))
  for example, scene in zip(examples, made, strict=True):
    checks["expect_drawn"](example, scene)
    checks["expect_joints"](example, scene, LIMBS, of_tree=True)
    assert example["gender"] == schema.GENDERS.index("female")
  for row in (0, 2):  # shapes are the sequence's, so those of its first scene
    checks["expect_mesh"](examples[row], made[row])


def test_faces_and_hips_are_openposes_with_its_confidence(folder, made):
  example, scene = opened(folder).read(0), made[0]
  for name in ("Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear", "L_Hip", "R_Hip"):
    label = example["joints_2d_px"][scene.labels.joints.index(name)]
    np.testing.assert_allclose(label, [*scene.point_px(name), 0.8], atol=1e-3)
  unknown = example["joints_2d_px"][:, 2] == 0
  assert {n for n, u in zip(schema.BODY.joints, unknown, strict=True) if u} == {
    *("Neck", "Top_of_Head", "Pelvis", "Thorax", "Spine", "Jaw", "Head")
  }


def test_the_box_is_around_openposes_joints_as_in_published_evaluations(folder, made):
  points = written["openpose18"](made[1])[:2]
  low, high = points.min(1), points.max(1)
  example = opened(folder).read(1)
  np.testing.assert_allclose(example["center_px"], (low + high) / 2, rtol=1e-5)
  np.testing.assert_allclose(example["box_px"], 1.2 * (high - low).max(), rtol=1e-5)


def test_frames_without_a_valid_camera_are_left_out_and_counted(folder):
  reader = opened(folder)
  assert len(reader) == 3
  assert sum(reader.left_out.values()) == 3 + 1 + 2 + 1
  assert [reader.where(row) for row in range(3)] == [
    "test/court_00.pkl person 0 frame 0",
    "test/court_00.pkl person 0 frame 1",
    "test/walk_01.pkl person 1 frame 0",
  ]
  assert reader.read(2)["group"] == "walk_01"


def test_what_is_missing_is_named(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="sequenceFiles/train is not there"):
    opened(folder, "train")
  reader = opened(folder)
  reader._images = tmp_path
  with pytest.raises(
    FileNotFoundError, match=r"court_00/image_00000\.jpg is not there"
  ):
    reader.read(0)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"cam_poses": None}, r"broken\.pkl: expected cam_poses, got"),
    ({"cam_poses": np.zeros((1, 4, 4))}, r"poses: expected shape \(1, 72\), got \(2"),
    ({"genders": ["f"]}, "expected as many people in every field"),
    ({"genders": ["f", "x"]}, "genders: expected m or f, got 'x'"),
    ({"betas": [pathlib.PurePosixPath("x")] * 2}, "refused pathlib"),
  ],
)
def test_a_pickle_of_something_else_is_refused_with_its_name(
  tmp_path, made, change, message
):
  content = written["threedpw_sequence"]("broken", 0, made[:1]) | change
  content = {key: value for key, value in content.items() if value is not None}
  path = tmp_path / "broken.pkl"
  path.write_bytes(pickle.dumps(content, 2))
  with pytest.raises(ValueError, match=message):
    threedpw.load_sequence(path)


def test_pickles_of_python_3_read_the_same(tmp_path, made):
  content = written["threedpw_sequence"]("court_00", 0, made[:1])
  loaded = []
  for name, data in (
    ("two", standins["python2"](content)),
    ("three", pickle.dumps(content, 4)),
  ):
    path = tmp_path / f"{name}.pkl"
    path.write_bytes(data)
    loaded.append(threedpw.load_sequence(path))
  two, three = loaded
  assert two.name == three.name == "court_00"
  np.testing.assert_array_equal(two.poses[0], three.poses[0])
  np.testing.assert_array_equal(two.cameras, three.cameras)
