"""The embedded human body: SMPL's format, free of licences, no download.

6,890 vertices, 13,776 faces, SMPL's 24 joints and ten shape components, so that
SMPL poses mean the same thing; the shape space is its own. Where it comes from
stands in assets/README.md, how it was made in build_humanoid.py.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metro_jax.body import joints
from metro_jax.body.body_model import BodyModel, read_only
from metro_jax.body.mesh_levels import MeshLevels

ASSET = Path(__file__).parent / "assets" / "humanoid.npz"

# Points beyond SMPL's joints that have a regressor row of their own.
LANDMARKS = ("Skull", "Crown", "Chin", "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear")
# What the names of J24 and H36M17 mean here, as equal shares of rows; a name that
# is not listed is SMPL's joint or the landmark of that name. Both sets use the one
# table, so a joint that is in both is the same point.
MEANING = {
  "Pelvis": ("L_Hip", "R_Hip"),
  "Spine": ("Spine2",),
  "Torso": ("Spine2",),
  "Thorax": ("L_Shoulder", "R_Shoulder"),
  "Head": ("Skull",),
  "Top_of_Head": ("Crown",),
  "Jaw": ("Chin",),
}

PART_NAMES = (
  *("head", "scalp", "eyes", "neck", "torso", "upper_arm", "lower_arm", "hand"),
  *("upper_leg", "lower_leg", "foot"),
)
# The part that follows each joint; both sides are one part.
PART_OF = {
  **dict.fromkeys(("Pelvis", "Spine1", "Spine2", "Spine3", "Collar"), "torso"),
  **{"Neck": "neck", "Head": "head", "Shoulder": "upper_arm", "Elbow": "lower_arm"},
  **{"Wrist": "hand", "Hand": "hand", "Hip": "upper_leg", "Knee": "lower_leg"},
  **{"Ankle": "foot", "Foot": "foot"},
}

# Steps of the whole numbers that the file holds.
TEMPLATE_STEP_M = 5e-5
SHAPE_STEP_M = 2e-5
WEIGHT_STEPS, SHARE_STEPS = 255, 65535

Rows = tuple[tuple[int | None, ...], type]
_LAYOUT: dict[str, Rows] = {
  "template": ((None, 3), np.int16),
  "shape_directions": ((None, 3, None), np.int16),
  "faces": ((None, 3), np.uint16),
  "skin_index": ((None, 4), np.uint8),
  "skin_weight": ((None, 4), np.uint8),
  "regressor_row": ((None,), np.uint8),
  "regressor_vertex": ((None,), np.uint16),
  "regressor_share": ((None,), np.uint16),
  "parts": ((None,), np.uint8),
  "level_counts": ((None,), np.uint16),
}
_STEP_LAYOUT: dict[str, Rows] = {
  "select": ((None,), np.uint16),
  "upsample_index": ((None, 3), np.uint16),
  "upsample_share": ((None, 3), np.uint16),
  "level_faces": ((None, 3), np.uint16),
}


class PartLabels(NamedTuple):
  """Which part of the body each vertex belongs to, for dressing it.

  Attributes:
    labels: Per vertex of level 0, an index into `names`.
    names: The parts; left and right are one part. "head" is what the hair on the
      "scalp" leaves of it.
  """

  labels: Int[np.ndarray, " v"]
  names: tuple[str, ...]


@functools.cache
def load() -> BodyModel:
  """The embedded body, with read-only float32 NumPy arrays.

  Raises:
    FileNotFoundError, ValueError: If the asset is missing or damaged.
  """
  stored = _read(ASSET)
  v = len(stored["template"])
  weights = np.zeros((v, len(joints.SMPL24)))
  np.add.at(
    weights, (np.arange(v)[:, None], stored["skin_index"]), stored["skin_weight"]
  )
  rows = np.zeros((len(joints.SMPL24) + len(LANDMARKS), v))
  at = (stored["regressor_row"], stored["regressor_vertex"])
  np.add.at(rows, at, stored["regressor_share"])
  rows = rows / rows.sum(1, keepdims=True)
  named = dict(zip((*joints.SMPL24, *LANDMARKS), rows, strict=True))
  return BodyModel(
    template=read_only(stored["template"] * TEMPLATE_STEP_M),
    shape_directions=read_only(stored["shape_directions"] * SHAPE_STEP_M),
    pose_directions=None,
    joint_regressor=read_only(rows[: len(joints.SMPL24)]),
    skin_weights=read_only(weights / weights.sum(1, keepdims=True)),
    regressors={
      "h36m": read_only(regressor_of(joints.H36M17, named)),
      "j24": read_only(regressor_of(joints.J24, named)),
    },
    faces=read_only(stored["faces"], np.int32),
    parents=joints.SMPL24_PARENTS,
    name="humanoid",
  )


@functools.cache
def load_levels() -> MeshLevels:
  """The body's mesh levels, 6890 → 1723 → 431 → 108.

  Raises:
    FileNotFoundError, ValueError: If the asset is missing or damaged.
  """
  stored = _read(ASSET)
  counts = tuple(stored["level_counts"].tolist())
  steps = range(len(counts) - 1)
  faces = [stored["faces"], *(stored[f"level_faces_{i}"] for i in steps)]
  shares = [stored[f"upsample_share_{i}"].astype(np.float64) for i in steps]
  return MeshLevels(
    counts,
    tuple(read_only(stored[f"select_{i}"], np.int32) for i in steps),
    tuple(read_only(stored[f"upsample_index_{i}"], np.int32) for i in steps),
    tuple(read_only(share / share.sum(1, keepdims=True)) for share in shares),
    tuple(read_only(level, np.int32) for level in faces),
  )


@functools.cache
def load_parts() -> PartLabels:
  """The part of the body that each vertex belongs to.

  Raises:
    FileNotFoundError, ValueError: If the asset is missing or damaged.
  """
  return PartLabels(read_only(_read(ASSET)["parts"], np.int32), PART_NAMES)


def regressor_of(
  names: Sequence[str], rows: Mapping[str, Float[np.ndarray, " v"]]
) -> Float[np.ndarray, "j v"]:
  """The regressor of a joint set: mean of the rows that each name means."""
  return np.stack(
    [np.mean([rows[part] for part in MEANING.get(n, (n,))], axis=0) for n in names]
  )


def pack(
  template: Float[np.ndarray, "v 3"],
  shape_directions: Float[np.ndarray, "v 3 s"],
  faces: Int[np.ndarray, "f 3"],
  skin_weights: Float[np.ndarray, "v 24"],
  regressor: Mapping[str, Float[np.ndarray, " v"]],
  levels: MeshLevels,
  parts: Int[np.ndarray, " v"],
) -> dict[str, np.ndarray]:
  """The asset's arrays: everything rounded to whole steps and stored sparsely.

  Args:
    template, shape_directions: Metres; rounded to 0.05 mm and 0.02 mm.
    faces: Triangles.
    skin_weights: At most four a vertex; rounded to 1/255.
    regressor: Rows by name, SMPL's joints and `LANDMARKS`; rounded to 1/65535.
    levels: Mesh levels; barycentric weights rounded to 1/65535.
    parts: Index into `PART_NAMES` per vertex.

  Returns:
    What `load` reads.
  """
  strongest = np.argsort(-skin_weights, axis=1, kind="stable")[:, :4]
  weight = np.take_along_axis(skin_weights, strongest, axis=1)
  rows = np.stack([regressor[name] for name in (*joints.SMPL24, *LANDMARKS)])
  shares = np.rint(rows * SHARE_STEPS)
  row, vertex = np.nonzero(shares)
  arrays = {
    "template": np.rint(template / TEMPLATE_STEP_M),
    "shape_directions": np.rint(shape_directions / SHAPE_STEP_M),
    "faces": faces,
    "skin_index": np.where(weight > 0, strongest, 0),
    "skin_weight": np.rint(weight * WEIGHT_STEPS),
    "regressor_row": row,
    "regressor_vertex": vertex,
    "regressor_share": shares[row, vertex],
    "parts": parts,
    "level_counts": np.array(levels.counts),
  }
  for i in range(len(levels.select)):
    arrays[f"select_{i}"] = levels.select[i]
    arrays[f"upsample_index_{i}"] = levels.upsample_index[i]
    arrays[f"upsample_share_{i}"] = np.rint(levels.upsample_weight[i] * SHARE_STEPS)
    arrays[f"level_faces_{i}"] = levels.faces[i + 1]
  return {name: values.astype(_layout(name)[1]) for name, values in arrays.items()}


def _layout(name: str) -> Rows:
  stem, _, number = name.rpartition("_")
  return _STEP_LAYOUT[stem] if number.isdigit() else _LAYOUT[name]


def _read(path: Path) -> dict[str, np.ndarray]:
  """The file's arrays, each of the right type and shape, all indices in range."""
  if not path.exists():
    raise FileNotFoundError(f"humanoid: expected the asset {path}, got none")
  try:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
      stored = dict(file)
  except Exception as error:  # zip, zlib and header errors have no common base
    raise ValueError(f"humanoid: cannot read {path}: {error}") from error
  steps = range(len(stored.get("level_counts", ())) - 1)
  wanted = [*_LAYOUT, *(f"{name}_{i}" for i in steps for name in _STEP_LAYOUT)]
  for name in wanted:
    shape, dtype = _layout(name)
    array = stored.get(name, np.zeros(0))
    fits = array.ndim == len(shape) and all(
      size in (None, given) for size, given in zip(shape, array.shape, strict=False)
    )
    if name not in stored or array.dtype != dtype or not fits:
      got = f"{array.dtype} {array.shape}" if name in stored else "none"
      raise ValueError(
        f"humanoid: {path}: expected {name} as {np.dtype(dtype)} {shape}, got {got}"
      )
  _check_ranges(stored, path)
  return stored


def _check_ranges(stored: Mapping[str, np.ndarray], path: Path) -> None:
  counts = stored["level_counts"].tolist()
  limits = {
    "faces": counts[0],
    "skin_index": len(joints.SMPL24),
    "regressor_vertex": counts[0],
    "regressor_row": len(joints.SMPL24) + len(LANDMARKS),
    "parts": len(PART_NAMES),
  }
  sizes = dict.fromkeys(
    ("template", "shape_directions", "skin_index", "skin_weight", "parts"), counts[0]
  )
  for i, (fine, coarse) in enumerate(itertools.pairwise(counts)):
    limits |= {f"select_{i}": fine, f"upsample_index_{i}": coarse}
    limits |= {f"level_faces_{i}": coarse}
    sizes |= {f"select_{i}": coarse, f"upsample_index_{i}": fine}
    sizes |= {f"upsample_share_{i}": fine}
  for name, limit in limits.items():
    if stored[name].size == 0 or stored[name].max() >= limit:
      raise ValueError(
        f"humanoid: {path}: expected {name} below {limit}, got "
        f"{stored[name].max(initial=0)}"
      )
  for name, size in sizes.items():
    if len(stored[name]) != size:
      raise ValueError(
        f"humanoid: {path}: expected {size} rows of {name}, got {len(stored[name])}"
      )
