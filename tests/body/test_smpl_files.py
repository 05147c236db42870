"""SMPL, MANO and their mesh levels against the released code's numbers."""

import dataclasses
import os
import pathlib
import pickle
import runpy

import jax
import numpy as np
import pytest

from metro_jax import config as base
from metro_jax.body import (
  body_model,
  hand,
  joints,
  mesh_levels,
  rotations,
  smpl_files,
  template,
)
from metro_jax.models import setup

HERE = pathlib.Path(__file__).parent
GOLDENS = HERE.parent / "goldens"
files = runpy.run_path(str(HERE / "standin_files.py"))
ORIGINALS = (
  *("J_regressor_h36m_correct.npy", "J_regressor_extra.npy"),
  *("mesh_downsampling.npz", "mano_downsampling.npz"),
)
ATOL = 1e-9
FINGERS = ("Thumb", "Index", "Middle", "Ring", "Pinky")


def helpers() -> dict[str, np.ndarray]:
  with np.load(GOLDENS / "helpers.npz") as stored:
    return dict(stored)


@pytest.fixture(scope="module")
def entries() -> dict[str, dict[str, np.ndarray]]:
  return {"smpl": files["smpl"](), "mano": files["mano"]()}


@pytest.fixture(scope="module")
def assets(tmp_path_factory, entries) -> pathlib.Path:
  """A folder of stand-ins for every file, as their owners distribute them."""
  folder = tmp_path_factory.mktemp("assets")
  smpl, mano = (files["as_distributed"](entries[name]) for name in ("smpl", "mano"))
  (folder / files["NEUTRAL"]).write_bytes(files["python2"](smpl))
  (folder / "MANO_RIGHT.pkl").write_bytes(files["python3"](mano))
  draws = np.random.default_rng(1)
  for name, count in (("h36m_correct", 17), ("extra", 14)):
    rows = draws.dirichlet(np.ones(6890), count)
    np.save(folder / f"J_regressor_{name}.npy", rows)
  write, sampling = files["write_npz"], files["sampling"]
  write(folder / "mesh_downsampling.npz", **sampling((6890, 431, 20)))
  write(folder / "mano_downsampling.npz", **sampling((778, 195, 49)))
  return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory, assets) -> pathlib.Path:
  """The same bodies with the original code's own data files."""
  source = pathlib.Path(os.environ.get("METRO_ASSETS", "none"))
  if not all((source / name).is_file() for name in ORIGINALS):
    pytest.skip(f"METRO_ASSETS names no folder with {' '.join(ORIGINALS)}")
  folder = tmp_path_factory.mktemp("originals")
  for name in (files["NEUTRAL"], "MANO_RIGHT.pkl"):
    (folder / name).symlink_to(assets / name)
  for name in ORIGINALS:
    (folder / name).symlink_to((source / name).absolute())
  return folder


def exact(body: body_model.BodyModel) -> body_model.BodyModel:
  """The body in float64; what was read is kept as it is."""
  return jax.tree.map(
    lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, body
  )


def posed_as_golden(name: str, body: body_model.BodyModel) -> body_model.PosedBody:
  stored = helpers()
  pose, shape = stored[f"{name}/in_pose"], stored[f"{name}/in_beta"]
  return body_model.pose_body(
    exact(body), pose.astype(np.float64), shape.astype(np.float64)
  )


def test_rotations_are_the_released_codes():
  stored = helpers()
  got = rotations.axis_angle_to_matrix(stored["rodrigues/in"].astype(np.float64))
  golden = stored["rodrigues/f64/R"]
  np.testing.assert_allclose(got.reshape(golden.shape), golden, rtol=0, atol=ATOL)


def test_smpl_poses_as_the_released_code_does(assets):
  body, _ = smpl_files.load_smpl(assets_dir=str(assets))
  vertices = posed_as_golden("smpl", body).vertices
  stored = helpers()
  golden = stored["smpl/f64/verts_every13"]
  np.testing.assert_allclose(vertices[:, ::13], golden, rtol=0, atol=ATOL)
  np.testing.assert_allclose(vertices.sum(1), stored["smpl/f64/verts_sum"], atol=1e-8)


def test_smpl_joint_sets_are_the_released_codes(originals):
  body, _ = smpl_files.load_smpl(assets_dir=str(originals))
  vertices = posed_as_golden("smpl", body).vertices
  stored = helpers()
  for name, golden in (("j24", "joints24"), ("h36m", "h36m17")):
    got = body_model.regress_joints(exact(body).regressors[name], vertices)
    np.testing.assert_allclose(got, stored[f"smpl/f64/{golden}"], rtol=0, atol=ATOL)


def test_smpl_sampling_is_the_released_codes(originals):
  body, levels = smpl_files.load_smpl(assets_dir=str(originals))
  vertices = posed_as_golden("smpl", body).vertices
  stored = helpers()
  assert levels.counts == (6890, 1723, 431)
  for step in (0, 1):
    golden = stored[f"downsample_index/smpl{step}"]
    np.testing.assert_array_equal(levels.select[step], golden)
  middle = mesh_levels.downsample(levels, vertices, 1)
  coarse = mesh_levels.downsample(levels, vertices, 2)
  to_full, to_middle = (mesh_levels.upsample_matrix(levels, step) for step in (0, 1))
  up2, up1 = to_full @ (to_middle @ coarse), to_full @ middle
  for name, got in (
    ("sub1", middle[:, ::7]),
    ("sub2", coarse),
    ("up_from_sub2", up2[:, ::13]),
    ("up_from_sub1", up1[:, ::13]),
  ):
    np.testing.assert_allclose(got, stored[f"smpl/f64/{name}"], rtol=0, atol=ATOL)


def test_levels_of_the_originals_are_meshes_with_three_corners_a_vertex(originals):
  for load, counts in (
    (smpl_files.load_smpl, (6890, 1723, 431)),
    (smpl_files.load_mano, (778, 195, 49, 13, 4)),
  ):
    levels = load(assets_dir=str(originals)).levels
    assert levels.counts == counts
    assert {weight.shape[1] for weight in levels.upsample_weight} == {3}
    for level, count in zip(levels.faces, levels.counts, strict=True):
      if count > 13:  # the smallest are stubs
        assert len(np.unique(level)) == count or level.shape == (13776, 3)


def test_mano_poses_from_the_mean_hand_as_the_released_code_does(originals):
  body, levels = smpl_files.load_mano(assets_dir=str(originals))
  posed = posed_as_golden("mano", body)
  regressed = body_model.regress_joints(
    exact(body).regressors["hand21"], posed.vertices
  )
  stored = helpers()
  np.testing.assert_array_equal(levels.select[0], stored["downsample_index/mano0"])
  for name, got in (
    ("verts_mm", posed.vertices),
    ("joints_mm", hand.joints21(posed)),
    ("regressed_joints_mm", regressed),
    ("sub_mm", mesh_levels.downsample(levels, posed.vertices, 1)),
  ):
    golden = stored[f"mano/f64/{name}"]
    np.testing.assert_allclose(1000 * got, golden, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
  ("kind", "counts"), [("body", (6890, 1723, 431)), ("hand", (778, 195))]
)
def test_templates_are_the_released_codes(originals, kind, counts):
  load = smpl_files.load_smpl if kind == "body" else smpl_files.load_mano
  body, levels = load(assets_dir=str(originals))
  made = template.make_template(exact(body), mesh_levels.choose(levels, counts))
  with np.load(GOLDENS / f"eval_{kind}_resnet50.npz") as stored:
    golden = stored["f64/template.ref_vertices"]
  got = np.concatenate([made.joints, made.vertices])
  np.testing.assert_allclose(got, golden.reshape(got.shape), rtol=0, atol=ATOL)


def test_joint_21_of_a_label_and_of_a_mesh_differ_in_the_middle_tip_alone(assets):
  body, _ = smpl_files.load_mano(assets_dir=str(assets))
  vertices = np.random.default_rng(0).standard_normal((1, 778, 3))
  tree = body_model.regress_joints(exact(body).joint_regressor, vertices)
  label = hand.joints21(body_model.PosedBody(vertices, tree))[0]
  mesh = body_model.regress_joints(exact(body).regressors["hand21"], vertices)[0]
  differs = np.abs(label - mesh).max(1) > 1e-6
  assert [joints.HAND21[i] for i in np.flatnonzero(differs)] == ["Middle_4"]
  np.testing.assert_array_equal(label[joints.HAND21.index("Thumb_4")], vertices[0, 745])
  np.testing.assert_array_equal(mesh[joints.HAND21.index("Middle_4")], vertices[0, 445])


def test_the_hands_tree_is_five_chains_from_the_wrist():
  chains = {(f"{f}_{i - 1}", f"{f}_{i}") for f in FINGERS for i in (2, 3)}
  chains |= {("Wrist", f"{finger}_1") for finger in FINGERS}
  parents = enumerate(joints.MANO16_PARENTS[1:], start=1)
  assert {(joints.MANO16[p], joints.MANO16[j]) for j, p in parents} == chains


def test_a_left_hand_is_the_right_one_in_a_mirror(assets):
  right, _ = smpl_files.load_mano(assets_dir=str(assets))
  left, levels = smpl_files.load_mano("left", str(assets))
  assert (right.name, left.name) == ("mano_right", "mano_left")
  rng = np.random.default_rng(3)
  pose, shape = rng.standard_normal((2, 48)), rng.standard_normal((2, 10))
  mirror = np.array([-1, 1, 1.0])
  posed = body_model.pose_body(exact(right), pose, shape)
  other = body_model.pose_body(exact(left), -np.tile(mirror, 16) * pose, shape)
  # The angle's 1e-8 shift is not symmetric.
  np.testing.assert_allclose(other.vertices, mirror * posed.vertices, atol=1e-7)
  np.testing.assert_allclose(other.joints, mirror * posed.joints, atol=1e-7)
  np.testing.assert_array_equal(left.faces[:, ::-1], right.faces)
  np.testing.assert_array_equal(levels.faces[0], [[2, 1, 0], [0, 1, 2]])


def test_a_left_hands_own_file_is_taken_where_there_is_one(tmp_path, assets, entries):
  for path in assets.iterdir():
    (tmp_path / path.name).symlink_to(path)
  own = {**entries["mano"], "v_template": entries["mano"]["v_template"] + 1}
  (tmp_path / "MANO_LEFT.pkl").write_bytes(files["python2"](own))
  left, _ = smpl_files.load_mano("left", str(tmp_path))
  np.testing.assert_allclose(left.template, own["v_template"], atol=1e-6)
  with pytest.raises(ValueError, match="right or left, got 'both'"):
    smpl_files.load_mano("both", str(tmp_path))


def test_npz_and_every_gender_give_the_same_body(tmp_path, assets, entries):
  for path in assets.iterdir():
    (tmp_path / path.name).symlink_to(path)
  np.savez(tmp_path / "SMPL_MALE.npz", **entries["smpl"])
  female = files["python3"](files["as_distributed"](entries["smpl"]), 4)
  (tmp_path / "basicModel_f_lbs_10_207_0_v1.0.0.pkl").write_bytes(female)
  neutral = smpl_files.load_smpl("neutral", str(tmp_path)).body
  for gender in ("male", "female"):
    body = smpl_files.load_smpl(gender, str(tmp_path)).body
    assert body.name == f"smpl_{gender}"
    same = dataclasses.replace(body, name=neutral.name)
    assert jax.tree.structure(same) == jax.tree.structure(neutral)
    for got, wanted in zip(*map(jax.tree.leaves, (same, neutral)), strict=True):
      np.testing.assert_array_equal(got, wanted)


def test_leaves_are_read_only_float32(assets):
  body, levels = smpl_files.load_smpl(assets_dir=str(assets))
  leaves = jax.tree.leaves(body)
  assert {leaf.dtype for leaf in leaves} == {np.dtype("f4"), np.dtype("i4")}
  assert not any(leaf.flags.writeable for leaf in (*leaves, *levels.upsample_weight))


def test_missing_files_are_all_named_with_purpose_and_source(tmp_path, assets):
  (tmp_path / "J_regressor_extra.npy").symlink_to(assets / "J_regressor_extra.npy")
  with pytest.raises(FileNotFoundError) as caught:
    smpl_files.load_smpl("female", str(tmp_path))
  said = str(caught.value)
  for part in (
    str(tmp_path),
    "basicModel_f_lbs_10_207_0_v1.0.0.pkl or SMPL_FEMALE.npz (the female SMPL body; "
    "from https://smpl.is.tue.mpg.de)",
    "J_regressor_h36m_correct.npy",
    "mesh_downsampling.npz (SMPL's mesh levels; from https://github.com/microsoft/",
  ):
    assert part in said
  assert "extra" not in said
  assert "\n" not in said


def test_without_a_folder_the_environment_is_asked_and_named(monkeypatch, assets):
  monkeypatch.setenv("METRO_ASSETS", str(assets))
  assert smpl_files.load_mano().body.name == "mano_right"
  monkeypatch.delenv("METRO_ASSETS")
  with pytest.raises(FileNotFoundError, match=r"got none and no METRO_ASSETS: MANO_R"):
    smpl_files.load_mano()


def nan_in(values: np.ndarray) -> np.ndarray:
  values = values.copy()
  values.flat[7] = np.nan
  return values


DAMAGE = {
  "NaN weights": ("weights", nan_in, "weights: expected finite numbers"),
  "NaN in a matrix": ("J_regressor", nan_in, "J_regressor: expected finite"),
  "another hand": ("v_template", lambda x: x[:700], r"v_template: .*\(778, 3\)"),
  "shares": ("weights", lambda x: 2 * x, "weights: expected shares of 1"),
  "few shapes": ("shapedirs", lambda x: x[:, :, :5], "expected 10 components, got 5"),
  "another tree": ("kintree_table", lambda x: x[:, ::-1], "kintree_table: expected"),
  "index": ("f", lambda x: x + 1, "f: expected vertices below 778"),
  "text": ("posedirs", lambda x: "none", "posedirs: expected numbers"),
  "a transposed matrix": ("J_regressor", np.transpose, r"\(16, 778\), got \(778, 16"),
  "short mean": ("hands_mean", lambda x: x[:6], r"expected numbers \(45,\)"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_is_not_what_its_name_says_is_refused(
  tmp_path, assets, entries, name
):
  key, change, message = DAMAGE[name]
  for path in assets.iterdir():
    if path.name != "MANO_RIGHT.pkl":
      (tmp_path / path.name).symlink_to(path)
  damaged = {**entries["mano"], key: change(entries["mano"][key])}
  (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(damaged))
  with pytest.raises(ValueError, match=rf"MANO_RIGHT\.pkl.*{message}"):
    smpl_files.load_mano(assets_dir=str(tmp_path))


@pytest.mark.parametrize("key", ["v_template", "J_regressor", "hands_mean"])
def test_a_missing_entry_is_named(tmp_path, assets, entries, key):
  (tmp_path / "mano_downsampling.npz").symlink_to(assets / "mano_downsampling.npz")
  lacking = {name: entries["mano"][name] for name in entries["mano"] if name != key}
  (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(lacking))
  with pytest.raises(ValueError, match=rf"MANO_RIGHT\.pkl: expected .*{key}"):
    smpl_files.load_mano(assets_dir=str(tmp_path))


ROWS = np.eye(195)[np.arange(778) % 195]  # a matrix without an empty row


def wrong_levels(name: str) -> dict[str, list[object]]:
  parts = files["sampling"]((778, 195))
  if name == "two ones in a row":
    parts["D"] = [files["csc"](np.eye(195, 778) + np.eye(195, 778, 1))]
  elif name == "not one":
    parts["D"] = [files["csc"](0.5 * np.eye(195, 778))]
  elif name == "another mesh":
    parts["D"] = [files["csc"](np.eye(195, 700))]
  elif name == "NaN weights":
    parts["U"] = [files["csc"](np.where(np.eye(778, 195), np.nan, 0) + ROWS)]
  elif name == "an empty row":
    parts["U"] = [files["csc"](np.eye(778, 195))]
  elif name == "a dense row":
    parts["U"] = [files["csc"](np.full((778, 195), 1 / 195))]
  elif name == "no triangles":
    del parts["F"]
  elif name == "a level too few":
    parts["F"] = parts["F"][:1]
  elif name == "an index beyond":
    parts["F"][1] = np.array([[0, 1, 195]])
  return parts


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("two ones in a row", r"D\[0\]: expected one 1 in every row"),
    ("not one", r"D\[0\]: expected one 1 in every row"),
    ("another mesh", r"D\[0\]: expected one 1 in every row and 778 columns"),
    ("an empty row", r"U\[0\]: expected 1 to 8 entries a row, got 0"),
    ("NaN weights", r"U\[0\]: expected finite numbers"),
    ("a dense row", r"U\[0\]: expected 1 to 8 entries a row"),
    ("no triangles", "expected D, U and F"),
    ("a level too few", r"expected n steps .* got 1, 1 and 1"),
    ("an index beyond", r"F\[1\]: expected vertices below 195, got 195"),
  ],
)
def test_levels_that_are_none_are_refused(tmp_path, assets, name, message):
  (tmp_path / "MANO_RIGHT.pkl").symlink_to(assets / "MANO_RIGHT.pkl")
  path = tmp_path / "mano_downsampling.npz"
  files["write_npz"](path, **wrong_levels(name))
  with pytest.raises(ValueError, match=rf"mano_downsampling\.npz: {message}"):
    smpl_files.load_mano(assets_dir=str(tmp_path))


def hand_config(assets: pathlib.Path):
  config = base.get_config()
  config.body.model = "mano"
  config.body.assets_dir = str(assets)
  config.body.levels = (778, 195)
  config.loss.vertex_levels = (1.0, 1.0)
  config.loss.root = "wrist"
  config.data.augment.flip_probability = 0.0
  return config


def test_the_config_builds_the_networks_of_smpl_and_mano(assets):
  config = hand_config(assets)
  base.validate(config)
  network = setup.build(config)
  assert network.body.name == "mano_right"
  assert network.template.joints.shape == (21, 3)
  assert network.template.vertices.shape == (195, 3)
  assert network.model.upsampled == (778,)
  config = base.get_config()
  config.body.model = "smpl"
  config.body.assets_dir = str(assets)
  config.body.levels = (6890, 431)
  network = setup.build(config)
  assert network.body.name == "smpl_neutral"
  assert network.template.joints.shape == (14, 3)


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("model", "smplx", "body.model: expected one of humanoid, smpl, mano"),
    ("gender", "any", "body.gender: expected one of neutral, male, female"),
    ("levels", (6890, 195), "body.levels: expected 778 vertices first"),
  ],
)
def test_impossible_bodies_are_refused_before_files_are_read(key, value, message):
  config = hand_config(pathlib.Path("none"))
  config.body[key] = value
  with pytest.raises(ValueError, match=message):
    base.validate(config)
