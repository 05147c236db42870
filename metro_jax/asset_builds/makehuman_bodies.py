"""Adults of MakeHuman's shape axes, turned into SMPL's rest pose.

Only build_humanoid.py needs this: it says which bones and joint cubes of MakeHuman
stand for SMPL's joints, and samples bodies.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.asset_builds import makehuman
from metro_jax.body import joints

SMOOTHING_STEPS = 2  # of the skin weights, over the mesh's edges
MAX_INFLUENCES = 4

# The bones of MakeHuman's rig `game_engine` that follow each SMPL joint, and the
# cube at the joint; {s} is the side. Thumbs follow the wrist: SMPL's hand joint sits
# at the knuckles.
BONES = {
  "Pelvis": (("pelvis",), "pelvis"),
  "Spine1": (("spine_01",), "spine-4"),
  "Spine2": (("spine_02",), "spine-3"),
  "Spine3": (("spine_03",), "spine-2"),
  "Neck": (("neck_01",), "neck"),
  "Head": (("head",), "head"),
  "Collar": (("clavicle_{s}",), "{s}-clavicle"),
  "Shoulder": (("upperarm_{s}",), "{s}-shoulder"),
  "Elbow": (("lowerarm_{s}",), "{s}-elbow"),
  "Wrist": (("hand_{s}", *(f"thumb_0{i}_{{s}}" for i in (1, 2, 3))), "{s}-hand"),
  "Hand": (
    tuple(
      f"{finger}_0{i}_{{s}}"
      for finger in ("index", "middle", "ring", "pinky")
      for i in (1, 2, 3)
    ),
    "{s}-finger-3-1",
  ),
  "Hip": (("thigh_{s}",), "{s}-upper-leg"),
  "Knee": (("calf_{s}",), "{s}-knee"),
  "Ankle": (("foot_{s}",), "{s}-ankle"),
  "Foot": (("ball_{s}",), "{s}-foot-1"),
}
# Points the rest pose and the further landmarks are made from.
CUBES = {
  "Chin": "jaw",
  "L_Index": "l-finger-2-1",
  "R_Index": "r-finger-2-1",
  "L_Pinky": "l-finger-5-1",
  "R_Pinky": "r-finger-5-1",
  "L_Eye": "l-eye",
  "R_Eye": "r-eye",
}


class Bodies(NamedTuple):
  """Sampled adults in the rest pose, their pelvis at the origin."""

  vertices: Float[np.ndarray, "n v 3"]
  points: dict[str, Float[np.ndarray, "n 3"]]


def joint_weights(
  source: makehuman.MakeHuman,
  rows: Int[np.ndarray, " v"],
  faces: Int[np.ndarray, "f 3"],
) -> Float[np.ndarray, "v 24"]:
  """SMPL's skin weights: the rig's bones merged, symmetric, smoothed, at most four.

  Args:
    source: The base mesh with the rig's weights.
    rows: The vertices wanted.
    faces: Triangles among them, to smooth over.
  """
  weights = np.zeros((len(source.vertices), len(joints.SMPL24)))
  for column, name in zip(weights.T, joints.SMPL24, strict=True):
    side, kind = side_of(name)
    for bone in BONES[kind][0]:
      column += source.bone_weights[bone.format(s=side)]
  flip = joints.flip_permutation(joints.SMPL24)
  weights = (weights + weights[source.mirror][:, flip])[rows]
  weights /= weights.sum(1, keepdims=True)
  edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
  degree = np.bincount(edges[:, 0], minlength=len(weights))[:, None]
  for _ in range(SMOOTHING_STEPS):
    around = np.zeros_like(weights)
    np.add.at(around, edges[:, 0], weights[edges[:, 1]])
    weights = (weights + around / degree) / 2
  smallest_kept = -np.sort(-weights, axis=1)[:, MAX_INFLUENCES - 1 : MAX_INFLUENCES]
  weights = np.where(weights >= np.maximum(smallest_kept, 2 / 255), weights, 0.0)
  return weights / weights.sum(1, keepdims=True)


def side_of(name: str) -> tuple[str, str]:
  """("l", "Knee") of "L_Knee"; the side is "" in the middle."""
  return (name[0].lower(), name[2:]) if name[1] == "_" else ("", name)


def phenotypes(
  n: int, rng: np.random.Generator | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Adults' values on MakeHuman's axes and their shares of origins.

  The height axis at 0.37 ± 0.065 gives 1.63 m women and 1.76 m men. Without a
  generator: the average adult, between the sexes, n times.
  """
  middle = {"age": 0.3, "height": 0.37}
  values = {axis: np.full(n, middle.get(axis, 0.5)) for axis in makehuman.ANCHORS}
  if rng is None:
    return values, np.full((n, 3), 1 / 3)
  deviations = {
    **{"muscle": 0.15, "weight": 0.17, "height": 0.065, "proportions": 0.2},
    **{"cup": 0.2, "firmness": 0.15},
  }
  for axis, deviation in deviations.items():
    values[axis] = np.clip(rng.normal(values[axis], deviation), 0.0, 1.0)
  values["age"] = 0.9 * rng.beta(1.0, 2.0, n)
  sex = rng.integers(0, 2, n) + rng.normal(0.0, 0.08, n)
  values["gender"] = np.clip(sex, 0.0, 1.0)
  return values, rng.dirichlet(np.ones(3), n)


def sample_bodies(
  source: makehuman.MakeHuman,
  rows: np.ndarray,
  weights: np.ndarray,
  people: tuple[dict[str, np.ndarray], np.ndarray],
) -> Bodies:
  """Bodies of the given phenotypes, in the rest pose."""
  acting = makehuman.target_weights(*people, source.target_words)

  def shaped(rows: np.ndarray) -> np.ndarray:
    moves = source.targets[:, rows].reshape(len(source.targets), -1)
    moved = acting.astype(np.float32) @ moves
    return source.vertices[rows] + moved.reshape(len(acting), len(rows), 3)

  cubes = {name: f"joint-{cube}" for name, cube in CUBES.items()}
  for name in joints.SMPL24:
    side, kind = side_of(name)
    cubes[name] = f"joint-{BONES[kind][1].format(s=side)}"
  points = {name: shaped(source.groups[cube]).mean(1) for name, cube in cubes.items()}
  for name, row in surface_points(source).items():
    points[name] = shaped(np.array([row]))[:, 0]
  points["Skull"] = (points["Head"] + 2 * points["Crown"]) / 3
  return to_rest_pose(shaped(rows), points, weights)


def surface_points(source: makehuman.MakeHuman) -> dict[str, int]:
  """Crown, nose tip and ears, as vertices of the base mesh."""
  skin = np.arange(source.faces.max() + 1)
  x, y, z = source.vertices[skin].T
  eye = source.vertices[source.groups["joint-l-eye"]].mean(0)
  level = np.abs(y - eye[1]) < 0.05
  crown = np.where(np.abs(x) < 1e-3, y, -np.inf).argmax()
  nose = np.where(level & (np.abs(x) < 1e-3), z, -np.inf).argmax()
  left = np.where(level & (x > 0), x, -np.inf).argmax()
  found = {"Crown": crown, "Nose": nose, "L_Ear": left, "R_Ear": source.mirror[left]}
  return {name: int(row) for name, row in found.items()}


def to_rest_pose(
  vertices: np.ndarray, points: dict[str, np.ndarray], weights: np.ndarray
) -> Bodies:
  """Turns MakeHuman's pose into SMPL's: arms straight out, legs straight down.

  The inverse of skinning, v = (Σ_k w_k G_k)^-1 v_makehuman with G_k from the rest
  pose to MakeHuman's, so that posing the result gives MakeHuman's own body back.
  """
  turns = _rest_turns(points)
  parents = joints.SMPL24_PARENTS
  old = np.stack([points[name] for name in joints.SMPL24], axis=1)
  new = np.zeros_like(old)
  for joint, parent in enumerate(parents[1:], start=1):
    bone = old[:, joint] - old[:, parent]
    new[:, joint] = new[:, parent] + np.einsum("nij,nj->ni", turns[:, parent], bone)
  back = turns.swapaxes(-1, -2)
  shifts = old - np.einsum("nkij,nkj->nki", back, new)
  out = np.empty(vertices.shape, np.float32)
  for body in range(len(vertices)):
    blend = np.einsum("vk,kij->vij", weights, back[body])
    moved = vertices[body] - weights @ shifts[body]
    out[body] = np.linalg.solve(blend, moved[..., None])[..., 0]
  rest = dict(zip(joints.SMPL24, new.swapaxes(0, 1), strict=True))
  shift = rest["Head"] - points["Head"]  # the head is not turned
  rest |= {name: points[name] + shift for name in points if name not in rest}
  return Bodies(out, rest)


def _rest_turns(points: dict[str, np.ndarray]) -> np.ndarray:
  """World rotation of each joint from MakeHuman's pose to the rest pose."""
  n = len(points["Pelvis"])
  turns = np.tile(np.eye(3), (n, len(joints.SMPL24), 1, 1))
  for side, out in (("L", 1.0), ("R", -1.0)):
    p = {name[2:]: at for name, at in points.items() if name.startswith(f"{side}_")}
    upper, lower = p["Elbow"] - p["Shoulder"], p["Wrist"] - p["Elbow"]
    hinge = np.cross(upper, lower) * out  # down, so that elbows bend forward
    fingers, thumb_side = p["Hand"] - p["Wrist"], p["Index"] - p["Pinky"]
    thigh, shin = p["Knee"] - p["Hip"], p["Ankle"] - p["Knee"]
    sideways, down, ahead = np.eye(3) * [[out], [-1.0], [1.0]]
    for name, turn in {
      "Shoulder": _align(upper, hinge, sideways, down),
      "Elbow": _align(lower, hinge, sideways, down),
      "Wrist": _align(fingers, thumb_side, sideways, ahead),
      "Hand": _align(fingers, thumb_side, sideways, ahead),
      "Hip": _upright(thigh),
      "Knee": _upright(shin),
    }.items():
      turns[:, joints.SMPL24.index(f"{side}_{name}")] = turn
  return turns


def _align(main, second, to_main, to_second) -> np.ndarray:
  """Rotations that turn `main` onto `to_main` and `second` towards `to_second`."""

  def frame(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    first = first / np.linalg.norm(first, axis=-1, keepdims=True)
    other = other - first * (first * other).sum(-1, keepdims=True)
    other = other / np.linalg.norm(other, axis=-1, keepdims=True)
    return np.stack([first, other, np.cross(first, other)], axis=-1)

  return frame(to_main, to_second) @ frame(main, second).swapaxes(-1, -2)


def _upright(leg: np.ndarray) -> np.ndarray:
  """Turns about z that bring a leg's direction into the plane x = 0."""
  straight = leg * [0.0, 1.0, 1.0]
  straight[:, 1] = -np.hypot(leg[:, 0], leg[:, 1])
  forward = np.tile([0.0, 0.0, 1.0], (len(leg), 1))
  return _align(forward, leg, forward, straight)
