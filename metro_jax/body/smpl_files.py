"""SMPL and MANO as their owners distribute them, and the original's mesh samplings.

None of these files is part of this package. `ASSETS` says which file is needed for
what, what its releases call it and where its owner gives it out; whatever is missing is
reported at once. Archives may stay as they unpack.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from metro_jax.body import hand, joints, pickles
from metro_jax.body.body_model import BodyModel, read_only
from metro_jax.body.inert import array, items, sparse
from metro_jax.body.mesh_levels import MeshLevels

ENVIRONMENT = "METRO_ASSETS"
SHAPES = 10  # shape components that METRO uses; some files have more
MAX_CORNERS = 8  # of a vertex in the upsampling; the files have 3


class Asset(NamedTuple):
  """A file of somebody else's: any of its releases' names will do, the first first."""

  names: tuple[str, ...]
  purpose: str
  source: str


class Loaded(NamedTuple):
  """A body and its mesh levels; read-only NumPy arrays, float32 and int32."""

  body: BodyModel
  levels: MeshLevels


_SMPL = "https://smpl.is.tue.mpg.de"
_SMPLIFY = "https://smplify.is.tue.mpg.de"
_MANO = "https://mano.is.tue.mpg.de"
_METRO = "https://github.com/microsoft/MeshTransformer (metro/modeling/data)"
ASSETS: dict[str, Asset] = {
  "smpl_neutral": Asset(
    (
      "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl",
      "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl",
      *("SMPL_NEUTRAL.pkl", "SMPL_NEUTRAL.npz"),
    ),
    "the neutral SMPL body",
    f"{_SMPLIFY} (v1.0.0) or {_SMPL} (v1.1.0)",
  ),
  "smpl_male": Asset(
    (
      "basicModel_m_lbs_10_207_0_v1.0.0.pkl",
      "basicmodel_m_lbs_10_207_0_v1.1.0.pkl",
      *("SMPL_MALE.pkl", "SMPL_MALE.npz"),
    ),
    "the male SMPL body",
    _SMPL,
  ),
  "smpl_female": Asset(
    (
      "basicModel_f_lbs_10_207_0_v1.0.0.pkl",
      "basicmodel_f_lbs_10_207_0_v1.1.0.pkl",
      *("SMPL_FEMALE.pkl", "SMPL_FEMALE.npz"),
    ),
    "the female SMPL body",
    _SMPL,
  ),
  "h36m": Asset(
    ("J_regressor_h36m_correct.npy",), "Human3.6M's 17 joints of SMPL", _METRO
  ),
  "extra": Asset(("J_regressor_extra.npy",), "14 of the 24 joints of labels", _METRO),
  "smpl_levels": Asset(("mesh_downsampling.npz",), "SMPL's mesh levels", _METRO),
  "mano_right": Asset(
    ("MANO_RIGHT.pkl", "MANO_RIGHT.npz"), "the right MANO hand", _MANO
  ),
  "mano_left": Asset(
    ("MANO_LEFT.pkl", "MANO_LEFT.npz"), "the left MANO hand, else mirrored", _MANO
  ),
  "mano_levels": Asset(("mano_downsampling.npz",), "MANO's mesh levels", _METRO),
}


# Releases differ in these, and so do people who pass them on.
_SPELLINGS = (("basicModel", "basicmodel"), ("v1.1.0", "v.1.1.0"))
# Folders in the archives of SMPL, SMPLify and MANO, of smplx, in METRO's repository.
_FOLDERS = (
  *("SMPL_python_v.1.1.0", "SMPL_python_v.1.0.0", "smpl", "models"),
  *("mpips_smplify_public_v2", "smplify_public", "code"),
  *("mano_v1_2", "mano", "smplx", "body_models"),
  *("MeshTransformer", "MeshTransformer-main", "metro", "modeling", "data"),
)
_MAX_DEPTH = 4  # of such folders inside one another: MeshTransformer's


class _Layout(NamedTuple):
  vertices: int
  faces: int
  parents: tuple[int, ...]


_BODY = _Layout(6890, 13776, joints.SMPL24_PARENTS)
_HAND = _Layout(778, 1538, joints.MANO16_PARENTS)


def load_smpl(gender: str = "neutral", assets_dir: str = "") -> Loaded:
  """SMPL with METRO's joint regressors and mesh levels, 6890 → 1723 → 431.

  Args:
    gender: "neutral", "male" or "female".
    assets_dir: The folder of the files; empty for the environment's METRO_ASSETS.

  Returns:
    The body, whose regressors are "h36m" (17) and "j24" (24), and its levels.

  Raises:
    FileNotFoundError: Naming every missing file, its purpose and its source.
    ValueError: If a file is damaged or not what its name says.

  Source: Loper et al., "SMPL", 2015; original code, metro/modeling/_smpl.py.
  """
  paths = find(needed("smpl", gender, False), assets_dir)
  body_path, h36m_path, extra_path, levels_path = paths
  body = _read_body(body_path, _BODY, f"smpl_{gender}")
  v = _BODY.vertices
  h36m = _checked(pickles.load_npy(h36m_path), (17, v), str(h36m_path))
  extra = _checked(pickles.load_npy(extra_path), (14, v), str(extra_path))
  rows = dict(zip(joints.SMPL24, body.joint_regressor, strict=True))
  rows |= dict(zip(joints.EXTRA14, extra, strict=True))
  j24 = np.stack([rows[name] for name in joints.J24])
  body = body.replace(regressors={"h36m": read_only(h36m), "j24": read_only(j24)})
  return Loaded(body, _read_levels(levels_path, v))


def load_mano(side: str = "right", assets_dir: str = "") -> Loaded:
  """MANO with METRO's joint regressor and mesh levels, 778 → 195 → …

  Poses are offsets from the mean hand (`flat_hand_mean=False`): pose 0 is the mean.

  Args:
    side: "right"; or "left", from its file or, without one, the right hand mirrored.
    assets_dir: The folder of the files; empty for the environment's METRO_ASSETS.

  Returns:
    The hand, metres, whose regressor is "hand21", and its levels.

  Raises:
    FileNotFoundError: Naming every missing file, its purpose and its source.
    ValueError: If a file is damaged or not what its name says.

  Source: Romero et al., "Embodied Hands", 2017; original code,
    metro/modeling/_mano.py.
  """
  if side not in ("right", "left"):
    raise ValueError(f"load_mano: expected the side right or left, got {side!r}")
  own = side == "right" or _found(_folder(assets_dir), "mano_left") is not None
  kept = side if own else "right"
  path, levels_path = find((f"mano_{kept}", "mano_levels"), assets_dir)
  body = _read_body(path, _HAND, f"mano_{kept}")
  regressor = read_only(hand.regressor(body.joint_regressor))
  body = body.replace(regressors={"hand21": regressor})
  levels = _read_levels(levels_path, _HAND.vertices)
  if own:
    return Loaded(body, levels)
  faces = tuple(read_only(level[:, ::-1], np.int32) for level in levels.faces)
  return Loaded(hand.mirrored(body), levels._replace(faces=faces))


def find(keys: Sequence[str], assets_dir: str = "") -> tuple[pathlib.Path, ...]:
  """Where the files are that some keys of `ASSETS` stand for.

  Raises:
    FileNotFoundError: Naming every missing file, its purpose and its source.
  """
  lacking = missing(keys, assets_dir)
  if lacking:
    raise FileNotFoundError(lacking[0])
  found = (_found(_folder(assets_dir), key) for key in keys)
  return tuple(path for path in found if path is not None)


def missing(keys: Sequence[str], assets_dir: str = "") -> list[str]:
  """What to say of those files that are not there: one text, or none."""
  folder = _folder(assets_dir)
  lacking = [
    f"{_either(ASSETS[key].names)} ({ASSETS[key].purpose}; from {ASSETS[key].source})"
    for key in keys
    if _found(folder, key) is None
  ]
  where = f"a folder, got none and no {ENVIRONMENT}"
  if folder:
    where = f"{folder}, or below it as its archive unpacks"
  said = f"config.body.assets_dir: expected in {where}: {'; '.join(lacking)}"
  return [said] if lacking else []


def needed(model: str, gender: str, gendered: bool) -> tuple[str, ...]:
  """Keys of the files that a body needs; with `gendered`, male and female ones too."""
  if model == "smpl":
    others = ("male", "female") if gendered else ()
    bodies = dict.fromkeys(f"smpl_{name}" for name in (gender, *others))
    return (*bodies, "h36m", "extra", "smpl_levels")
  return ("mano_right", "mano_levels") if model == "mano" else ()


def _folder(assets_dir: str) -> pathlib.Path | None:
  given = assets_dir or os.environ.get(ENVIRONMENT, "")
  return pathlib.Path(given).expanduser() if given else None


def _found(folder: pathlib.Path | None, key: str) -> pathlib.Path | None:
  if folder is None:
    return None
  names = [spelt for name in ASSETS[key].names for spelt in _spellings(name)]
  paths = (place / name for place in _places(folder) for name in names)
  return next((path for path in paths if path.is_file()), None)


def _spellings(name: str) -> list[str]:
  """The name itself, then with other letters and points."""
  found = [name]
  for pair in _SPELLINGS:
    found += [each.replace(*way) for each in found for way in (pair, pair[::-1])]
  return list(dict.fromkeys(found))


def _places(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """The folder, then those that archives leave in it, the nearest first."""
  level = [folder]
  for _ in range(_MAX_DEPTH + 1):
    yield from level
    inner = (place / name for place in level for name in _FOLDERS)
    level = [place for place in inner if place.is_dir()]


def _either(names: tuple[str, ...]) -> str:
  """All names, the first and the last one last: those that people know."""
  first, *others = names
  if not others:
    return first
  return f"{', '.join([*others[:-1], first])} or {others[-1]}"


def _entries(path: pathlib.Path) -> dict[str, Any]:
  """A body's entries, whichever of the two formats it has."""
  return pickles.load_npz(path) if path.suffix == ".npz" else pickles.load(path)


def _read_body(path: pathlib.Path, layout: _Layout, name: str) -> BodyModel:
  entries = _entries(path)
  v, k = layout.vertices, len(layout.parents)
  shapes = {
    "v_template": (v, 3),
    "shapedirs": (v, 3, None),
    "posedirs": (v, 3, 9 * (k - 1)),
    "weights": (v, k),
    "kintree_table": (2, k),
    "f": (layout.faces, 3),
    **({"hands_mean": (3 * (k - 1),)} if layout is _HAND else {}),
  }
  missing = [key for key in (*shapes, "J_regressor") if key not in entries]
  if missing:
    raise ValueError(
      f"{path}: expected the entries {' '.join(missing)}, got {sorted(entries)}"
    )
  values = {
    key: _checked(array(entries[key], f"{path}: {key}"), shape, f"{path}: {key}")
    for key, shape in shapes.items()
  }
  regressor = _dense(entries["J_regressor"], (k, v), f"{path}: J_regressor")
  _check_body(values, layout, path)
  mean = values.get("hands_mean")
  return BodyModel(
    template=read_only(values["v_template"]),
    shape_directions=read_only(values["shapedirs"][:, :, :SHAPES]),
    pose_directions=read_only(values["posedirs"]),
    joint_regressor=read_only(regressor),
    skin_weights=read_only(values["weights"]),
    regressors={},
    faces=read_only(values["f"], np.int32),
    parents=layout.parents,
    name=name,
    pose_mean=None if mean is None else read_only(np.pad(mean, (3, 0))),
  )


def _check_body(
  values: dict[str, np.ndarray], layout: _Layout, path: pathlib.Path
) -> None:
  """What shapes do not say: the tree, the shares, the indices."""
  parents = tuple(values["kintree_table"][0, 1:].astype(np.int64).tolist())
  if parents != layout.parents[1:]:
    raise ValueError(f"{path}: kintree_table: expected {layout.parents}, got {parents}")
  if values["shapedirs"].shape[-1] < SHAPES:
    got = values["shapedirs"].shape[-1]
    raise ValueError(f"{path}: shapedirs: expected {SHAPES} components, got {got}")
  weights, faces = values["weights"], values["f"]
  error = np.abs(weights.sum(1) - 1).max()
  if error > 1e-3 or weights.min() < 0:
    raise ValueError(f"{path}: weights: expected shares of 1, got a sum {error} off")
  if not 0 <= faces.min() <= faces.max() < layout.vertices:
    raise ValueError(f"{path}: f: expected vertices below {layout.vertices}")


def _checked(
  values: np.ndarray, shape: tuple[int | None, ...], where: str
) -> Float[np.ndarray, "..."]:
  """Finite float64 numbers of a shape; None stands for any size."""
  fits = values.ndim == len(shape) and all(
    size in (None, given) for size, given in zip(shape, values.shape, strict=True)
  )
  if not fits or values.dtype.kind not in "iuf":
    raise ValueError(
      f"{where}: expected numbers {shape}, got {values.dtype} {values.shape}"
    )
  if not np.isfinite(values).all():
    raise ValueError(f"{where}: expected finite numbers, got NaN or infinity")
  return values.astype(np.float64)


def _dense(value: Any, shape: tuple[int, int], where: str) -> np.ndarray:
  matrix = sparse(value, where)
  if matrix.shape != shape:
    raise ValueError(f"{where}: expected a matrix {shape}, got {matrix.shape}")
  dense = np.zeros(shape)
  np.add.at(dense, (matrix.rows, matrix.columns), matrix.values)
  return _checked(dense, shape, where)


def _read_levels(path: pathlib.Path, vertices: int) -> MeshLevels:
  """The levels of a file with D (down), U (up) and F (triangles)."""
  entries = pickles.load_npz(path, ("D", "U", "F"))
  if set(entries) != {"D", "U", "F"}:
    raise ValueError(f"{path}: expected D, U and F, got {sorted(entries)}")
  down, up, faces = (items(entries[key], f"{path}: {key}") for key in "DUF")
  if not len(down) == len(up) == len(faces) - 1:
    raise ValueError(
      f"{path}: expected n steps down and up and n + 1 levels, "
      f"got {len(down)}, {len(up)} and {len(faces)}"
    )
  counts, select, index, weight = [vertices], [], [], []
  for i, (matrix_down, matrix_up) in enumerate(zip(down, up, strict=True)):
    select.append(_selection(matrix_down, counts[-1], f"{path}: D[{i}]"))
    counts.append(len(select[-1]))
    step = _interpolation(matrix_up, counts[-2], counts[-1], f"{path}: U[{i}]")
    index.append(step[0])
    weight.append(step[1])
  triangles = [
    _triangles(level, counts[i], f"{path}: F[{i}]") for i, level in enumerate(faces)
  ]
  return MeshLevels(
    tuple(counts), tuple(select), tuple(index), tuple(weight), tuple(triangles)
  )


def _selection(value: Any, fine: int, where: str) -> np.ndarray:
  """Which vertex each row of a matrix of single ones keeps."""
  matrix = sparse(value, where)
  order = np.argsort(matrix.rows, kind="stable")
  rows = matrix.rows[order]
  single = len(rows) == matrix.shape[0] and (rows == np.arange(len(rows))).all()
  if matrix.shape[1] != fine or not single or (matrix.values != 1).any():
    raise ValueError(
      f"{where}: expected one 1 in every row and {fine} columns, "
      f"got {len(rows)} entries in a matrix {matrix.shape}"
    )
  return read_only(matrix.columns[order], np.int32)


def _interpolation(
  value: Any, fine: int, coarse: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
  """The coarse vertices of each row and their weights, short rows filled with 0."""
  matrix = sparse(value, where)
  if matrix.shape != (fine, coarse):
    raise ValueError(f"{where}: expected a matrix {(fine, coarse)}, got {matrix.shape}")
  corners = np.bincount(matrix.rows, minlength=fine)
  if corners.min() < 1 or corners.max() > MAX_CORNERS:
    raise ValueError(
      f"{where}: expected 1 to {MAX_CORNERS} entries a row, "
      f"got {corners.min()} to {corners.max()}"
    )
  order = np.lexsort((matrix.columns, matrix.rows))
  rows = matrix.rows[order]
  place = np.arange(len(rows)) - (np.cumsum(corners) - corners)[rows]
  index = np.zeros((fine, corners.max()), np.int64)
  weight = np.zeros((fine, corners.max()))
  index[rows, place] = matrix.columns[order]
  weight[rows, place] = matrix.values[order]
  _checked(weight, weight.shape, where)
  return read_only(index, np.int32), read_only(weight)


def _triangles(value: Any, vertices: int, where: str) -> np.ndarray:
  faces = _checked(array(value, where), (None, 3), where)
  if len(faces) and not 0 <= faces.min() <= faces.max() < vertices:
    raise ValueError(f"{where}: expected vertices below {vertices}, got {faces.max()}")
  return read_only(faces, np.int32)
