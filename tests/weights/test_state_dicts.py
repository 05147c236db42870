"""Weights as programs save them: wrapped, prefixed, beside whatever else they keep."""

import argparse
import collections
import datetime
import decimal
import functools
import pathlib
import pickle
import random
import runpy
import tracemalloc

import jax
import numpy as np
import pytest

from metro_jax.models.resnet import ResNet
from metro_jax.weights import imagenet, torch_files, weight_files
from metro_jax.weights.torch_metro import Entry

made = runpy.run_path(str(pathlib.Path(__file__).with_name("test_torch_files.py")))
plain, tensor, wrap = (made[name] for name in ("plain", "tensor", "wrap"))
KINDS = made["KINDS"]
# The network has w0 and w1; a file's storages are two copies of it and an optimizer's.
TABLE = [Entry(f"w{n}", (), (2,), ()) for n in range(2)]
STORAGES = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 9.0]]
FIRST, SECOND = ({"w0": [1, 2], "w1": [3, 4]}, {"w0": [5, 6], "w1": [7, 8]})


def mapping(entries):
  """Instructions for a dictionary of values that are instructions themselves."""
  flat = b"".join(plain(key) + value for key, value in entries.items())
  return b"}(" + flat + b"u"


def weights(copy, prefix=""):
  return {f"{prefix}w{n}": tensor(2, key=2 * copy + n) for n in range(2)}


def write(path, entries, kind="zip", protocol=2):
  if kind == "legacy":  # names every storage that it has
    every = {f"t{n}": tensor(2, key=n) for n in range(len(STORAGES))}
    entries = {"every": mapping(every), **entries}
  content = b"\x80" + bytes([protocol]) + mapping(entries) + b"."
  path.write_bytes(wrap(kind, content, STORAGES))


def read(source):
  arrays, choice = weight_files.read_fitting(source, TABLE, ("unused",))
  return {key: value.tolist() for key, value in arrays.items()}, choice


def test_the_storages_are_told_apart(tmp_path):
  write(tmp_path / "x.bin", weights(1))
  assert read(tmp_path / "x.bin")[0] == SECOND


OPTIMIZER = mapping(
  {"state": b"}(K\x00" + mapping({"exp_avg": tensor(2, key=4)}) + b"u"}
)
OTHERS = {
  "defaultdict": collections.defaultdict(list, {"a": [1]}),
  "path": pathlib.PurePosixPath("/a/b"),
  "set": {1, 2},
  "frozenset": frozenset({1, 2}),
  "array": np.arange(3),
  "array of objects": np.array([None, {}], object),
  "generator": np.random.default_rng(0).bit_generator.state,
  "random state": random.getstate(),
  "date": datetime.datetime(2026, 1, 1),
  "decimal": decimal.Decimal("0.1"),
  "namespace": argparse.Namespace(lr=0.1, of=pathlib.PurePosixPath("a")),
  "partial": functools.partial(print, 1),
  "tuples as keys": {(1, 2): 3, None: 4, 0.5: 5, b"x": 6},
  "large number": 2**90,
  "deep": functools.reduce(lambda inside, _: [inside], range(100), 0),
  "long text as key": {"x" * 300: 1},
}
LISTS = {
  "omegaconf": b"comegaconf.listconfig\nListConfig\n)\x81(K\x01K\x02e}b",
  "attributes": b"clightning.utilities\nAttributeDict\n)\x81(K\x01K\x02u",
  "quantised tensor": b"ctorch._utils\n_rebuild_qtensor\n(K\x01tR",
  "optimizer": OPTIMIZER,
  "epoch": b"K\x03",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["beside", "among"])
@pytest.mark.parametrize("name", [*LISTS, *OTHERS])
def test_other_objects_do_not_matter(tmp_path, kind, place, name):
  path = tmp_path / "x.bin"
  for protocol in (2, 4):
    if name in LISTS:
      blob = LISTS[name]
    else:
      whole = pickle.dumps(OTHERS[name], protocol)
      blob = whole[2:-1] if protocol == 2 or whole[2:3] != b"\x95" else whole[11:-1]
    state = weights(1)
    if place == "beside":
      write(path, {"extra": blob, "state_dict": mapping(state)}, kind, protocol)
    else:
      write(path, {"extra": blob, **state}, kind, protocol)
    arrays, choice = read(path)
    assert arrays == SECOND
    assert choice.prefix == ("state_dict." if place == "beside" else "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_beside_the_weights_is_not_run(tmp_path, kind):
  command = pickle.dumps(made["Command"](tmp_path / "made"), 2)[2:-1]
  write(tmp_path / "x.bin", {"a": command, "model": mapping(weights(0))}, kind)
  assert read(tmp_path / "x.bin")[0] == FIRST
  assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_in_the_place_of_a_weight_is_named_and_not_run(tmp_path, kind):
  command = pickle.dumps(made["Command"](tmp_path / "made"), 2)[2:-1]
  write(tmp_path / "x.bin", {"net": mapping({**weights(0), "w1": command})}, kind)
  with pytest.raises(ValueError, match=r"1 missing: w1; w1 .* asks for posix\.mkdir"):
    read(tmp_path / "x.bin")
  assert not (tmp_path / "made").exists()


NAMES = (
  *("network", "net", "ema", "state_dict_ema", "model_state", "params", "weights"),
  *("teacher", "state_dict", "model_state_dict", "model", "generator"),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_that_fits_is_found_under_any_name(tmp_path, name):
  other = mapping({"w0": tensor(2, key=4), "other": tensor(2, key=4)})
  entries = {"epoch": b"K\x03", "a": other, "optimizer": OPTIMIZER}
  write(tmp_path / "x.bin", {**entries, name: mapping(weights(1))})
  arrays, choice = read(tmp_path / "x.bin")
  assert arrays == SECOND
  assert (choice.prefix, choice.others) == (f"{name}.", [])
  nested = {"all": mapping({name: mapping(weights(1, "_orig_mod.module."))})}
  write(tmp_path / "x.bin", nested)
  arrays, choice = read(tmp_path / "x.bin")
  assert (arrays, choice.prefix) == (SECOND, f"all.{name}._orig_mod.module.")


def test_names_that_a_compiler_puts_inside_of_keys_are_left_out(tmp_path):
  keys = ("net.a._orig_mod.w0", "net.b._checkpoint_wrapped_module.w1")
  path = tmp_path / "x.npz"
  weight_files.write(
    path, dict(zip(keys, np.float32(list(FIRST.values())), strict=True))
  )
  table = [Entry(key, (), (2,), ()) for key in ("a.w0", "b.w1")]
  arrays, choice = weight_files.read_fitting(path, table, ())
  assert (arrays["b.w1"].tolist(), choice.prefix) == ([3, 4], "net.")


def test_several_entries_that_fit_are_asked_for_by_name(tmp_path):
  path = tmp_path / "x.bin"
  write(path, {"student": mapping(weights(0)), "teacher": mapping(weights(1))})
  with pytest.raises(ValueError, match=r"got 2: student, teacher; .* FILE#student$"):
    read(path)
  for entry in ("#teacher", "#teacher."):
    assert read(f"{path}{entry}")[0] == SECOND
  assert read(f"{path}#student")[0] == FIRST
  with pytest.raises(ValueError, match=r"below none\., got student of 2 tensors, tea"):
    read(f"{path}#none")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_entries_of_a_flat_file_are_asked_for_alike(tmp_path, suffix):
  path = tmp_path / f"x{suffix}"
  both = {"student": FIRST, "teacher": SECOND}
  arrays = {
    f"{name}.module.{key}": np.float32(value)
    for name, content in both.items()
    for key, value in content.items()
  }
  weight_files.write(path, {**arrays, "loss.scale": np.ones(1, np.float32)})
  with pytest.raises(ValueError, match=r"got 2: student\.module, teacher\.module"):
    read(path)
  assert read(f"{path}#teacher")[0] == SECOND


def test_the_model_is_preferred_to_its_average_and_that_is_said(tmp_path):
  path = tmp_path / "x.bin"
  for name in ("state_dict", "model_state_dict", "model"):
    write(path, {"ema": mapping(weights(1)), name: mapping(weights(0))})
    arrays, choice = read(path)
    assert (arrays, choice.prefix, choice.others) == (FIRST, f"{name}.", ["ema."])
  assert read(f"{path}#ema")[0] == SECOND


def test_a_file_may_have_a_mark_in_its_name(tmp_path):
  write(tmp_path / "x#ema.bin", weights(0))
  assert read(tmp_path / "x#ema.bin")[0] == FIRST


def test_a_prefix_of_half_of_the_keys_is_none(tmp_path):
  write(tmp_path / "x.bin", {**weights(0), "module.w1": tensor(2), "w1": b"N"})
  with pytest.raises(ValueError, match=r"1 missing: w1; 1 unexpected: module\.w1"):
    read(tmp_path / "x.bin")


def test_a_copy_below_an_unprefixed_network_is_not_taken_for_it(tmp_path):
  write(tmp_path / "x.bin", {**weights(0), **weights(1, "old.")})
  with pytest.raises(ValueError, match=r"got 2: \(no prefix\), old; .*#old"):
    read(tmp_path / "x.bin")


def test_weights_of_another_network_are_counted_and_listed_in_a_file(tmp_path):
  table = [Entry(f"layer{n}.weight", (), (2,), ()) for n in range(200)]
  others = {f"layer{n}.bias": np.ones(2, np.float32) for n in range(300)}
  others["layer7.weight"] = np.ones(3, np.float32)
  weight_files.write(tmp_path / "x.npz", others)
  with pytest.raises(ValueError) as caught:
    weight_files.read_fitting(tmp_path / "x.npz", table, ())
  said, _, listed = str(caught.value).partition("; all in ")
  assert "199 missing: layer0.weight, layer1.weight, layer2.weight and 196 more" in said
  assert "300 unexpected: layer0.bias" in said
  assert "layer7.weight (expected (2,), got (3,))" in said
  assert len(said) < 500
  lines = pathlib.Path(listed).read_text().splitlines()
  pathlib.Path(listed).unlink()
  assert len(lines) == 500
  assert "missing: layer199.weight" in lines
  assert "unexpected: layer299.bias" in lines


def test_a_backbone_is_taken_out_of_a_detector(tmp_path):
  images = np.zeros((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(ResNet("resnet18", 4).init, jax.random.key(0), images)
  shapes = {name: {"backbone": shapes[name]} for name in ("params", "batch_stats")}
  rng = np.random.default_rng(0)
  arrays = {
    f"module.backbone.{entry.key}": rng.standard_normal(entry.shape).astype(np.float32)
    for entry in imagenet.entries(shapes)
  }
  neck = {"module.neck.conv.weight": np.ones((3, 3), np.float32)}
  weight_files.write(tmp_path / "x.pth", {**arrays, **neck})
  loaded = imagenet.load(tmp_path / "x.pth", shapes)
  kernel = loaded.variables["params"]["backbone"]["conv1"]["kernel"]
  expected = arrays["module.backbone.conv1.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, expected)
  assert loaded.source == f"{tmp_path}/x.pth (prefix module.backbone.)"


def test_what_is_not_asked_for_is_not_unpacked(tmp_path):
  path, most = tmp_path / "x.npz", 100 * 2**20
  state = {key: np.float32(value) for key, value in FIRST.items()}
  np.savez_compressed(
    path, **{f"net.{key}": value for key, value in state.items()},
    zeros=np.zeros(most, np.int8), texts=np.zeros(9, "U1000000"),
  )  # fmt: skip
  assert path.stat().st_size < most / 100
  tracemalloc.start()
  arrays, _ = read(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert arrays == FIRST
  assert peak < 2**20


def test_names_of_a_pickle_cannot_be_joined_to_long_ones():
  text = plain("x" * 10_000)
  with pytest.raises(ValueError, match="cannot be a name"):
    torch_files.torch_pickles.load(b"\x80\x04" + text + text + b"\x93.")


@pytest.mark.parametrize("kind", KINDS)
def test_dictionaries_that_hold_one_another_are_walked_once(tmp_path, kind):
  # Sixty dictionaries, each with the next one under two keys: 2**60 paths.
  inner = mapping(weights(0)) + b"q\x01"
  for _ in range(60):
    inner = b"}(" + plain("a") + inner + plain("b") + b"h\x01u" + b"q\x01"
  storages = STORAGES[:2]
  content = b"\x80\x02" + inner + b"."
  (tmp_path / "x.bin").write_bytes(wrap(kind, content, storages))
  assert read(tmp_path / "x.bin")[0] == FIRST
