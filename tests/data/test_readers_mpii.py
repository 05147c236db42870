"""MPII's two files against what is drawn in the pictures."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest

from metro_jax.data.readers import formats, mpii_mat

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
written = runpy.run_path(str(FIXTURES / "written.py"))
checks = runpy.run_path(str(FIXTURES / "checks.py"))


def opened(path: pathlib.Path, images: pathlib.Path | None = None):
  return formats.open_reader("mpii", formats.Source(path, "train", images))


@pytest.fixture(scope="module")
def made() -> list:
  return written["bodies"](2)


@pytest.fixture(scope="module")
def paths(tmp_path_factory, made) -> dict[str, pathlib.Path]:
  pytest.importorskip("scipy.io", reason="MPII's .mat file needs SciPy")
  folder = tmp_path_factory.mktemp("mpii")
  return {
    "json": written["write_mpii_json"](folder / "json", made),
    "mat": written["write_mpii_mat"](folder / "mat", made),
  }


@pytest.mark.parametrize("kind", ["json", "mat"])
def test_every_joint_lies_where_it_is_drawn(paths, made, kind):
  reader = opened(paths[kind])
  assert reader.left_out == {"people without joints": int(kind == "mat")}
  for row, (example, scene) in enumerate(
    zip(checks["read_all"](reader), made, strict=True)
  ):
    checks["expect_drawn"](example, scene)
    hidden = {"Thorax"} if row == 0 else set()
    names = set(written["MPII16"]) - hidden
    known = [name in names for name in scene.labels.joints]
    assert (example["joints_2d_px"][:, 2] > 0).tolist() == known
    found, drawn = example["joints_2d_px"][known, :2], scene.joints_px[known]
    np.testing.assert_allclose(found, drawn, atol=1e-3)


@pytest.mark.parametrize("kind", ["json", "mat"])
def test_the_box_is_the_usual_one_of_top_down_pose(paths, made, kind):
  example = opened(paths[kind]).read(1)
  low, high = made[1].joints_px.min(0), made[1].joints_px.max(0)
  height = (high - low).max()
  middle = (low + high) / 2 + [0, 15 * height / 200]
  np.testing.assert_allclose(example["center_px"], middle, rtol=1e-5)
  np.testing.assert_allclose(example["box_px"], 1.25 * height, rtol=1e-5)


def test_only_training_pictures_have_people(paths):
  reader = opened(paths["mat"])
  assert [reader.where(row) for row in range(len(reader))] == [
    *(f"{paths['mat'].name} person {row}" for row in (0, 1)),
  ]


def test_without_an_annotated_centre_the_box_goes_around_the_joints(tmp_path, made):
  path = written["write_mpii_json"](tmp_path, made)
  rows = json.loads(path.read_text())
  rows[1] |= {"center": [-1, -1], "scale": -1}
  path.write_text(json.dumps(rows))
  points = written["mpii_joints"](made[1]) - 0.5
  low, high = points.min(0), points.max(0)
  example = opened(path).read(1)
  np.testing.assert_allclose(example["center_px"], (low + high) / 2, rtol=1e-5)
  np.testing.assert_allclose(example["box_px"], 1.2 * (high - low).max(), rtol=1e-5)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{}", "expected a list of people, got dict"),
    ("[", "bad JSON"),
    ("[1]", "person 0: expected an object, got int"),
    ('[{"joints": [[1, 2]]}]', r"person 0: joints: expected numbers \(16, 2\)"),
  ],
)
def test_another_json_file_is_refused_with_its_name(tmp_path, content, message):
  (tmp_path / "images").mkdir()
  path = tmp_path / "annot" / "train.json"
  path.parent.mkdir()
  path.write_text(content)
  with pytest.raises(ValueError, match=rf"train\.json.*{message}"):
    opened(path)


def test_a_damaged_mat_file_is_refused_with_its_name(tmp_path, paths):
  path = tmp_path / "broken.mat"
  data = paths["mat"].read_bytes()
  for damaged in (data[: len(data) // 2], b"MATLAB 5.0 MAT-file" + bytes(200), b""):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"broken\.mat: expected MPII's RELEASE"):
      opened(path, images=tmp_path)


def test_where_scipy_hangs_the_file_is_named_and_the_reader_ends(
  tmp_path, paths, monkeypatch
):
  (tmp_path / "scipy").mkdir()
  (tmp_path / "scipy" / "__init__.py").write_text("import time\ntime.sleep(3600)\n")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(mpii_mat, "PATIENCE_S", 1.0)
  with pytest.raises(TimeoutError, match=r"v1_u12_1\.mat: .* within 1 s"):
    opened(paths["mat"])


def test_where_scipy_crashes_the_file_is_named_and_we_live(
  tmp_path, paths, monkeypatch
):
  # What SciPy 1.17 does with some flipped bits, whatever the installed one does.
  (tmp_path / "scipy").mkdir()
  (tmp_path / "scipy" / "__init__.py").touch()
  crash = (
    "import os, signal\ndef loadmat(*_, **__): os.kill(os.getpid(), signal.SIGSEGV)"
  )
  (tmp_path / "scipy" / "io.py").write_text(crash)
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=r"v1_u12_1\.mat: .* SciPy ended by SIGSEGV"):
    opened(paths["mat"])


@pytest.mark.slow
def test_cuts_and_flipped_bits_end_in_one_line_or_in_people(tmp_path, paths):
  data, rng = paths["mat"].read_bytes(), np.random.default_rng(0)
  path, refused = tmp_path / "broken.mat", 0
  for trial in range(60):
    damaged = bytearray(data)
    if trial % 3 == 0:
      damaged = damaged[: rng.integers(len(data))]
    for place in rng.integers(0, len(damaged), rng.integers(1, 6)):
      damaged[place] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      opened(path, images=tmp_path)
    except ValueError as error:
      assert str(path) in str(error) and "\n" not in str(error)
      refused += 1
  assert refused > 30


def test_what_is_missing_is_named(tmp_path, paths, monkeypatch):
  with pytest.raises(ValueError, match=r"expected a \.mat or \.json file of MPII"):
    opened(tmp_path)
  lonely = tmp_path / "a" / "train.json"
  lonely.parent.mkdir()
  lonely.write_text("[]")
  with pytest.raises(FileNotFoundError, match="name the pictures with --images"):
    opened(lonely)
  monkeypatch.setitem(sys.modules, "scipy.io", None)
  with pytest.raises(ImportError, match=r"pip install metro_jax\[mpii\], or use"):
    opened(paths["mat"])
