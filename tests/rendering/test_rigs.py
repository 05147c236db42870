"""Rigs in files: read by parsers of this test, posed by their own arithmetic."""

import json
import pathlib
import runpy
import struct

import numpy as np
import pytest
import trimesh

from metro_jax.body import body_model
from metro_jax.rendering import bvh, gltf, rig

BODIES = runpy.run_path(
  str(pathlib.Path(__file__).parents[1] / "fixtures" / "bodies.py")
)
FLIP = np.array([1, -1, -1])  # camera frame to y up
FPS = 25.0
TYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def made(name, frames, seed=0):
  """A body in motion: rig, motion, and what they should give, y up."""
  body = BODIES["load"](name)
  pose, betas, transl = BODIES["random_parameters"](body, frames, seed, 0.4)
  betas = np.repeat(betas[:1], frames, axis=0)
  posed = body_model.pose_body(body, pose, betas)
  found = rig.make_rig(body, betas[0], pose[0])
  motion = rig.make_motion(body, found, pose, transl)
  points = (FLIP * (p + transl[:, None]) for p in (posed.vertices, posed.joints))
  return found, motion, *points


def read_glb(path):
  """The JSON and a function that gives an accessor's array."""
  data = path.read_bytes()
  magic, version, size = struct.unpack("<4sII", data[:12])
  assert (magic, version, size) == (b"glTF", 2, len(data))
  length, kind = struct.unpack("<II", data[12:20])
  assert kind == 0x4E4F534A and length % 4 == 0
  document = json.loads(data[20 : 20 + length])
  binary = data[20 + length + 8 :]
  assert document["buffers"] == [{"byteLength": len(binary)}]

  def array(number):
    accessor = document["accessors"][number]
    view = document["bufferViews"][accessor["bufferView"]]
    assert view["byteOffset"] % 4 == 0
    part = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    values = np.frombuffer(part, TYPES[accessor["componentType"]])
    return values.reshape(accessor["count"], WIDTHS[accessor["type"]])

  return document, array


def matrix(translation, quaternion):
  x, y, z, w = quaternion
  made = np.eye(4)
  made[:3, :3] = [
    [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
  ]
  made[:3, 3] = translation
  return made


def skinned(document, array, nodes):
  """Vertices as a viewer shows them, from nodes' translations and rotations."""
  world = {}

  def walk(number, before):
    node = nodes[number]
    still = [0, 0, 0], [0, 0, 0, 1]
    own = (node.get("translation", still[0]), node.get("rotation", still[1]))
    world[number] = before @ matrix(*own)
    for child in node.get("children", []):
      walk(child, world[number])

  for root in document["scenes"][0]["nodes"]:
    walk(root, np.eye(4))
  (skin,) = document["skins"]
  inverse = array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
  moves = np.stack([world[n] for n in skin["joints"]]) @ inverse
  attributes = document["meshes"][0]["primitives"][0]["attributes"]
  rest = np.column_stack([array(attributes["POSITION"]), np.ones(len(array(0)))])
  of, share = array(attributes["JOINTS_0"]), array(attributes["WEIGHTS_0"])
  np.testing.assert_allclose(share.sum(1), 1, atol=1e-6)
  return np.einsum("vn,vnij,vj->vi", share, moves[of], rest)[:, :3]


def frame(document, array, number):
  """The nodes as the animation has them at a frame."""
  nodes = json.loads(json.dumps(document["nodes"]))
  (animation,) = document["animations"]
  for channel in animation["channels"]:
    sampler = animation["samplers"][channel["sampler"]]
    times = array(sampler["input"])
    np.testing.assert_allclose(times[:, 0], np.arange(len(times)) / FPS, rtol=1e-6)
    target = channel["target"]
    nodes[target["node"]][target["path"]] = array(sampler["output"])[number].tolist()
  return nodes


@pytest.mark.parametrize("name", ["humanoid", "smpl", "mano"])
def test_a_viewer_that_skins_the_rest_mesh_sees_the_posed_one(tmp_path, name):
  found, motion, vertices, joints = made(name, 1)
  path = tmp_path / "body.glb"
  gltf.write_rigged(path, found, motion)
  document, array = read_glb(path)
  assert "animations" not in document
  shown = skinned(document, array, document["nodes"])
  assert np.abs(shown - vertices[0]).max() < 1e-4  # 0.1 mm
  names = [document["nodes"][n]["name"] for n in document["skins"][0]["joints"]]
  assert tuple(names) == found.names and len(names) == len(joints[0])
  assert trimesh.load(path, force="mesh", process=False).vertices.shape == shown.shape


def test_an_animation_moves_the_body_through_its_frames(tmp_path):
  found, motion, vertices, _ = made("humanoid", 4)
  gltf.write_rigged(tmp_path / "track.glb", found, motion, FPS)
  document, array = read_glb(tmp_path / "track.glb")
  for number in range(4):
    shown = skinned(document, array, frame(document, array, number))
    assert np.abs(shown - vertices[number]).max() < 1e-4


def test_rotations_of_an_animation_do_not_change_their_sign(tmp_path):
  body = BODIES["load"]("humanoid")
  pose = np.zeros((40, 72), np.float32)
  pose[:, 4] = np.linspace(0, 4 * np.pi, 40)  # the left hip turns twice
  found = rig.make_rig(body, np.zeros(10, np.float32))
  motion = rig.make_motion(body, found, pose, np.zeros((40, 3), np.float32))
  gltf.write_rigged(tmp_path / "turn.glb", found, motion, FPS)
  document, array = read_glb(tmp_path / "turn.glb")
  (animation,) = document["animations"]
  (hip,) = [
    channel["sampler"]
    for channel in animation["channels"]
    if channel["target"] == {"node": 1, "path": "rotation"}
  ]
  track = array(animation["samplers"][hip]["output"])
  assert (np.sum(track[1:] * track[:-1], axis=1) > 0.9).all()


def test_photographs_colors_are_linear_in_the_file(tmp_path):
  points = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
  colors = np.uint8([[255, 0, 188], [10, 20, 30], [128, 128, 128]])
  path = tmp_path / "mesh.glb"
  gltf.write_mesh(path, points, np.array([[0, 1, 2]]), colors)
  document, array = read_glb(path)
  number = document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
  assert document["accessors"][number]["normalized"]
  # By IEC 61966-2-1: 188 is half of the light, 128 is 21.6 %, 10 is 0.3 %.
  shares = array(number)[:, :3] / 65535
  np.testing.assert_allclose(shares[0], [1, 0, 0.5029], atol=1e-4)
  np.testing.assert_allclose(shares[1:, 0], [0.003035, 0.21586], atol=1e-5)


def read_bvh(path):
  """Names, parents, offsets, channels a joint, and frames."""
  lines = path.read_text().split("\n")
  names, parents, offsets, channels, stack = [], [], [], [], []
  for line in lines[1 : lines.index("MOTION")]:
    word, *rest = line.split()
    if word in ("ROOT", "JOINT", "End"):
      parents.append(stack[-1] if stack else -1)
      names.append(rest[0])
      channels.append([])
    elif word == "OFFSET":
      offsets.append(np.array(rest, float))
    elif word == "CHANNELS":
      channels[-1] = rest[1:]
      assert int(rest[0]) == len(channels[-1])
    stack += [len(names) - 1] if word == "{" else []
    stack = stack[:-1] if word == "}" else stack
  at = lines.index("MOTION")
  assert float(lines[at + 2].removeprefix("Frame Time: ")) == pytest.approx(1 / FPS)
  rows = np.array([line.split() for line in lines[at + 3 :] if line], float)
  assert len(rows) == int(lines[at + 1].removeprefix("Frames: "))
  assert rows.shape[1] == sum(map(len, channels))
  return names, parents, offsets, channels, rows


def turn(axis, degrees):
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  i, j = {"X": (1, 2), "Y": (2, 0), "Z": (0, 1)}[axis]
  made = np.eye(3)
  made[i, i] = made[j, j] = c
  made[i, j], made[j, i] = -s, s
  return made


def forward(parents, offsets, channels, row):
  """Where the joints are in a frame."""
  places, turns, values = [], [], iter(row)
  for parent, offset, kinds in zip(parents, offsets, channels, strict=True):
    own, place = np.eye(3), np.zeros(3)
    for kind in kinds:
      value = next(values)
      if kind.endswith("position"):
        place["XYZ".index(kind[0])] = value
      else:
        own = own @ turn(kind[0], value)
    before = np.eye(3) if parent < 0 else turns[parent]
    start = np.zeros(3) if parent < 0 else places[parent]
    places.append(start + before @ (offset + place))
    turns.append(before @ own)
  return np.array(places)


@pytest.mark.parametrize("name", ["humanoid", "mano"])
def test_bvh_puts_the_joints_where_the_body_has_them(tmp_path, name):
  found, motion, _, joints = made(name, 5)
  bvh.write_bvh(tmp_path / "track.bvh", found, motion, FPS)
  names, parents, offsets, channels, rows = read_bvh(tmp_path / "track.bvh")
  assert names.count("Site") == sum(
    n not in found.parents for n in range(len(joints[0]))
  )
  order = [names.index(name) for name in found.names]
  for row, expected in zip(rows, joints, strict=True):
    places = forward(parents, offsets, channels, row)[order]
    assert np.abs(places - expected).max() < 1e-3


def test_bvh_angles_do_not_jump_and_hold_where_y_is_upright(tmp_path):
  body = BODIES["load"]("humanoid")
  pose = np.zeros((60, 72), np.float32)
  pose[:, 5] = np.linspace(0, 4 * np.pi, 60)  # the left hip turns twice about z
  pose[:, 7] = np.pi / 2  # the right one stands at the pole of its angles
  found = rig.make_rig(body, np.zeros(10, np.float32))
  motion = rig.make_motion(body, found, pose, np.zeros((60, 3), np.float32))
  angles = bvh.to_euler_zyx_degrees(motion.turns)
  assert np.abs(np.diff(angles[:, 1], axis=0)).max() < 13
  np.testing.assert_allclose(angles[:, 2], [[0, 90, 0]] * 60, atol=0.1)
