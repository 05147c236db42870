"""Files in the formats of SMPL's, MANO's and the mesh samplings' originals.

Nothing licensed is in them: the numbers follow the rule behind the goldens. Classes of
SciPy and chumpy are stand-ins too, put in place only while a pickle is written.
"""

import contextlib
import io
import itertools
import pathlib
import pickle
import runpy
import struct
import sys
import types
import zipfile
import zlib
from typing import ClassVar

import numpy as np

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
NEUTRAL = "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
SMPL_ROOT = 4294967295  # the root's parent in the files: -1 as uint32
MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
# Rough joint centres of a flat right hand in metres.
MANO_JOINTS = np.array([
  *([0.095, 0.006, 0.006], [0.007, 0.006, 0.025], [-0.025, 0.008, 0.03]),
  *([-0.048, 0.006, 0.03], [0.001, 0.008, 0.002], [-0.03, 0.01, 0.003]),
  *([-0.054, 0.008, 0.002], [0.027, 0.001, -0.04], [0.01, 0.002, -0.05]),
  *([-0.008, 0, -0.058], [0.014, 0.006, -0.021], [-0.013, 0.008, -0.024]),
  *([-0.037, 0.006, -0.027], [0.071, -0.006, 0.042], [0.052, -0.012, 0.067]),
  [0.034, -0.017, 0.083],
])  # fmt: skip


def class_of(module: str, name: str) -> type:
  return type(name, (), {"__module__": module})


CSC = class_of("scipy.sparse.csc", "csc_matrix")
CSR = class_of("scipy.sparse._csr", "csr_matrix")
COO = class_of("scipy.sparse._coo", "coo_matrix")
CH = class_of("chumpy.ch", "Ch")
SELECT = class_of("chumpy.reordering", "Select")
MY_MESH = class_of("__main__", "MyMesh")
MESH = class_of("psbody.mesh.mesh", "Mesh")
STANDINS = (CSC, CSR, COO, CH, SELECT, MESH)


@contextlib.contextmanager
def modules():
  """The stand-in classes under the names of the originals."""
  replaced = {}
  for kind in STANDINS:
    parts = kind.__module__.split(".")
    for end in range(1, len(parts) + 1):
      name = ".".join(parts[:end])
      if name not in replaced:
        replaced[name] = sys.modules.get(name)
        sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[kind.__module__], kind.__name__, kind)
  main = sys.modules["__main__"]
  main.MyMesh = MY_MESH
  try:
    yield
  finally:
    del main.MyMesh
    for name, module in replaced.items():
      if module is None:
        del sys.modules[name]
      else:
        sys.modules[name] = module


def made(kind: type, **state) -> object:
  """An object of a stand-in class, with the state that a pickle of it holds."""
  found = kind()
  found.__dict__.update(state)
  return found


def csc(dense: np.ndarray) -> object:
  columns, rows = np.nonzero(dense.T)
  starts = np.searchsorted(columns, np.arange(dense.shape[1] + 1)).astype(np.int32)
  return made(
    CSC, indices=rows.astype(np.int32), indptr=starts, maxprint=50,
    _shape=dense.shape, data=dense[rows, columns],
  )  # fmt: skip


def chumpy(values: np.ndarray) -> object:
  return made(CH, x=values, _dirty_vars={"x"}, _itr=None, _depends_on_deps={})


def chumpy_slice(values: np.ndarray) -> object:
  """The first ten components of more, as chumpy keeps a slice."""
  more = np.concatenate([values, np.full((*values.shape[:2], 3), 7.0)], axis=2)
  idxs = np.arange(more.size).reshape(more.shape)[:, :, :10].ravel()
  return made(SELECT, a=chumpy(more), idxs=idxs, preferred_shape=values.shape)


class Python2Pickler(pickle._Pickler):
  """Writes strings, bytes and NumPy's names as Python 2 did, protocol 2."""

  dispatch: ClassVar = dict(pickle._Pickler.dispatch)

  def save_string(self, value):
    raw = value.encode("latin1") if isinstance(value, str) else value
    self.write(b"T" + struct.pack("<i", len(raw)) + raw)
    self.memoize(value)

  def save_set(self, value):
    self.write(b"c__builtin__\nset\n")
    self.save((sorted(value),))
    self.write(pickle.REDUCE)

  def save_global(self, value, name=None):
    module = value.__module__.replace("numpy._core", "numpy.core")
    self.write(f"c{module}\n{value.__name__}\n".encode())
    self.memoize(value)

  dispatch[str] = dispatch[bytes] = save_string
  dispatch[set] = save_set
  dispatch[type] = dispatch[types.FunctionType] = save_global
  dispatch[types.BuiltinFunctionType] = save_global


def python2(value: object) -> bytes:
  stream = io.BytesIO()
  with modules():
    Python2Pickler(stream, 2).dump(value)
  return stream.getvalue()


def python3(value: object, protocol: int = 2) -> bytes:
  with modules():
    return pickle.dumps(value, protocol)


def object_npy(values: list[object]) -> bytes:
  """The `.npy` of an object array with one axis."""
  array = np.empty(len(values), object)
  array[:] = values
  header = f"{{'descr': '|O', 'fortran_order': False, 'shape': ({len(values)},), }}"
  header = header.ljust(117) + "\n"
  size = struct.pack("<H", len(header))
  return b"\x93NUMPY\x01\x00" + size + header.encode() + python2(array)


def write_npz(path: pathlib.Path, **members: list[object]) -> None:
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
    for name, values in members.items():
      file.writestr(f"{name}.npy", object_npy(values))


def rng(name: str) -> np.random.Generator:
  return np.random.default_rng(zlib.crc32(name.encode()))


def normal(name: str, *shape: int) -> np.ndarray:
  return rng(name).standard_normal(shape)


def rounded(values: np.ndarray) -> np.ndarray:
  return values.astype(np.float32).astype(np.float64)


def faces(name: str, vertices: int, count: int) -> np.ndarray:
  draws = rng(f"{name}.f")
  first = draws.integers(0, vertices, count)
  reach = (vertices - 2) // 2
  second = first + 1 + draws.integers(0, reach, count)
  third = first + 1 + reach + draws.integers(0, reach, count)
  return np.stack([first, second % vertices, third % vertices], 1).astype(np.uint32)


def tree(parents: tuple[int, ...]) -> np.ndarray:
  table = np.array([(SMPL_ROOT, *parents[1:]), range(len(parents))])
  return table.astype(np.uint32)


def smpl() -> dict[str, np.ndarray]:
  """SMPL's entries, every array dense."""
  standin = runpy.run_path(str(GOLDENS / "standin_smpl.py"))
  arrays = standin["arrays"]()
  return {
    "v_template": arrays["template"],
    "shapedirs": arrays["shape_directions"],
    "posedirs": arrays["pose_directions"],
    "J_regressor": arrays["joint_regressor"],
    "weights": arrays["skin_weights"],
    "f": faces("smpl", 6890, 13776),
    "kintree_table": tree(standin["PARENTS"]),
  }


def mano() -> dict[str, np.ndarray]:
  """MANO's entries, every array dense."""
  v, k = 778, 16
  part = rng("mano.part").integers(0, k, v)  # the joint that a vertex belongs to
  part[: 16 * k] = np.repeat(np.arange(k), 16)
  minor = rng("mano.weights").integers(0, 200, (v, 3))
  weights, joint, rows = np.zeros((v, k)), part, np.arange(v)
  weights[rows, joint] += 1024 - minor.sum(1)
  for column in minor.T:
    joint = np.maximum(MANO_PARENTS, 0)[joint]
    weights[rows, joint] += column
  draws, regressor = rng("mano.J_regressor"), np.zeros((k, v))
  for j in range(k):
    first = np.flatnonzero(part == j)[:16]
    regressor[j, first] = draws.multinomial(1024, np.full(16, 1 / 16)) / 1024
  noise = 0.006 * normal("mano.v_template", v, 3)
  return {
    "v_template": rounded(MANO_JOINTS[part] + noise),
    "shapedirs": rounded(0.001 * normal("mano.shapedirs", v, 3, 10)),
    "posedirs": rounded(0.0002 * normal("mano.posedirs", v, 3, 135)),
    "J_regressor": regressor,
    "weights": weights / 1024,
    "f": faces("mano", v, 1538),
    "kintree_table": tree(MANO_PARENTS),
    "hands_mean": rounded(0.2 * normal("mano.hands_mean", 45)),
  }


def as_distributed(entries: dict[str, np.ndarray]) -> dict[str, object]:
  """The entries with a SciPy matrix, chumpy arrays and text, as the files have."""
  return {
    **entries,
    "v_template": chumpy(entries["v_template"]),
    "shapedirs": chumpy_slice(entries["shapedirs"]),
    "J_regressor": csc(entries["J_regressor"]),
    "bs_type": "lrotmin",
    "bs_style": "lbs",
  }


def sampling(counts: tuple[int, ...]) -> dict[str, list[object]]:
  """D, U and F of a random mesh sampling, and mesh objects beside them."""
  draws = np.random.default_rng(0)
  down, up = [], []
  for fine, coarse in itertools.pairwise(counts):
    kept = np.sort(draws.permutation(fine)[:coarse])
    selection, share = np.zeros((coarse, fine)), np.zeros((fine, coarse))
    selection[np.arange(coarse), kept] = 1
    for row in share:
      row[draws.permutation(coarse)[:3]] = (0.5, 0.3, 0.2)
    share[kept] = np.eye(coarse)
    down.append(csc(selection))
    up.append(csc(share))
  triangles = [np.array([[0, 1, 2], [2, 1, 0]], np.uint32) for _ in counts]
  meshes = [made(MY_MESH, basename=None, f=triangles[0])]
  meshes += [made(MESH, f=level) for level in triangles[1:]]
  return {"D": down, "U": up, "F": triangles, "M": meshes}
