"""SPIN's and BEDLAM's npz label files against what is drawn in the pictures."""

import pathlib
import pickle
import runpy
import zipfile

import numpy as np
import pytest

from metro_jax.data import schema
from metro_jax.data.readers import formats, npz_columns

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
checks = runpy.run_path(str(FIXTURES / "checks.py"))
LIMBS = (
  *("R_Ankle", "R_Knee", "L_Knee", "L_Ankle", "R_Wrist", "R_Elbow", "R_Shoulder"),
  *("L_Shoulder", "L_Elbow", "L_Wrist"),
)


def opened(path: pathlib.Path, images: str = "images"):
  source = formats.Source(path, "train", path.parent / images)
  return formats.open_reader("spin_npz", source)


@pytest.fixture(scope="module")
def made() -> list:
  return written["bodies"](2)


@pytest.fixture(scope="module")
def path(tmp_path_factory, made) -> pathlib.Path:
  return written["write_spin_npz"](tmp_path_factory.mktemp("spin"), made)


def compressed(path: pathlib.Path) -> pathlib.Path:
  with np.load(path) as file:
    content = dict(file)
  again = path.with_name("compressed.npz")
  np.savez_compressed(again, **content)
  return again


def with_objects(path: pathlib.Path) -> pathlib.Path:
  """The texts as arrays of Python objects, as some projects save them."""
  with np.load(path) as file:
    content = dict(file)
  content["imgname"] = content["imgname"].astype(object)
  content["gender"] = np.array(["m"] * len(content["scale"]), object)
  again = path.with_name("objects.npz")
  np.savez(again, **content)
  return again


@pytest.mark.parametrize("kind", ["plain", "compressed", "objects"])
def test_every_label_lies_where_it_is_drawn(path, made, kind):
  makers = {"plain": lambda p: p, "compressed": compressed, "objects": with_objects}
  reader = opened(makers[kind](path))
  for example, scene in zip(checks["read_all"](reader), made, strict=True):
    checks["expect_drawn"](example, scene)
    checks["expect_joints"](example, scene, scene.labels.joints)
    checks["expect_mesh"](example, scene)
    np.testing.assert_allclose(
      example["joints_2d_px"][:, :2], scene.joints_px, atol=1e-3
    )
    assert example["group"] == "Walking"
    gender = "male" if kind == "objects" else "neutral"
    assert example["gender"] == schema.GENDERS.index(gender)


def in_columns(path: pathlib.Path) -> pathlib.Path:
  """The first axis as the fastest, as arrays that were transposed are saved."""
  with np.load(path) as file:
    content = {name: np.asfortranarray(values) for name, values in file.items()}
  again = path.with_name("columns.npz")
  np.savez(again, **content)
  return again


def test_a_column_that_unpacks_to_more_than_the_limit_is_refused(path, monkeypatch):
  monkeypatch.setattr(npz_columns, "MAX_UNPACKED_BYTES", 100)
  opened(path)  # lies there as it is: nothing is unpacked
  with pytest.raises(ValueError, match=r"compressed\.npz: .*at most 100 unpacked"):
    opened(compressed(path))


def test_a_column_that_claims_more_than_its_bytes_can_hold_is_refused(path):
  data = bytearray(compressed(path).read_bytes())
  with zipfile.ZipFile(compressed(path)) as archive:
    name = archive.namelist()[0].encode()
  entry = data.rindex(name) - 46  # its place in the archive's directory
  data[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
  claims = path.with_name("claims.npz")
  claims.write_bytes(data)
  with pytest.raises(ValueError, match=r"claims\.npz: .* bytes cannot hold the 2147"):
    opened(claims)


@pytest.mark.parametrize("kind", [compressed, in_columns])
def test_however_numbers_lie_in_the_file_the_labels_are_the_same(path, kind):
  plain, other = opened(path).read(1), opened(kind(path)).read(1)
  for name, value in plain.items():
    np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_numbers_stay_out_of_the_pickle(path):
  for reader in (opened(path), opened(compressed(path))):
    before = len(pickle.dumps(reader))
    reader.read(1)
    assert len(pickle.dumps(reader)) == before


def test_a_file_that_was_cut_since_is_an_error_not_a_crash(tmp_path, made):
  path = written["write_spin_npz"](tmp_path, made)
  reader = opened(path)
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match="a cut file"):
    reader.read(1)


def test_labels_that_the_file_or_a_row_lacks_become_flags(tmp_path, made):
  s = np.array([written["column"](scene.joints_m) for scene in made])
  s[1, :, 3] = 0
  path = written["write_spin_npz"](tmp_path, made, S=s, has_smpl=[0, 1], part=None)
  flags = [
    [bool(example[f"has_{x}"]) for x in ("joints_2d", "joints_3d", "mesh")]
    for example in checks["read_all"](opened(path))
  ]
  assert flags == [[False, True, False], [False, False, True]]


@pytest.mark.parametrize("name", ["scene_hall", "closeup_hall"])
def test_bedlams_limbs_lie_where_they_are_drawn(tmp_path, made, name):
  reader = opened(written["write_bedlam_npz"](tmp_path, made, name), "png")
  for example, scene in zip(checks["read_all"](reader), made, strict=True):
    checks["expect_drawn"](example, scene)
    checks["expect_mesh"](example, scene)
    known = example["joints_2d_px"][:, 2] > 0
    assert {n for n, k in zip(schema.BODY.joints, known, strict=True) if k} == {*LIMBS}
    assert example["gender"] == schema.GENDERS.index("female")
    assert not example["has_joints_3d"]


def test_bedlams_eleven_components_are_the_neutral_bodys(tmp_path, made):
  shape = [[*scene.shape, 9.0] for scene in made]
  reader = opened(written["write_bedlam_npz"](tmp_path, made, shape=shape), "png")
  example = reader.read(0)
  assert example["gender"] == schema.GENDERS.index("neutral")
  checks["expect_mesh"](example, made[0])


def test_poses_of_smpl_x_are_left_out_and_counted(tmp_path, made):
  poses = np.zeros((2, 165))
  reader = opened(written["write_bedlam_npz"](tmp_path, made, pose_cam=poses), "png")
  assert reader.left_out == {"poses of another body than SMPL": 2}
  assert not reader.read(0)["has_mesh"]
  checks["expect_drawn"](reader.read(0), made[0])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"imgname": None}, "imgname: expected it, got center scale"),
    ({"scale": None}, "scale: expected it, got imgname center"),
    ({"shape": None}, "shape: expected it, as there is pose"),
    ({"center": np.zeros((3, 2))}, r"center: expected \(2, 2\), got \(3, 2\)"),
    ({"S": np.zeros((2, 17, 4))}, r"S: expected \(2, 24, 4\) or .*, got \(2, 17, 4\)"),
    ({"gender": ["m", "x"]}, r"gender: expected 2 of m and f, got \['x'\]"),
    ({"gender": ["m"]}, "gender: expected 2 of m and f"),
    ({"scale": np.array(["a", "b"])}, "scale: expected rows of numbers"),
  ],
)
def test_a_file_that_lacks_or_bends_a_key_is_refused(tmp_path, made, changes, message):
  path = written["write_spin_npz"](tmp_path, made, **changes)
  with pytest.raises(ValueError, match=rf"h36m_train\.npz: {message}"):
    opened(path)


def test_names_may_not_leave_the_folder(tmp_path, made):
  for name in ("../secret.jpg", "/etc/secret.jpg"):
    path = written["write_spin_npz"](tmp_path, made, imgname=[name, name])
    with pytest.raises(ValueError, match="expected a name inside"):
      opened(path).read(0)


def test_objects_other_than_text_are_refused_unexecuted(tmp_path, made):
  names = np.array([pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b")], object)
  path = written["write_spin_npz"](tmp_path, made, imgname=names)
  with pytest.raises(ValueError, match=r"imgname: refused pathlib"):
    opened(path)


def test_many_texts_as_objects_are_read(tmp_path, made):
  names = np.array([f"{i}.jpg" for i in range(30_000)], object)
  path = tmp_path / "many.npz"
  zeros = np.zeros(len(names))
  np.savez(path, imgname=names, center=np.zeros((len(names), 2)), scale=zeros)
  reader = opened(path, ".")
  assert len(reader) == 30_000
  with pytest.raises(FileNotFoundError, match=r"29999\.jpg is not there"):
    reader.read(29_999)


def test_a_damaged_file_is_refused_with_its_name(tmp_path, path):
  data = path.read_bytes()
  broken = tmp_path / "broken.npz"
  for damaged in (data[: len(data) // 2], b"no zip", data.replace(b"72)", b"71)")):
    broken.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"broken\.npz"):
      opened(broken, ".")


def test_a_column_of_no_npy_format_is_named(tmp_path, path):
  broken = tmp_path / "broken.npz"
  with zipfile.ZipFile(broken, "w") as file:
    file.writestr("scale.npy", b"1 2 3")
  with pytest.raises(ValueError, match=r"broken\.npz: scale"):
    opened(broken, ".")
