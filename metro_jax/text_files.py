"""Text and JSON as people's programs write them, read without a guess.

Marks at the start (BOM) are skipped, UTF-16 is read, and NaN counts as a number, as in
Python's own JSON. What is something else is named for what it is.
"""

import codecs
import json
import os
from typing import Any

import orjson

from metro_jax import files

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
  (codecs.BOM_UTF8, "utf-8"),
  (codecs.BOM_UTF32_LE, "utf-32-le"),
  (codecs.BOM_UTF32_BE, "utf-32-be"),
  (codecs.BOM_UTF16_LE, "utf-16-le"),
  (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTAINERS = (
  (b"\x1f\x8b", "a gzip file; unpack it first"),
  (b"PK\x03\x04", "a ZIP file, as .zip, .npz and .xlsx are"),
  (b"BZh", "a bzip2 file; unpack it first"),
  (b"\xfd7zXZ", "an xz file; unpack it first"),
  (b"\x28\xb5\x2f\xfd", "a Zstandard file; unpack it first"),
  (b"\x89HDF", "an HDF5 file"),
  (b"MATLAB", "a MATLAB file"),
  (b"\x93NUMPY", "a NumPy file"),
  (b"SQLite", "an SQLite file"),
  (b"\x80\x02", "a pickle"),
  (b"\x80\x03", "a pickle"),
  (b"\x80\x04", "a pickle"),
  (b"\x80\x05", "a pickle"),
  (b"\xff\xd8\xff", "a JPEG picture"),
  (b"\x89PNG", "a PNG picture"),
  (b"%PDF", "a PDF file"),
)
_LONGEST_LINE = 300


def encoding_of(start: bytes) -> tuple[str, int]:
  """Tells how a text is encoded, by its first bytes.

  Args:
    start: Four bytes at least, where the text has as many.

  Returns:
    The encoding, and how many bytes at the start are a mark and no text.
  """
  for mark, encoding in _MARKS:
    if start.startswith(mark):
      return encoding, len(mark)
  if len(start) > 1:  # no text without a mark begins with a zero but as UTF-16
    if start[1] == 0 != start[0]:
      return "utf-16-le", 0
    if start[0] == 0 != start[1]:
      return "utf-16-be", 0
  return "utf-8", 0


def expect_text(start: bytes, where: str) -> None:
  """Refuses what is no text by its first bytes.

  Raises:
    ValueError: Naming what it is.
  """
  for magic, kind in _CONTAINERS:
    if start.startswith(magic):
      raise ValueError(f"{where}: expected text, got {kind}")


def decode(data: bytes, where: str) -> str:
  """Bytes as text: UTF-8, or UTF-16 and UTF-32 with a mark, which is skipped.

  Args:
    data: All of a file, or a line of one.
    where: File and line, for messages.

  Raises:
    ValueError: If it is none of these, naming what it is and where it goes wrong.
  """
  encoding, mark = encoding_of(data[:4])
  try:
    return data[mark:].decode(encoding)
  except UnicodeDecodeError as error:
    expect_text(data, where)
    place = mark + error.start
    raise ValueError(
      f"{where}: expected text in {encoding.upper()}, got the byte 0x{data[place]:02x} "
      f"at place {place}; save it as UTF-8"
    ) from error


def read_text(path: str | os.PathLike[str]) -> str:
  """Reads all of a text file, lines ending in \\n whatever they end in there.

  Raises:
    OSError: If it cannot be read.
    ValueError: If it is no text, naming it.
  """
  text = decode(files.read_bytes(path), str(path))
  return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(data: bytes, where: str, *, unique_keys: bool = False) -> Any:
  """Parses JSON of any encoding that `decode` knows; NaN and Infinity are numbers.

  Args:
    data: All of a file, or a line of one.
    where: File and line, for messages.
    unique_keys: Refuses an object that has a key twice; else the last one counts.

  Raises:
    ValueError: If it is no JSON, saying where.
  """
  if not unique_keys:
    try:
      return orjson.loads(data.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
      pass  # what is wrong with it, if anything, is said below
  text = decode(data, where)
  try:
    return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
  except json.JSONDecodeError as error:
    expect_text(data, where)
    row = f"line {error.lineno}, " if "\n" in text.rstrip() else ""
    raise ValueError(
      f"{where}: bad JSON: {error.msg} at {row}column {error.colno}"
    ) from error
  except RecursionError:
    raise ValueError(f"{where}: bad JSON: too many lists in lists") from None
  except ValueError as error:  # a key twice, a number of thousands of digits
    raise ValueError(f"{where}: bad JSON: {error}") from error


def read_json(path: str | os.PathLike[str], *, unique_keys: bool = False) -> Any:
  """Reads a JSON file as `parse_json` does.

  Raises:
    OSError: If it cannot be read.
    ValueError: If it is no JSON, naming it and the place.
  """
  return parse_json(files.read_bytes(path), str(path), unique_keys=unique_keys)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in found if keys.count(key) > 1)
    raise ValueError(f"expected every key once, got {short(twice)} twice")
  return found


def short(value: Any, most: int = 60) -> str:
  """Returns a value as messages quote it: some of it, on one line."""
  text = repr(value)
  return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(said: BaseException | str, most: int = _LONGEST_LINE) -> str:
  """Returns what an error says in one line that any terminal of UTF-8 takes."""
  text = printable(" ".join(str(said).split()) or type(said).__name__)
  return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
  """Escapes in a text, such as a path, what a terminal of UTF-8 cannot show."""
  text = text.encode("utf-8", "backslashreplace").decode()
  if text.isprintable():
    return text
  return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
  return character.encode("unicode_escape").decode()
