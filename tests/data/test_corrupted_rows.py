"""Thousands of ways to damage a row: each is named or harmless, and no other suffers.

Every second row of a dataset is damaged: bits flipped, cut, bytes taken out, put in or
overwritten; fields of the label missing, of another type or shape, huge or NaN.
"""

import base64
import json
import pathlib
import runpy

import numpy as np
import pytest

from metro_jax.data import schema
from metro_jax.data.builders import prepared, row_checks
from metro_jax.data.readers import formats

rows = runpy.run_path(str(pathlib.Path(__file__).with_name("tsv_rows.py")))
FIELDS = tuple(rows["label"](0))
FLAGS = tuple(name for name in FIELDS if name.startswith("has_"))
WRONG = (
  None, "text", "", {}, [], [[]], [None], {"x": 1}, [["1", "2"]], [[[1], [2, 3]]],
  True, 2.5, [[[0] * 7] * 24], [1e30] * 5, -3,
)  # fmt: skip
HUGE = (1e30, -1e30, 3.5e38, 1e300, 10**40, 10**400, -(10**25), 1e9)
ODD = ("NaN", "Infinity", "-Infinity", "1e999", "nul", "0x10", "1_0", "--1", "\ud800")


def spoil_bytes(rng: np.random.Generator, row: bytes) -> bytes:
  """Any damage to a row's bytes."""
  data = bytearray(row)
  place = int(rng.integers(len(data)))
  length = int(rng.integers(1, 1 + len(data) // int(rng.choice([1, 8, 64, 512]))))
  kind = rng.integers(6)
  if kind == 0:
    for bit in rng.integers(8 * len(data), size=rng.choice([1, 2, 30])):
      data[bit // 8] ^= 1 << (bit % 8)
  elif kind == 1:
    del data[place:]
  elif kind == 2:
    del data[place : place + length]
  elif kind == 3:
    data[place:place] = rng.bytes(length)
  elif kind == 4:
    data[place : place + length] = rng.bytes(len(data[place : place + length]))
  else:
    data[place] = rng.choice(np.frombuffer(b'\t\n\r\0 ,:[]{}"', np.uint8))
  return bytes(data)


def spoil_picture(rng: np.random.Generator, seed: int) -> bytes:
  """A picture that is cut, or none at all, in sound base64."""
  whole = rows["picture"](seed)
  cut = whole[: rng.integers(len(whole) - 1)]
  none = rng.bytes(int(rng.integers(1, 3_000)))
  chosen = (cut, none, b"", whole[::-1])[rng.integers(4)]
  return rows["key"](seed).encode() + b"\t" + base64.b64encode(chosen)


def spoil_label(rng: np.random.Generator, seed: int) -> bytes:
  """A label with one field that cannot be."""
  label = rows["label"](seed)
  name = FIELDS[rng.integers(len(FIELDS))]
  kind = rng.integers(4)
  if kind == 0:
    del label[name]
  elif kind == 1:
    value = WRONG[rng.integers(len(WRONG))]
    legal = (name in FLAGS and value is True) or (name == "scale" and value == 2.5)
    label[name] = None if legal else value
  elif kind == 2:
    _replace_number(label, name, rng, HUGE[rng.integers(len(HUGE))])
  else:
    _replace_number(label, name, rng, "ODD")
  text = json.dumps([label]).replace('"ODD"', ODD[rng.integers(len(ODD))])
  return rows["key"](seed).encode() + b"\t" + text.encode(errors="surrogatepass")


def _replace_number(label, name, rng, value) -> None:
  """Puts a value in the place of one of a field's numbers."""
  found = label[name]
  if not isinstance(found, list):
    label[name] = value
    return
  while isinstance(found[0], list):
    found = found[rng.integers(len(found))]
  # The last of a joint's numbers is a confidence; without one, it may be anywhere.
  found[-1 if "joints" in name else rng.integers(len(found))] = value


def spoil_key(rng: np.random.Generator, seed: int) -> bytes:
  """A label under a key that its picture does not have."""
  keys = (rows["key"](seed + 1).encode(), b"", b"\xff\xfe", b"x" * 100_000)
  row = rows["label_row"](seed)
  return keys[rng.integers(len(keys))] + row[row.index(b"\t") :]


def damage(seed: int) -> tuple[bytes, bytes, bool]:
  """The rows of picture and label, one damaged, and whether it must be refused."""
  rng = np.random.default_rng((seed, 2))
  image, label = rows["image_row"](seed), rows["label_row"](seed)
  kind = rng.integers(5)
  if kind == 0:
    return spoil_bytes(rng, image), label, False
  if kind == 1:
    return image, spoil_bytes(rng, label), False
  if kind == 2:
    return spoil_picture(rng, seed), label, True
  if kind == 3:
    return image, spoil_label(rng, seed), True
  return image, spoil_key(rng, seed), True


def expect_only_the_damaged_refused(folder: pathlib.Path, variants: int) -> None:
  folder.mkdir(exist_ok=True)
  damaged = {seed: damage(seed) for seed in range(1, 2 * variants, 2)}
  images = [
    damaged[s][0] if s % 2 else rows["image_row"](s) for s in range(2 * variants)
  ]
  labels = [
    damaged[s][1] if s % 2 else rows["label_row"](s) for s in range(2 * variants)
  ]
  rows["write_rows"](folder / "x.img.tsv", images, index=True)
  rows["write_rows"](folder / "x.label.tsv", labels, index=True)
  source = formats.Source(folder / "x.img.tsv", "train")
  reader = formats.open_reader("tsv", source)
  summary = prepared.build(reader, folder, "x", "y", workers=2, max_refused=0.5)
  stored = prepared.open_split(folder, "x", "y")
  assert summary.rows == 2 * variants == summary.kept + summary.refused

  text = (prepared.folder_of(folder, "x", "y") / "refused.tsv").read_text()
  refused = {}
  for line in text.splitlines():
    where, reason = line.split("\t")
    refused[int(where.removeprefix("x.label.tsv row "))] = reason
  assert len(refused) == summary.refused and all(refused.values())
  assert all(row % 2 for row in refused), "a good row was refused"
  missed = [row for row, (*_, must) in damaged.items() if must and row not in refused]
  assert not missed, [damaged[row][1][:300] for row in missed[:3]]

  kept = [row for row in range(2 * variants) if row not in refused]
  for place, row in enumerate(kept):
    example = stored[place]
    if row % 2:
      row_checks.check(example, schema.BODY)  # what passed is at least sound
      continue
    expected = reader.read(row)
    assert example["key"] == rows["key"](row)
    for name, value in expected.items():
      np.testing.assert_array_equal(example[name], value, err_msg=name)


def test_every_damaged_row_is_named_or_harmless_and_no_good_one_is_lost(tmp_path):
  expect_only_the_damaged_refused(tmp_path, 400)


@pytest.mark.slow
def test_ten_thousand_damaged_rows(tmp_path):
  expect_only_the_damaged_refused(tmp_path, 10_000)
