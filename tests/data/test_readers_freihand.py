"""FreiHAND's pictures and JSON files against what is drawn in the pictures."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from metro_jax.data import jpegs
from metro_jax.data.readers import formats

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
checks = runpy.run_path(str(FIXTURES / "checks.py"))


def opened(folder: pathlib.Path, split: str = "train", **options: str):
  source = formats.Source(folder, split, options=options)
  return formats.open_reader("freihand", source)


@pytest.fixture(scope="module")
def made() -> list:
  return written["hands"](2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made) -> pathlib.Path:
  return written["write_freihand"](tmp_path_factory.mktemp("freihand"), made)


@pytest.mark.parametrize("box", ["picture", "joints"])
def test_every_label_lies_where_it_is_drawn(folder, made, box):
  reader = opened(folder, box=box)
  examples = checks["read_all"](reader)
  assert len(examples) == 8  # two hands, four backgrounds
  for row, example in enumerate(examples):
    scene = made[row % 2]
    checks["expect_drawn"](example, scene)
    checks["expect_joints"](example, scene, scene.labels.joints)
    checks["expect_mesh"](example, scene)


def test_versions_follow_each_other_and_name_the_group(folder, made):
  reader = opened(folder)
  assert [reader.read(row)["group"] for row in range(8)] == [
    *("gs", "gs", "hom", "hom", "sample", "sample", "auto", "auto"),
  ]
  assert reader.where(5) == "training/rgb/00000005.jpg"
  bright = [jpegs.rgb(reader.read(row)["image"]).mean() for row in (1, 3, 5, 7)]
  np.testing.assert_allclose(
    bright, made[1].image.mean() * np.array([1, 0.9, 0.8, 0.7]), rtol=0.02
  )


def test_chosen_versions_alone_are_read(folder):
  reader = opened(folder, versions="hom,auto")
  assert len(reader) == 4
  assert [reader.where(row) for row in (0, 3)] == [
    *("training/rgb/00000002.jpg", "training/rgb/00000007.jpg"),
  ]


def test_versions_that_are_not_there_are_not_expected(tmp_path, made):
  folder = written["write_freihand"](tmp_path, made, versions=1)
  assert len(opened(folder)) == 2


def test_evaluation_pictures_without_labels_are_rows_without_labels(tmp_path, made):
  folder = written["write_freihand"](tmp_path, made, "evaluation", versions=1)
  checks["expect_drawn"](opened(folder, "test").read(1), made[1])
  for name in ("xyz", "mano"):
    (folder / f"evaluation_{name}.json").unlink()
  reader = opened(folder, "test", box="joints")
  assert len(reader) == 2
  example = reader.read(1)
  assert not any(example[f"has_{x}"] for x in ("joints_2d", "joints_3d", "mesh"))
  np.testing.assert_array_equal(
    [*example["center_px"], example["box_px"]], [112, 112, 224]
  )


@pytest.mark.parametrize(
  ("name", "rows", "message"),
  [
    ("xyz", [[[1, 2, 3]] * 20] * 2, r"training_xyz\.json: expected rows of numbers"),
    ("mano", [[[0] * 61]], r"expected as many rows in every file, .*'mano': 1"),
    (
      "K",
      [[["a"] * 3] * 3] * 2,
      r"training_K\.json: expected rows of numbers \(3, 3\)",
    ),
  ],
)
def test_a_label_file_of_another_shape_is_refused(tmp_path, made, name, rows, message):
  folder = written["write_freihand"](tmp_path, made, versions=1)
  (folder / f"training_{name}.json").write_text(json.dumps(rows))
  with pytest.raises(ValueError, match=message):
    opened(folder)


def test_what_is_missing_or_misspelt_is_named(tmp_path, folder, made):
  with pytest.raises(FileNotFoundError, match=r"evaluation_K\.json is not there"):
    opened(folder, "test")
  with pytest.raises(ValueError, match="expected one of train, training, test"):
    opened(folder, "valid")
  with pytest.raises(ValueError, match="expected some of gs,hom,sample,auto, got 'gz'"):
    opened(folder, versions="gz")
  with pytest.raises(ValueError, match="expected picture or joints, got 'tight'"):
    opened(folder, box="tight")
  without = written["write_freihand"](tmp_path, made, versions=1)
  (without / "training_mano.json").unlink()
  with pytest.raises(FileNotFoundError, match=r"training_mano\.json is not there"):
    opened(without)
