"""State dicts on disk: exact there and back, and hostile files refused."""

import io
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from metro_jax.weights import weight_files
from metro_jax.weights.torch_metro import Entry

RNG = np.random.default_rng(0)
ARRAYS = {
  "a.weight": RNG.standard_normal((3, 4)).astype(np.float32).T,  # not contiguous
  "a.num_batches_tracked": np.zeros((), np.int64),
}
SUFFIXES = (".safetensors", ".npz", ".bin", ".pth")


class Command:
  """Pickles to a call that makes a file."""

  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


def expect_same(got, expected):
  assert set(got) == set(expected)
  for key, value in expected.items():
    assert got[key].dtype == value.dtype
    np.testing.assert_array_equal(got[key], value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back_is_bit_exact(tmp_path, suffix):
  path = tmp_path / f"x{suffix}"
  weight_files.write(path, ARRAYS)
  expect_same(weight_files.read(path), ARRAYS)


PREFIXES = (
  *("module.", "state_dict.module.", "model.", "net.", "anything."),
  *("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.module."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".npz", ".bin"])
def test_a_prefix_of_all_keys_is_stripped(tmp_path, prefix, suffix):
  path = tmp_path / f"x{suffix}"
  weight_files.write(path, {prefix + key: value for key, value in ARRAYS.items()})
  table = [Entry(key, (), value.shape, ()) for key, value in ARRAYS.items()]
  arrays, choice = weight_files.read_fitting(path, table, ())
  expect_same(arrays, ARRAYS)
  assert choice.prefix == prefix


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_key(tmp_path, bad):
  path = tmp_path / "x.safetensors"
  weight_files.write(path, {**ARRAYS, "b.bias": np.array([1, bad], np.float32)})
  with pytest.raises(ValueError, match=r"x\.safetensors.*NaN or inf in b\.bias$"):
    weight_files.read(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_text_file_is_refused(tmp_path, suffix):
  path = tmp_path / f"x{suffix}"
  path.write_text("These are not weights.\n" * 9)
  with pytest.raises(ValueError, match=rf"x\{suffix}: expected a") as caught:
    weight_files.read(path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_off_is_refused(tmp_path, suffix):
  kind = ".safetensors" if suffix == ".safetensors" else ".npz"
  weight_files.write(tmp_path / f"whole{kind}", ARRAYS)
  data = (tmp_path / f"whole{kind}").read_bytes()
  path = tmp_path / f"x{suffix}"
  path.write_bytes(data[:-30])
  with pytest.raises(ValueError, match=rf"x\{suffix}: expected a whole"):
    weight_files.read(path)


def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(tmp_path):
  made = tmp_path / "made"
  np.savez(tmp_path / "x.npz", weight=np.array([Command(made)], object))
  with pytest.raises(ValueError, match=r"x\.npz: expected"):
    weight_files.read(tmp_path / "x.npz")
  assert not made.exists()


def test_an_array_header_that_claims_ten_gigabytes_takes_no_memory(tmp_path):
  header = io.BytesIO()
  claim = {"descr": "<f4", "fortran_order": False, "shape": (2_500_000_000,)}
  np.lib.format.write_array_header_1_0(header, claim)
  with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
    archive.writestr("a.npy", header.getvalue() + b"1234")
  tracemalloc.start()
  with pytest.raises(ValueError, match="header claims 10,000,000,000 bytes"):
    weight_files.read(tmp_path / "x.npz")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 50e6


def test_bfloat16_becomes_float32(tmp_path):
  head = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
  text = json.dumps(head).encode()
  data = struct.pack("<Q", len(text)) + text + struct.pack("<2H", 0x3FC0, 0xC000)
  (tmp_path / "x.safetensors").write_bytes(data)
  expected = {"a": np.array([1.5, -2], np.float32)}
  expect_same(weight_files.read(tmp_path / "x.safetensors"), expected)


def test_a_missing_file_and_another_kind_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"x\.npz: expected a file of weights"):
    weight_files.read(tmp_path / "x.npz")
  (tmp_path / "x.txt").write_text("")
  with pytest.raises(ValueError, match=r"x\.txt: expected a file of weights \("):
    weight_files.read(tmp_path / "x.txt")


def test_a_repository_names_its_file_and_says_when_it_is_out_of_reach(
  tmp_path, monkeypatch
):
  hub = pytest.importorskip("huggingface_hub")
  weight_files.write(tmp_path / "x.npz", ARRAYS)
  asked = []

  def download(name, file):
    asked.append((name, file))
    if name == "no/network":
      raise hub.errors.LocalEntryNotFoundError("many\nlines")
    return str(tmp_path / "x.npz")

  monkeypatch.setattr(hub, "hf_hub_download", download)
  expect_same(weight_files.read("some/net:sub/x.npz"), ARRAYS)
  with pytest.raises(OSError, match=r"no/network: .* cannot be reached"):
    weight_files.read("no/network")
  assert asked == [("some/net", "sub/x.npz"), ("no/network", "model.safetensors")]
