"""Text and JSON from people's programs are read, or named for what they are."""

import gzip
import math
import os
import pickle

import numpy as np
import pytest

from metro_jax import files, text_files

TEXT = '{"café": [1, 2.5, null]}\r\n'
VALUE = {"café": [1, 2.5, None]}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_is_read_in_every_encoding_that_says_itself(tmp_path, encoding):
  path = tmp_path / "x.json"
  path.write_bytes(TEXT.encode(encoding))
  assert text_files.read_json(path) == VALUE
  assert text_files.read_json(path, unique_keys=True) == VALUE
  assert text_files.read_text(path) == TEXT.replace("\r\n", "\n")


def test_nan_and_infinity_are_numbers():
  found = text_files.parse_json(b"\xef\xbb\xbf[NaN, -Infinity, null, 1]", "x")
  assert math.isnan(found[0]) and found[1:] == [-math.inf, None, 1]


@pytest.mark.parametrize(
  "content, said",
  [
    (gzip.compress(b"[]"), "x: expected text, got a gzip file; unpack it first"),
    (pickle.dumps([1]), "x: expected text, got a pickle"),
    (b"\x93NUMPY\x01\x00", "x: expected text, got a NumPy file"),
    ('["café"]'.encode("latin1"), "text in UTF-8, got the byte 0xe9 at place 5"),
    (b"[1,\n2", r"x: bad JSON: Expecting ',' delimiter at line 2, column 2"),
    (b"", "x: bad JSON: Expecting value at column 1"),
    (b"[" * 100_000, "x: bad JSON: too many lists in lists"),
    (b"9" * 5_000, "x: bad JSON: Exceeds the limit"),
  ],
)
def test_what_is_something_else_is_named(content, said):
  with pytest.raises(ValueError, match=said) as caught:
    text_files.parse_json(content, "x")
  assert "\n" not in str(caught.value)


def test_a_key_twice_is_refused_where_asked():
  data = b'{"a": 1, "b": 2, "a": 3}'
  assert text_files.parse_json(data, "x") == {"a": 3, "b": 2}
  with pytest.raises(
    ValueError, match="x: bad JSON: expected every key once, got 'a' twice"
  ):
    text_files.parse_json(data, "x", unique_keys=True)


@pytest.mark.parametrize(
  "said, line",
  [
    ("one\n  two\tthree", "one two three"),
    ("caf\udce9", "caf\\udce9"),
    ("a\x1b[31mb\x00", "a\\x1b[31mb\\x00"),
    (KeyError(), "KeyError"),
    ("x" * 400, "x" * 297 + "..."),
  ],
)
def test_an_error_is_one_line_that_every_file_takes(said, line):
  assert text_files.one_line(said) == line
  line.encode()


def test_only_files_are_read_and_none_that_is_too_large(tmp_path):
  path = tmp_path / "x"
  path.write_bytes(b"0123456789")
  assert files.read_bytes(path, 10) == b"0123456789"
  with pytest.raises(ValueError, match="expected a file of at most 0 MB, got 0 MB"):
    files.read_bytes(path, 9)
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "link").symlink_to("/dev/zero")
  for name, kind in (("pipe", "a pipe"), ("link", "a device"), (".", "a folder")):
    with pytest.raises(ValueError, match=f"expected a file, got {kind}"):
      files.read_bytes(tmp_path / name)
  os.truncate(path, 1 << 40)
  with pytest.raises(ValueError, match="at most 1 MB, got 1,099,512 MB"):
    files.read_bytes(path, 1_000_000)


def test_home_folders_are_expanded(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert files.expand_home("~/x") == tmp_path / "x"
  with pytest.raises(ValueError, match="~no one/x: expected the name of a user"):
    files.expand_home("~no one/x")


def test_numbers_are_as_numpy_reads_them():
  values = [0.1, -1e300, 5e-324, 2**53]
  assert text_files.parse_json(str(values).encode(), "x") == list(np.array(values))
