"""SMPL's and MANO's files are found under every release's name, where it unpacks."""

import pathlib
import runpy

import numpy as np
import pytest

from metro_jax.body import smpl_files

HERE = pathlib.Path(__file__).parent
files = runpy.run_path(str(HERE / "standin_files.py"))

FOLDERS = {
  "smpl_neutral": (
    *("", "smpl/models", "SMPL_python_v.1.1.0/smpl/models", "smpl", "models/smpl"),
    *(
      "smplify_public/code/models",
      "mpips_smplify_public_v2/smplify_public/code/models",
    ),
  ),
  "mano_right": ("", "mano_v1_2/models", "mano", "models/mano", "smplx/models/mano"),
  "h36m": ("", "metro/modeling/data", "MeshTransformer/metro/modeling/data"),
}


@pytest.mark.parametrize(
  ("key", "folder"), [(key, each) for key in FOLDERS for each in FOLDERS[key]]
)
def test_a_file_is_found_where_its_owners_archive_leaves_it(tmp_path, key, folder):
  for name in smpl_files.ASSETS[key].names:
    path = tmp_path / name[:12] / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert smpl_files.find((key,), str(tmp_path / name[:12])) == (path,)
    path.unlink()


@pytest.mark.parametrize(
  "name",
  [
    *("basicmodel_f_lbs_10_207_0_v1.0.0.pkl", "basicModel_f_lbs_10_207_0_v1.1.0.pkl"),
    *("basicModel_f_lbs_10_207_0_v.1.1.0.pkl", "basicmodel_f_lbs_10_207_0_v.1.1.0.pkl"),
  ],
)
def test_a_name_may_be_spelt_as_other_releases_do(tmp_path, name):
  (tmp_path / name).touch()
  assert smpl_files.find(("smpl_female",), str(tmp_path)) == (tmp_path / name,)


def test_the_folder_itself_and_the_first_release_come_first(tmp_path):
  (tmp_path / "smpl" / "models").mkdir(parents=True)
  below = tmp_path / "smpl" / "models" / files["NEUTRAL"]
  newer = tmp_path / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl"
  below.touch()
  assert smpl_files.find(("smpl_neutral",), str(tmp_path)) == (below,)
  newer.touch()
  assert smpl_files.find(("smpl_neutral",), str(tmp_path)) == (newer,)
  (tmp_path / files["NEUTRAL"]).touch()
  older = tmp_path / files["NEUTRAL"]
  assert smpl_files.find(("smpl_neutral",), str(tmp_path)) == (older,)


def test_an_archive_with_300_components_is_read_where_it_unpacked(tmp_path):
  entries = files["mano"]()
  distributed = files["as_distributed"](entries)
  more = np.concatenate([entries["shapedirs"], np.full((778, 3, 290), 7.0)], axis=2)
  distributed["shapedirs"] = files["chumpy"](more)
  folder = tmp_path / "mano_v1_2" / "models"
  folder.mkdir(parents=True)
  (folder / "MANO_RIGHT.pkl").write_bytes(files["python3"](distributed))
  files["write_npz"](
    tmp_path / "mano_downsampling.npz", **files["sampling"]((778, 195, 49))
  )
  body, _ = smpl_files.load_mano(assets_dir=str(tmp_path))
  expected = entries["shapedirs"].astype(np.float32)
  np.testing.assert_array_equal(body.shape_directions, expected)


def test_the_error_and_the_readme_name_every_release(tmp_path):
  readme = (
    HERE.parents[1] / "metro_jax" / "data" / "readers" / "README.md"
  ).read_text()
  keys = [key for key in smpl_files.ASSETS if key != "mano_left"]
  (said,) = smpl_files.missing(keys, str(tmp_path))
  for name in (name for key in keys for name in smpl_files.ASSETS[key].names):
    assert f"`{name}`" in readme
    assert name in said
