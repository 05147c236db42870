"""PyTorch's files: read as PyTorch reads them, written so that it does, never obeyed.

The files in made_by_torch/ were written by PyTorch (make_torch_files.py).
"""

import io
import os
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from metro_jax.weights import torch_files, torch_pickles, weight_files
from metro_jax.weights.torch_metro import Entry

HERE = pathlib.Path(__file__).parent
MADE = HERE / "made_by_torch"
KINDS = ("legacy", "zip")
ROW = np.arange(12, dtype=np.float32)
EXPECTED = {
  "transposed": ROW.reshape(3, 4).T,
  "every_other": ROW[1::2],
  "parameter": np.array([-0.5, 0.5], np.float32),
  "half": np.array([1.5, -2.0], np.float16),
  "bfloat16": np.array([1.5, -2.0], np.float32),
  "double": np.array([[0.1]]),
  "count": np.array(7),
  "empty": np.zeros((0, 3), np.float32),
}


def expect_same(got, expected):
  assert set(got) == set(expected)
  for key, value in expected.items():
    assert (got[key].shape, got[key].dtype) == (value.shape, value.dtype)
    np.testing.assert_array_equal(got[key], value)


def read(path):
  file = torch_files.TorchFile(path)
  return file.read(file.contents.shapes)


def read_fitting(path, like):
  """What a network that needs arrays like these gets of a file."""
  table = [Entry(key, (), value.shape, ()) for key, value in like.items()]
  return weight_files.read_fitting(path, table, ())[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_pytorch_wrote_gives_its_arrays(kind):
  expect_same(read_fitting(MADE / f"{kind}.bin", EXPECTED), EXPECTED)


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_reads_the_same_of_these_files(kind):
  torch = pytest.importorskip("torch", reason="asks PyTorch itself")
  path = MADE / f"{kind}.bin"
  theirs = torch.load(path, weights_only=False)["state_dict"]
  ours = read(path)
  ours = {
    key.removeprefix("state_dict."): value
    for key, value in ours.items()
    if key.startswith("state_dict.")
  }
  assert list(ours) == list(theirs)
  for key, tensor in theirs.items():
    tensor = tensor.detach()
    assert str(ours[key].dtype) == str(tensor.dtype).removeprefix("torch.")
    np.testing.assert_array_equal(ours[key], tensor.double().numpy())


ARRAYS = {
  "a.weight": ROW.reshape(3, 4).T,
  "a.half": np.array([0.25], np.float16),
  "a.bfloat16": np.array([1.5, -2], ml_dtypes.bfloat16),
  "a.count": np.array(5),
  "a.flags": np.array([True, False]),
  "ä.empty": np.zeros((2, 0), np.float64),
}


def test_what_is_written_reads_back_bit_by_bit(tmp_path):
  torch_files.write(tmp_path / "x.bin", ARRAYS)
  expect_same(read(tmp_path / "x.bin"), ARRAYS)


@pytest.mark.parametrize("weights_only", [True, False])
def test_pytorch_reads_what_is_written(tmp_path, weights_only):
  torch = pytest.importorskip("torch", reason="asks PyTorch itself")
  torch_files.write(tmp_path / "x.bin", ARRAYS)
  theirs = torch.load(tmp_path / "x.bin", weights_only=weights_only)
  assert list(theirs) == list(ARRAYS)
  for key, value in ARRAYS.items():
    assert str(theirs[key].dtype) == f"torch.{value.dtype}"
    assert theirs[key].is_contiguous()
    np.testing.assert_array_equal(theirs[key].double().numpy(), value)


def test_numbers_that_pytorch_lacks_are_not_written(tmp_path):
  with pytest.raises(ValueError, match=r"x\.bin: expected numbers at a, got <U1"):
    torch_files.write(tmp_path / "x.bin", {"a": np.array(["b"])})


# Files of a stranger: a pickle of anything, and the bytes of its storages.


def wrap(kind, content, storages=()):
  """A file whose object is the given pickle; storages are float32."""
  if kind == "zip":
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
      archive.writestr("x/data.pkl", content)
      for number, values in enumerate(storages):
        archive.writestr(f"x/data/{number}", np.float32(values).tobytes())
    return stream.getvalue()
  if b"Storage" not in content:
    storages = ()
  start = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
  keys = pickle.dumps([str(number) for number in range(len(storages))], 2)
  raw = b"".join(
    struct.pack("<q", len(values)) + np.float32(values).tobytes() for values in storages
  )
  return b"".join(pickle.dumps(part, 2) for part in start) + content + keys + raw


def plain(value):
  return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"")


def tensor(count, offset=0, shape=(2,), strides=(1,), key=0, kind=b"Float"):
  return b"".join(
    [
      b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage",
      b"ctorch\n" + kind + b"Storage\nX\x01\x00\x00\x00" + str(key).encode(),
      b"X\x03\x00\x00\x00cpu" + plain(count) + b"tQ",
      b"".join(plain(part) for part in (offset, shape, strides, False)),
      b"}tR",
    ]
  )


def state_dict(*tensors):
  entries = (plain(f"w{n}") + made for n, made in enumerate(tensors))
  return b"\x80\x02}(" + b"".join(entries) + b"u."


class Command:
  """Pickles to a call that makes a folder."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_runs_a_command_is_refused_by_name(tmp_path, kind, protocol):
  made = tmp_path / "made"
  content = pickle.dumps({"w": Command(made)}, protocol)
  (tmp_path / "x.bin").write_bytes(wrap(kind, content))
  with pytest.raises(ValueError) as caught:
    weight_files.read(tmp_path / "x.bin")
  assert str(caught.value) == (
    f"{tmp_path}/x.bin: expected plain tensors, got a pickle that asks for posix.mkdir"
  )
  pickle.loads(content)  # the test's own pickle is one that works
  assert made.exists()
  made.rmdir()
  with pytest.raises(ValueError, match=r"posix\.mkdir"):
    weight_files.read(tmp_path / "x.bin")
  assert not made.exists()


# Each with what is said of it; the files have one storage of two numbers.
HOSTILE = {
  "storage of 10 GB": (
    state_dict(tensor(2_500_000_000)),
    "2,500,000,000|10,000,000,000",
  ),
  "tensor of 10 GB": (
    state_dict(tensor(2, shape=(2_500_000_000,), strides=(0,))),
    "expected 2,500,000,000 values at w0, got 2",
  ),
  "tensor beyond its storage": (state_dict(tensor(2, offset=1)), "a whole PyTorch"),
  "negative stride": (state_dict(tensor(2, 1, (2,), (-1,))), "unnatural shape at w0"),
  "negative offset": (state_dict(tensor(2, offset=-1)), "unnatural shape at w0"),
  "storage of two types": (
    state_dict(tensor(2), tensor(2, kind=b"Int")),
    "two claims about storage 0",
  ),
  "memo of 2**31": (b"\x80\x02}r\xff\xff\xff\x7f.", "expected weights, found none"),
  "text of 4 GB": (b"\x80\x02X\xff\xff\xff\xffabc.", "a whole PyTorch file"),
  "bytes of 32 TB": (
    b"\x80\x04\x8e" + struct.pack("<Q", 2**45) + b".",
    "a whole PyTorch file",
  ),
  "wrapper of itself": (
    b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s.",
    "a dense tensor at state_dict, got a dict",
  ),
  "deep key": (b"\x80\x02})" + b"\x85" * 20_000 + b"Ns.", "a key of type tuple"),
  "INST": (b"\x80\x02(ios\nmkdir\n.", "the instruction INST"),
  "EXT1": (b"\x80\x02\x82\x01.", "the instruction EXT1"),
  "call of a type": (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
  "call of a dict": (b"\x80\x02})R.", "calls what has no name"),
  "empty stack": (b"\x80\x02R.", "a whole PyTorch file"),
  "no end": (b"\x80\x02NNN", "a whole PyTorch file"),
  "whole model": (b"\x80\x02cmetro.bert\nMETRO\n)\x81.", "asks for metro.bert.METRO"),
  "no tensor": (b"\x80\x02}X\x01\x00\x00\x00aK\x07s.", "tensor at a, got a int"),
  "no dict": (b"\x80\x02].", "expected a state dict, got a list"),
}


def refusal(path, data):
  path.write_bytes(data)
  with pytest.raises(ValueError) as caught:
    weight_files.read(path)
  message = str(caught.value)
  assert message.startswith(f"{path}: expected")
  assert len(message.splitlines()) == 1
  return message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, kind, name):
  content, said = HOSTILE[name]
  message = refusal(tmp_path / "x.bin", wrap(kind, content, [[1.0, 2.0]]))
  assert re.search(said, message)


def test_the_same_files_without_their_faults_are_read(tmp_path):
  good = state_dict(tensor(2), tensor(2, 1, (1,)), tensor(2, 0, (1, 2), (2, 1)))
  expected = {
    "w0": np.array([1, 2], np.float32),
    "w1": np.array([2], np.float32),
    "w2": np.array([[1, 2]], np.float32),
  }
  for kind in KINDS:
    (tmp_path / "x.bin").write_bytes(wrap(kind, good, [[1.0, 2.0]]))
    expect_same(weight_files.read(tmp_path / "x.bin"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_storage_that_thousands_of_tensors_share_is_refused(tmp_path, kind):
  content = state_dict(*[tensor(50_000, shape=(50_000,))] * 1000)
  message = refusal(tmp_path / "x.bin", wrap(kind, content, [[0.0] * 50_000]))
  assert "claims of 200,000,000 bytes" in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_without_end_is_cut_short(tmp_path, kind, monkeypatch):
  monkeypatch.setattr(torch_pickles, "MAX_OPCODES", 1000)
  content = b"\x80\x02" + b"N" * 1001 + b"."
  message = refusal(tmp_path / "x.bin", wrap(kind, content))
  assert message.endswith("got a pickle of more than 1000 instructions")


def test_one_list_is_not_copied_again_and_again():
  pairs = b"".join(plain(n) + b"N\x86" for n in range(100))
  copy = b"ccollections\nOrderedDict\nh\x00\x85R"
  found = torch_pickles.load(b"\x80\x02]q\x00(" + pairs + b"e(" + copy * 50 + b"l.")
  assert sum(map(len, found.content)) == 100


def test_a_length_that_the_older_kind_claims_twice_is_refused(tmp_path):
  claim = 2_500_000_000
  data = wrap("legacy", state_dict(tensor(claim)), [[1.0, 2.0]])
  data = data.replace(struct.pack("<q", 2), struct.pack("<q", claim))
  assert "storage 0 claims 10,000,000," in refusal(tmp_path / "x.bin", data)


def test_a_zip_that_claims_more_than_it_has_is_refused(tmp_path):
  data = bytearray(wrap("zip", state_dict(tensor(2)), [[1.0, 2.0]]))
  entry = data.rindex(b"PK\x01\x02")  # the storage's, in the directory
  data[entry + 20 : entry + 28] = struct.pack("<2I", 2**32 - 2, 2**32 - 2)
  message = refusal(tmp_path / "x.bin", bytes(data))
  assert "x/data/0 that claims 4,294,967,294 bytes" in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
  data = (MADE / f"{kind}.bin").read_bytes()
  for length in range(4, len(data) - 1, 97):
    refusal(tmp_path / "x.bin", data[:length])


def test_a_bit_flipped_in_a_zip_is_noticed(tmp_path):
  data = wrap("zip", state_dict(tensor(2)), [[1.0, 2.0]])
  data = data.replace(np.float32([1, 2]).tobytes(), np.float32([1, 3]).tobytes())
  assert "CRC" in refusal(tmp_path / "x.bin", data)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_finite_are_refused(tmp_path, kind):
  data = wrap(kind, state_dict(tensor(2)), [[1.0, np.nan]])
  assert refusal(tmp_path / "x.bin", data).endswith("got NaN or inf in w0")


def test_other_files_under_pytorchs_ending_are_refused(tmp_path):
  text, archive = b"These are no weights.\n", io.BytesIO()
  np.savez(archive, a=np.ones(2))
  others = {
    "got one starting with b'Thes'": text,
    "got one starting with b''": b"",
    "got a zip without one data.pkl": archive.getvalue(),
    "got a pickle of something else": pickle.dumps({"a": 1}, 2),
  }
  for said, data in others.items():
    assert refusal(tmp_path / "x.bin", data).endswith(said)


LIMITED = """
import pathlib, resource, sys
from metro_jax.weights import torch_files
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
refused = 0
for path in map(pathlib.Path, sys.argv[1:]):
  try:
    file = torch_files.TorchFile(path)
    print(path.name, len(file.read(file.contents.shapes)))
  except ValueError:
    refused += 1
print(refused)
"""


def test_hostile_files_take_less_than_200_mb(tmp_path):
  paths = []
  for number, (content, _) in enumerate(HOSTILE.values()):
    for kind in KINDS:
      paths.append(tmp_path / f"{number}.{kind}.bin")
      paths[-1].write_bytes(wrap(kind, content, [[1.0, 2.0]]))
  run = subprocess.run(
    [sys.executable, "-c", LIMITED, *map(str, paths)],
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  assert run.returncode == 0, run.stderr
  empty = list(HOSTILE).index("memo of 2**31")  # read as a state dict of nothing
  expected = [f"{empty}.{kind}.bin 0" for kind in KINDS] + [str(len(paths) - 2)]
  assert run.stdout.splitlines() == expected
