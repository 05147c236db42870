"""Pickles give their arrays, run nothing, and claim nothing that they do not have."""

import collections
import io
import os
import pathlib
import pickle
import runpy
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from metro_jax.untrusted import npz, pickle_stubs, pickles

files = runpy.run_path(
  str(pathlib.Path(__file__).parents[1] / "body" / "standin_files.py")
)
GRID = np.arange(6, dtype=np.float64).reshape(2, 3)
MATRIX = np.array([[0, 2.0, 0], [1.5, 0, 3], [0, 0, 0], [0, 0, 4]])


def written(tmp_path: pathlib.Path, data: bytes, name: str = "x.pkl") -> pathlib.Path:
  path = tmp_path / name
  path.write_bytes(data)
  return path


def array(tmp_path: pathlib.Path, data: bytes) -> np.ndarray:
  """The entry "x" of a pickled dictionary."""
  path = written(tmp_path, data)
  return pickle_stubs.array(pickles.load(path)["x"], f"{path}: x")


def dense(matrix: pickle_stubs.Sparse) -> np.ndarray:
  values = np.zeros(matrix.shape)
  np.add.at(values, (matrix.rows, matrix.columns), matrix.values)
  return values


ARRAYS = [
  GRID, np.asfortranarray(GRID), GRID.astype(">f4"), GRID.astype(np.uint8),
  np.array([-1, 2**31], np.int64), GRID > 2, np.zeros((0, 3)), np.float64(0.1),
  np.array(["lbs", "x"]), np.array([b"lrotmin"]), np.array(3, np.int16),
]  # fmt: skip


@pytest.mark.parametrize("value", ARRAYS, ids=lambda v: f"{v.dtype}{v.shape}")
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_come_back_whatever_the_protocol(tmp_path, value, protocol):
  got = array(tmp_path, pickle.dumps({"x": value}, protocol))
  assert got.dtype == value.dtype
  np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize("value", ARRAYS[:5], ids=lambda v: f"{v.dtype}{v.shape}")
def test_arrays_come_back_as_python_2_wrote_them(tmp_path, value):
  data = files["python2"]({"x": value})
  assert b"numpy.core.multiarray" in data
  assert b"_codecs" not in data
  np.testing.assert_array_equal(array(tmp_path, data), value)


@pytest.mark.parametrize("write", ["python2", "python3"])
def test_chumpy_objects_give_their_arrays_without_chumpy(tmp_path, write):
  values = np.arange(60.0).reshape(2, 3, 10)
  for value in (files["chumpy"](values), files["chumpy_slice"](values)):
    got = array(tmp_path, files[write]({"x": value}))
    np.testing.assert_array_equal(got, values)
  assert "chumpy" not in sys.modules


def test_a_chumpy_object_in_an_old_protocol_is_read_too(tmp_path):
  data = files["python3"]({"x": files["chumpy"](GRID)}, 0)
  assert b"_reconstructor" in data
  np.testing.assert_array_equal(array(tmp_path, data), GRID)


def scipy_matrices() -> dict[str, object]:
  rows, columns = np.nonzero(MATRIX)
  data = MATRIX[rows, columns]
  made, starts = files["made"], np.array([0, 1, 3, 3, 4])
  csr, coo = files["CSR"], files["COO"]
  return {
    "csc": files["csc"](MATRIX),
    "csr": made(csr, _shape=(4, 3), indices=columns, indptr=starts, data=data),
    "coo": made(coo, _shape=(4, 3), coords=(rows, columns), data=data),
    "old coo": made(coo, _shape=(4, 3), row=rows, col=columns, data=data),
    "dense": MATRIX,
  }


@pytest.mark.parametrize("name", ["csc", "csr", "coo", "old coo", "dense"])
def test_sparse_matrices_are_rebuilt_without_scipy(tmp_path, name):
  path = written(tmp_path, files["python2"]({"x": scipy_matrices()[name]}))
  matrix = pickle_stubs.sparse(pickles.load(path)["x"], "x")
  np.testing.assert_array_equal(dense(matrix), MATRIX)


def test_real_scipys_pickles_are_read(tmp_path):
  scipy_sparse = pytest.importorskip("scipy.sparse")
  for name in ("csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "coo_array"):
    value = getattr(scipy_sparse, name)(MATRIX)
    path = written(tmp_path, pickle.dumps({"x": value}))
    matrix = pickle_stubs.sparse(pickles.load(path)["x"], "x")
    np.testing.assert_array_equal(dense(matrix), MATRIX)


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_ordered_dictionary_is_a_dictionary(tmp_path, protocol):
  data = pickle.dumps(collections.OrderedDict(x=GRID), protocol)
  np.testing.assert_array_equal(array(tmp_path, data), GRID)


def test_object_arrays_of_npz_files_hold_matrices_and_meshes(tmp_path):
  path = tmp_path / "levels.npz"
  files["write_npz"](path, **files["sampling"]((9, 5, 4)))
  entries = npz.load(path)
  steps = [pickle_stubs.sparse(v, "D") for v in pickle_stubs.items(entries["D"], "D")]
  assert [step.shape for step in steps] == [(5, 9), (4, 5)]
  assert dense(steps[0]).sum(1).tolist() == [1] * 5
  assert len(pickle_stubs.items(entries["M"], "M")) == 3
  assert set(npz.load(path, ("D", "Z"))) == {"D"}


def test_plain_npz_and_npy_files_are_read(tmp_path):
  np.savez_compressed(tmp_path / "x.npz", x=GRID, y=np.asfortranarray(GRID))
  np.save(tmp_path / "x.npy", GRID)
  stored = npz.load(tmp_path / "x.npz")
  np.testing.assert_array_equal(stored["y"], GRID)
  np.testing.assert_array_equal(npz.load_npy(tmp_path / "x.npy"), GRID)


def test_a_matrix_that_savez_wrapped_is_unwrapped(tmp_path):
  wrapped = np.empty((), object)
  wrapped[()] = files["csc"](MATRIX)
  with files["modules"]():
    np.savez(tmp_path / "x.npz", x=wrapped)
  matrix = pickle_stubs.sparse(npz.load(tmp_path / "x.npz")["x"], "x")
  np.testing.assert_array_equal(dense(matrix), MATRIX)


class Hostile:
  """Asks the reader to call something."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize(
  ("function", "name"),
  [
    (os.system, r"(posix|nt)\.system"),
    (eval, r"(builtins|__builtin__)\.eval"),
    (np.load, r"numpy\.load"),
    (getattr, r"(builtins|__builtin__)\.getattr"),
  ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused_by_name(
  tmp_path, function, name, protocol
):
  trace = tmp_path / "trace"
  argument = f"touch {trace}" if function is os.system else "1"
  data = pickle.dumps({"x": Hostile(function, argument)}, protocol)
  path = written(tmp_path, data, "evil.pkl")
  with pytest.raises(ValueError, match=rf"evil\.pkl: refused {name}"):
    pickles.load(path)
  assert not trace.exists()


def test_an_npz_that_runs_a_command_is_refused_by_name(tmp_path):
  trace = tmp_path / "trace"
  values = np.array([Hostile(os.system, f"touch {trace}")], object)
  np.savez(tmp_path / "evil.npz", D=values)
  with pytest.raises(ValueError, match=r"evil\.npz: D: refused (posix|nt)\.system"):
    npz.load(tmp_path / "evil.npz")
  assert not trace.exists()


def test_names_near_the_allowed_ones_are_refused(tmp_path):
  for module, name in (
    ("numpy", "ndarray.tofile"),
    ("numpy.core.multiarray", "fromfile"),
    ("scipy.sparse.csc", "spmatrix"),
    ("chumpy.ch", "ChLambda"),
    ("collections", "namedtuple"),
    ("builtins", "object.__subclasses__"),
  ):
    named = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    path = written(tmp_path, b"\x80\x04" + named + b"\x93.")
    with pytest.raises(ValueError, match=f"refused {module}.{name}"):
      pickles.load(path)


def test_no_pickle_can_change_what_the_next_one_gets(tmp_path):
  before = {kind: dict(vars(kind)) for kind in pickle_stubs.KINDS.values()}
  for module, name in pickle_stubs.KINDS:
    for state in (b"}\x8c\x01yK\x01s", b"N}\x8c\x0c__defaults__K\x01)\x86s\x86"):
      data = b"\x80\x04c" + f"{module}\n{name}\n".encode() + state + b"b."
      with pytest.raises(ValueError):
        pickles.load(written(tmp_path, data))
  assert {kind: dict(vars(kind)) for kind in pickle_stubs.KINDS.values()} == before


def limited(path: pathlib.Path, call: str) -> str:
  """What loading says in a process that may take little more memory than it has."""
  code = (
    "import resource\n"
    "from metro_jax.untrusted import npz, pickle_stubs, pickles\n"
    "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))\n"
    f"try: {call.format(path=repr(str(path)))}\n"
    "except ValueError as error: print(error)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  return done.stdout


TEN_GB = 10 * 2**30
LOAD = "pickle_stubs.array(pickles.load({path})['x'], {path})"
CLAIMS = {
  "bytes": b"\x80\x04\x8e" + struct.pack("<Q", TEN_GB) + b"abc.",
  "bytearray": b"\x80\x05\x96" + struct.pack("<Q", TEN_GB) + b"abc.",
  "string": b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc.",
  "frame": b"\x80\x04\x95" + struct.pack("<Q", TEN_GB) + b"}.",
  "memo": b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
  "long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
  "array": files["python3"]({"x": GRID}).replace(b"K\x02K", b"J\x00\x00\x00\x20K"),
  "nested": b"\x80\x02" + b")" + b"\x85" * 200_000 + b".",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("name", CLAIMS)
def test_a_pickle_that_claims_more_than_it_has_takes_no_memory(tmp_path, name):
  path = written(tmp_path, CLAIMS[name])
  said = limited(path, LOAD)
  assert said.startswith(f"{path}: ")
  assert "expected" in said
  assert said.count("\n") == 1


def npy(shape: str, descr: str = "<f8", data: bytes = b"12345678") -> bytes:
  header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"
  size = struct.pack("<H", len(header))
  return b"\x93NUMPY\x01\x00" + size + header.encode() + data


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_headers_of_ten_gigabytes_take_no_memory(tmp_path):
  path = written(tmp_path, npy("(1310720, 1024)"), "x.npy")
  assert "expected 10737418240 bytes" in limited(path, "npz.load_npy({path})")
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
    file.writestr("x.npy", npy("(1310720, 1024)"))
  said = limited(tmp_path / "x.npz", "npz.load({path})")
  assert "x.npz: x: expected 10737418240 bytes" in said
  long_header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{}"
  said = limited(written(tmp_path, long_header, "y.npy"), "npz.load_npy({path})")
  assert str(tmp_path / "y.npy") in said


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_an_archive_that_claims_more_than_it_can_hold_takes_no_memory(tmp_path):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("x.npy", npy("(1,)"))
  data = bytearray(stream.getvalue())
  at = data.index(b"PK\x01\x02")  # the central directory's entry
  data[at + 24 : at + 28] = struct.pack("<I", 2**29)
  path = written(tmp_path, bytes(data), "x.npz")
  said = limited(path, "npz.load({path})")
  assert "cannot hold the 536870912 that they claim" in said
  data[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
  path = written(tmp_path, bytes(data), "x.npz")
  assert "expected at most" in limited(path, "npz.load({path})")


def whole() -> bytes:
  return files["python2"]({"x": files["chumpy"](GRID), "y": files["csc"](MATRIX)})


def test_a_pickle_cut_anywhere_is_one_clear_error(tmp_path):
  data = whole()
  for end in range(len(data)):
    path = written(tmp_path, data[:end])
    with pytest.raises(ValueError, match=r"x\.pkl: expected a whole pickle"):
      pickles.load(path)


def test_an_npz_cut_anywhere_is_one_clear_error(tmp_path):
  path = tmp_path / "x.npz"
  files["write_npz"](path, **files["sampling"]((5, 4)))
  data = path.read_bytes()
  for end in range(0, len(data), 7):
    path.write_bytes(data[:end])
    with pytest.raises(ValueError, match=r"x\.npz"):
      npz.load(path)


def test_flipped_bytes_raise_nothing_but_clear_errors(tmp_path):
  data, draws = whole(), np.random.default_rng(0)
  for _ in range(500):
    damaged = bytearray(data)
    damaged[draws.integers(len(data))] = draws.integers(256)
    path = written(tmp_path, bytes(damaged))
    try:
      entries = pickles.load(path)
      if {"x", "y"} <= set(entries):
        pickle_stubs.array(entries["x"], "x")
        pickle_stubs.sparse(entries["y"], "y")
    except ValueError as error:
      assert str(error).startswith((str(path), "x: ", "y: "))
      assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["hello\n", "<html>404</html>", "(dp0\nS'x'\n", ""])
def test_a_text_file_named_pkl_is_no_pickle(tmp_path, text):
  path = written(tmp_path, text.encode())
  with pytest.raises(ValueError, match=r"x\.pkl: expected a whole pickle"):
    pickles.load(path)


def test_what_is_no_array_says_so(tmp_path):
  path = written(tmp_path, files["python2"]({
    "mesh": files["made"](files["MESH"], f=GRID), "list": [1.0], "array": GRID,
    "structure": np.zeros(2, [("a", "f8")]), "objects": np.array([None], object),
  }))  # fmt: skip
  entries = pickles.load(path)
  for name in ("mesh", "list", "structure", "objects"):
    with pytest.raises(ValueError, match=rf"{name}: expected"):
      pickle_stubs.array(entries[name], name)
  with pytest.raises(ValueError, match="array: expected an array of objects"):
    pickle_stubs.items(entries["array"], "array")
  with pytest.raises(ValueError, match="expected a pickled dictionary"):
    pickles.load(written(tmp_path, pickle.dumps([1])))


@pytest.mark.parametrize(
  ("part", "value"),
  [
    ("indices", np.array([1, 0, 1, 9], np.int32)),
    ("indices", np.array([1, 0, -1, 3], np.int32)),
    ("indptr", np.array([0, 1, 2], np.int32)),
    ("indptr", np.array([0, 3, 2, 4], np.int32)),
    ("data", np.zeros(3)),
    ("_shape", (4, 2**40)),
    ("_shape", (4,)),
  ],
)
def test_a_matrix_whose_parts_do_not_fit_is_refused(tmp_path, part, value):
  matrix = files["csc"](MATRIX)
  setattr(matrix, part, value)
  path = written(tmp_path, files["python2"]({"x": matrix}))
  with pytest.raises(ValueError, match="x: "):
    pickle_stubs.sparse(pickles.load(path)["x"], "x")


def test_chumpy_objects_that_hold_themselves_end(tmp_path):
  value = files["made"](files["SELECT"], idxs=np.arange(2))
  value.a = value
  path = written(tmp_path, files["python2"]({"x": value}))
  with pytest.raises(ValueError, match="x: expected an array, got Select"):
    pickle_stubs.array(pickles.load(path)["x"], "x")


def saved(values: np.ndarray) -> bytes:
  stream = io.BytesIO()
  np.save(stream, values, allow_pickle=True)
  return stream.getvalue()


@pytest.mark.parametrize("kind", [object, "U", "S"])
def test_texts_are_read_however_numpy_saved_them(kind):
  names = [f"images/{i}.jpg" for i in range(30_000)]
  assert npz.parse_texts(saved(np.array(names, kind)), "names") == names
  scalars = np.array([np.str_("a"), "b", b"c"], object)
  assert npz.parse_texts(saved(scalars), "names") == ["a", "b", "c"]


@pytest.mark.parametrize(
  "values",
  [
    np.arange(3),
    np.array([["a", "b"]]),
    np.array([1, "a"], object),
    np.array([None], object),
    np.array([pathlib.PurePosixPath("a")], object),
    np.array([["a"] * 30_000, "b"], object),  # more opcodes than two texts have
  ],
)
def test_what_is_no_list_of_texts_is_refused(values):
  with pytest.raises(ValueError, match="names: "):
    npz.parse_texts(saved(values), "names")


def test_fewer_texts_than_claimed_are_refused():
  data = saved(np.array(["a", "b"], object)).replace(b"(2,)", b"(9,)")
  with pytest.raises(ValueError, match="names: expected 9 texts, got 2"):
    npz.parse_texts(data, "names")
