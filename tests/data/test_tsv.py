"""METRO's TSV layout: indices, lists of rows, yaml files, labels, refused rows."""

import base64
import json
import os
import pathlib
import pickle
import runpy
import subprocess
import sys

import numpy as np
import pytest

from metro_jax.data import schema
from metro_jax.data.readers import formats, groups, reader, tsv, tsv_file

rows = runpy.run_path(str(pathlib.Path(__file__).with_name("tsv_rows.py")))


def opened(path, **options):
  return formats.open_reader("tsv", formats.Source(path, "train", **options))


@pytest.fixture
def folder(tmp_path):
  """Ten rows of bodies."""
  rows["write"](tmp_path, range(10))
  return tmp_path


def changed(seed, **fields):
  """A label row with fields replaced; None takes a field away."""
  found = rows["label"](seed) | fields
  return rows["label_row"](seed, {k: v for k, v in found.items() if v is not None})


def test_a_row_is_what_its_files_say(folder):
  found = opened(folder / "train.yaml")
  assert isinstance(found, reader.Reader)
  assert len(found) == 10 and found.labels == schema.BODY
  for row in range(10):
    label, example = rows["label"](row), found.read(row)
    assert example["key"] == f"S9_Walking_1.60457274_{row:06d}.jpg"
    assert example["image"] == rows["picture"](row)
    assert example["group"] == "Walking"
    np.testing.assert_allclose(example["center_px"], label["center"], rtol=1e-6)
    np.testing.assert_allclose(example["box_px"], 200 * label["scale"], rtol=1e-6)
    for ours, theirs in (
      ("joints_2d_px", label["2d_joints"][0]),
      ("joints_3d_m", label["3d_joints"][0]),
      ("pose", label["pose"]),
      ("shape", label["betas"]),
    ):
      np.testing.assert_allclose(example[ours], theirs, rtol=1e-6, err_msg=ours)
    assert example["has_joints_2d"] and example["has_joints_3d"]
    assert example["has_mesh"] and np.isnan(example["camera"]).all()
    assert found.where(row) == f"train.label.tsv row {row}"


def test_pictures_are_passed_on_byte_for_byte_whatever_they_hold(tmp_path):
  odd = rows["picture"](3) + b"trailing bytes"
  row = rows["key"](3).encode() + b"\tignored\t" + base64.b64encode(odd)
  path = rows["write"](tmp_path, range(5), images={3: row})
  assert opened(path).read(3)["image"] == odd


def test_labels_that_flags_deny_are_not_read(tmp_path):
  flags = {"has_2d_joints": 0, "has_3d_joints": False, "has_smpl": [0.0]}
  junk = {"2d_joints": None, "3d_joints": "none", "pose": [float("nan")]}
  denied = rows["label"](1) | flags | junk
  path = rows["write"](tmp_path, range(3), labels={1: rows["label_row"](1, denied)})
  example = opened(path).read(1)
  for name in ("joints_2d", "joints_3d", "mesh"):
    assert not example[f"has_{name}"]
  for name in ("joints_2d_px", "joints_3d_m", "pose", "shape"):
    assert not example[name].any()


def test_hands_are_known_by_their_joints(tmp_path):
  found = opened(rows["write"](tmp_path, range(3), kind="hand"))
  assert found.labels == schema.HAND
  example = found.read(2)
  assert example["joints_3d_m"].shape == (21, 4) and example["pose"].shape == (48,)


def test_the_kind_is_learnt_from_the_first_row_that_tells(tmp_path):
  bad = {0: b"x\tnot json", 1: changed(1, **{"2d_joints": None, "3d_joints": []})}
  assert opened(rows["write"](tmp_path, range(3), labels=bad)).labels == schema.BODY
  with pytest.raises(ValueError, match=r"in the first 1000 rows, got none; .* row 1: "):
    opened(rows["write"](tmp_path, range(2), labels=dict.fromkeys(range(2), b"x\t[]")))


@pytest.mark.parametrize(
  ("given", "index"), [("m", 1), ("F", 2), ("male", 1), ("none", 0), ("", 0)]
)
def test_genders_by_any_name(tmp_path, given, index):
  path = rows["write"](tmp_path, range(2), labels={1: changed(1, gender=given)})
  assert opened(path).read(1)["gender"] == index
  assert opened(path).read(0)["gender"] == 0


def test_offsets_are_made_when_absent_and_kept_beside_the_file(folder):
  opened(folder / "train.yaml")
  text = (folder / "train.img.tsv").read_bytes()
  starts = [0, *(i + 1 for i, byte in enumerate(text) if byte == ord("\n"))][:-1]
  kept = folder / "train.img.lineidx"
  assert [int(line) for line in kept.read_text().split()] == starts
  assert (folder / "train.label.lineidx").exists()
  assert not list(folder.glob(".*"))
  before = kept.stat().st_mtime_ns
  opened(folder / "train.yaml")
  assert kept.stat().st_mtime_ns == before


def test_offsets_go_to_the_index_folder_where_they_cannot_stand_beside(folder):
  for name in ("img", "label"):
    (folder / f"train.{name}.lineidx").mkdir()
  index_folder = folder / "elsewhere" / "indices"
  first = opened(folder / "train.yaml", index_folder=index_folder)
  kept = sorted(index_folder.iterdir())
  assert [path.name.split("-")[0] for path in kept] == ["train.img", "train.label"]
  marked = kept[0].read_text().split()
  assert len(marked) == 10
  # And without such a folder in memory only.
  second = opened(folder / "train.yaml")
  assert first.read(9)["image"] == second.read(9)["image"] == rows["picture"](9)


@pytest.mark.parametrize("damage", ["cut", "shifted", "words", "longer", "empty"])
def test_offsets_of_another_file_are_made_anew(folder, damage):
  opened(folder / "train.yaml")
  kept = folder / "train.img.lineidx"
  good = kept.read_text()
  starts = good.split()
  damaged = {
    "cut": starts[:-3],
    "shifted": ["0", *(str(int(start) + 1) for start in starts[1:])],
    "words": [*starts[:-1], "x"],
    "longer": [*starts, "999999999"],
    "empty": [],
  }[damage]
  kept.write_text("".join(f"{start}\n" for start in damaged))
  assert opened(folder / "train.yaml").read(9)["image"] == rows["picture"](9)
  assert kept.read_text() == good


def test_a_file_without_a_last_end_of_line_has_its_last_row(folder):
  for name in ("img", "label"):
    path = folder / f"train.{name}.tsv"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
  found = opened(folder / "train.yaml")
  assert len(found) == 10 and found.read(9)["image"] == rows["picture"](9)


def test_rows_are_found_across_blocks(folder, monkeypatch):
  monkeypatch.setattr(tsv_file, "_BLOCK_BYTES", 7)
  found = opened(folder / "train.yaml")
  assert len(found) == 10
  assert [found.read(i)["key"] for i in range(10)] == [
    rows["key"](i) for i in range(10)
  ]


def test_a_line_list_chooses_rows_in_its_order(folder):
  (folder / "train.linelist.tsv").write_text("7\n2\n7\n99\n")
  with open(folder / "train.yaml", "a") as file:
    file.write("linelist: train.linelist.tsv\n")
  found = opened(folder / "train.yaml")
  assert len(found) == 4
  assert [found.read(i)["key"] for i in range(3)] == [rows["key"](i) for i in (7, 2, 7)]
  assert found.where(0) == "train.label.tsv row 7"
  with pytest.raises(ValueError, match=r"expected a row below 10 of .*, got 99"):
    found.read(3)


def test_a_bad_line_of_a_line_list_is_a_row_of_its_own(folder):
  path = folder / "train.linelist.tsv"
  path.write_text("7\nseven\n1\t2\n\n2\n", encoding="utf-16")
  with open(folder / "train.yaml", "a") as file:
    file.write("linelist: train.linelist.tsv\n")
  found = opened(folder / "train.yaml")
  assert [found.read(i)["key"] for i in (0, 3)] == [rows["key"](i) for i in (7, 2)]
  for row in (1, 2):
    assert found.where(row) == f"line list row {row}"
    with pytest.raises(ValueError, match="expected whole numbers in the line list"):
      found.read(row)
  path.write_text("seven\neight\n")
  with pytest.raises(ValueError, match=r"linelist\.tsv: expected whole numbers; "):
    opened(folder / "train.yaml")


def test_pictures_alone_name_their_labels_and_line_list(folder):
  assert len(opened(folder / "train.img.tsv")) == 10
  (folder / "train.linelist.tsv").write_text("4\n")
  found = opened(folder / "train.img.tsv")
  assert len(found) == 1 and found.read(0)["key"] == rows["key"](4)


@pytest.mark.parametrize("listed", [False, True])
def test_a_composite_takes_rows_of_several_files(tmp_path, listed):
  for name, seeds in (("a", range(5)), ("b", range(10, 13))):
    rows["write"](tmp_path / name, seeds)
  (tmp_path / "mix.linelist.tsv").write_text("1\t2\n0\t4\n1\t0\n7\t0\n")
  names = [[f"{s}/train.{part}.tsv" for s in "ab"] for part in ("img", "label")]
  images, labels = map(json.dumps, names)
  if listed:
    images, labels = "img.list", "label.list"
    for path, lines in zip((images, labels), names, strict=True):
      (tmp_path / path).write_text("\n".join(lines) + "\n")
  path = tmp_path / "mix.yaml"
  path.write_text(
    f"composite: true\nimg: {images}\nlabel: {labels}\nlinelist: mix.linelist.tsv\n"
  )
  found = opened(path)
  assert [found.read(i)["key"] for i in range(3)] == [
    rows["key"](i) for i in (12, 4, 10)
  ]
  assert [found.read(i)["image"] for i in range(3)] == [
    rows["picture"](i) for i in (12, 4, 10)
  ]
  assert found.where(0) == "b/train.label.tsv row 2"
  assert found.read(1)["group"] == "a/train.label.tsv"
  assert found.where(3) == "line list row 3"
  with pytest.raises(ValueError, match="expected a source below 2, got 7"):
    found.read(3)


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("img: [", "not YAML"),
    ("- img", "expected keys and values, got list"),
    ("label: train.label.tsv", r"img: expected one file, got None"),
    ("img: train.img.tsv", r"label: expected one file, got None"),
    ("img: [a, b]\nlabel: c", r"img: expected one file, got \['a', 'b'\]"),
    ("composite: true\nimg: [a]\nlabel: [a]", "expected a linelist"),
    ("composite: true\nimg: [a]\nlabel: [a, b]\nlinelist: c", "got 1 and 2"),
    ("img: !!python/object/apply:os.getcwd []", "not YAML"),
  ],
)
def test_a_wrong_yaml_file_is_named_with_its_fault(folder, text, problem):
  path = folder / "train.yaml"
  path.write_text(text)
  with pytest.raises(ValueError, match=problem) as error:
    opened(path)
  assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_files_are_named(folder):
  (folder / "train.label.tsv").unlink()
  with pytest.raises(FileNotFoundError, match=r"train\.label\.tsv is not there"):
    opened(folder / "train.yaml")
  with pytest.raises(FileNotFoundError, match=r"other\.yaml is not there"):
    opened(folder / "other.yaml")


def test_paths_are_relative_to_the_yaml_file_and_not_to_the_shell(folder, monkeypatch):
  elsewhere = folder / "elsewhere"
  rows["write"](elsewhere, range(50, 60))
  monkeypatch.chdir(elsewhere)
  assert opened(folder / "train.yaml").read(0)["key"] == rows["key"](0)


def test_files_of_different_lengths_are_refused_where_they_part(folder):
  path = folder / "train.img.tsv"
  lines = path.read_bytes().split(b"\n")
  path.write_bytes(b"\n".join([*lines[:3], lines[3] + lines[4], *lines[5:]]))
  with pytest.raises(
    ValueError, match=r"got 9 and 10; the first that differs is row 4"
  ):
    opened(folder / "train.yaml")


@pytest.mark.parametrize(
  ("row", "problem"),
  [
    (b"", "expected a key and JSON"),
    (b"k", "expected a key and JSON"),
    (b"k\t{", "label: bad JSON"),
    (b"k\t[]", "expected a list with one object"),
    (b"k\t[3]", "expected a list with one object"),
    (
      b"k\t" + json.dumps([rows["label"](4)]).encode(),
      "key: expected k as of the label",
    ),
    (changed(4, scale=None), "expected the field scale"),
    (changed(4, center=[1, 2, 3]), r"center_px: expected shape \(2,\)"),
    (changed(4, center=["1", "2"]), r"center: expected numbers, got \['1', '2'\]"),
    (changed(4, center=[True, False]), "center: expected numbers"),
    (changed(4, scale=[0.4]), "scale: expected 0 dimensions, got 1"),
    (changed(4, scale=float("nan")), "box_px: expected finite numbers, got nan"),
    (changed(4, scale=10**400), "scale: expected numbers, got 1000"),
    (b"k\t[" + b"1" * 5000 + b"]", "label: bad JSON"),
    (b"k\t" + b"[" * 100_000, "label: bad JSON"),
    (changed(4, scale=-1.0), "box_px: expected a positive side"),
    (changed(4, has_smpl=2), "has_smpl: expected 0 or 1, got 2"),
    (changed(4, has_smpl="yes"), "has_smpl: expected 0 or 1, got 'yes'"),
    (changed(4, pose=[0.0] * 48), r"pose: expected shape \(72,\), got \(48,\)"),
    (changed(4, pose=[0.0] * 71 + [[1]]), "pose: expected numbers"),
    (changed(4, betas=[1e39] * 10), "shape: expected finite numbers"),
    (changed(4, gender="x"), "gender: expected one of"),
    (changed(4, **{"3d_joints": [[[0, 0, 0, 2]] * 24]}), "confidences 0 to 1"),
    (changed(4, **{"3d_joints": [[[0, 0, 0, 1]] * 21]}), r"shape \(24, 4\), got \(21"),
  ],
)
def test_bad_labels_are_refused_with_what_is_wrong(tmp_path, row, problem):
  found = opened(rows["write"](tmp_path, range(6), labels={4: row}))
  with pytest.raises(ValueError, match=problem) as error:
    schema.check_example(found.read(4))
  assert len(str(error.value)) < 300
  assert found.where(4) == "train.label.tsv row 4"
  assert found.read(5)["key"] == rows["key"](5)


@pytest.mark.parametrize(
  ("column", "problem"),
  [
    (b"", "image: expected"),
    (b"\tAAA", "bad base64"),
    (b"\tAA AA", "bad base64"),
    (b"\t\xff\xff", "bad base64"),
  ],
)
def test_bad_pictures_are_refused_with_what_is_wrong(tmp_path, column, problem):
  row = rows["key"](1).encode() + column
  found = opened(rows["write"](tmp_path, range(3), images={1: row}))
  with pytest.raises(ValueError, match=problem):
    found.read(1)


def test_a_reader_goes_to_other_processes_as_its_indices_only(folder):
  found = opened(folder / "train.yaml")
  found.read(0)  # opens the files
  copied = pickle.loads(pickle.dumps(found))
  assert copied.read(3)["image"] == rows["picture"](3)
  assert len(pickle.dumps(found)) < 5_000


def test_a_reader_pickles_the_same_in_every_process(folder):
  """So that a build that goes on knows its own shards."""
  code = f"""
import hashlib, pathlib, pickle
from metro_jax.data.readers import formats
path = pathlib.Path({str(folder / "train.yaml")!r})
found = formats.open_reader("tsv", formats.Source(path, "train"))
print(hashlib.sha256(pickle.dumps(found)).hexdigest())
"""
  root = str(pathlib.Path(tsv.__file__).parents[3])
  digests = set()
  for seed in "12":
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    digests.add(done.stdout)
  assert len(digests) == 1


@pytest.mark.parametrize(
  ("key", "group"),
  [
    ("S11_WalkDog_1.58860488_000001.jpg", "WalkDog"),
    ("images/S1_Photo.55011271_000026.jpg", "Photo"),
    ("s_09_act_02_subact_01_ca_01/s_09_act_02_subact_01_ca_01_000001.jpg", "act_02"),
    ("imageFiles/downtown_arguing_00/image_00001.jpg", "downtown_arguing_00"),
    ("00000012.jpg", ""),
  ],
)
def test_groups_are_actions_and_sequences(key, group):
  assert groups.group_of(key) == group
