"""Which picture a name in a label or box file means.

Names that people see as one are one: with / or \\ between folders, and with letters as
one character or as letter and accent (Unicode NFC and NFD). Nothing else is guessed: a
name without its suffix, in another case or misspelt means no picture, and the nearest
one is said.
"""

import bisect
import difflib
import functools
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from metro_jax.text_files import short

_HINTED = 20  # keys of no picture whose nearest is looked for
_COMPARED = 100  # names that a misspelt one is compared with, at most


class Matched(NamedTuple):
  """The pictures that keys belong to."""

  places: dict[str, int]  # by key: the place of the one picture that it means
  problems: list[str]  # a line for each key that means several, or another's
  absent: list[str]  # a line for each key that means none


def spelling(name: str | os.PathLike[str]) -> tuple[str, ...]:
  """A path's folders and file, equal for names that people see as the same."""
  text = unicodedata.normalize("NFC", os.fspath(name)).replace("\\", "/")
  root = ("/",) if text.startswith("/") else ()
  return (*root, *(part for part in text.split("/") if part not in ("", ".")))


def match(keys: Iterable[str], paths: Sequence[str | os.PathLike[str]]) -> Matched:
  """Finds the picture of each key.

  A key is the picture's path as it was given, or from the root, or the end of it: the
  bare name, or with some of its folders.

  Args:
    keys: Of a label or box file.
    paths: Of the pictures.

  Returns:
    A place in `paths` for each key that means one picture. Where two keys mean the same
    picture, neither has a place.
  """
  whole = [spelling(os.path.abspath(path)) for path in paths]
  by_name: dict[str, list[int]] = {}
  for place, parts in enumerate(whole):
    by_name.setdefault(parts[-1], []).append(place)
  found: dict[str, int] = {}
  owners: dict[int, str] = {}
  absent: list[str] = []
  problems, known = [], Known(by_name)
  for key in keys:
    fits = _fitting(key, paths, whole, by_name.get(_last(key), ()))
    if len(fits) == 1:
      owner = owners.setdefault(fits[0], key)
      if owner == key:
        found[key] = fits[0]
        continue
      found.pop(owner, None)
      problems.append(
        f"{short(owner)} and {short(key)} both mean the picture {paths[fits[0]]}"
      )
    elif fits:
      named = ", ".join(str(paths[place]) for place in fits[:3])
      more = f" and {len(fits) - 3} more" if len(fits) > 3 else ""
      problems.append(f"{short(key)} means several pictures: {named}{more}")
    else:
      near = known.nearest(_last(key)) if len(absent) < _HINTED else None
      hint = f"; nearest is {paths[by_name[near][0]]}" if near else ""
      absent.append(f"{short(key)} means no picture{hint}")
  return Matched(found, problems, absent)


def _last(name: str | os.PathLike[str]) -> str:
  parts = spelling(name)
  return parts[-1] if parts else ""


def _fitting(
  key: str,
  paths: Sequence[str | os.PathLike[str]],
  whole: Sequence[tuple[str, ...]],
  places: Iterable[int],
) -> list[int]:
  """The pictures that a key is the path or the end of; the path as given goes first."""
  wanted = spelling(key)
  if ".." in wanted or wanted[:1] == ("~",):
    wanted = spelling(os.path.abspath(os.path.expanduser("/".join(wanted))))
  fits = [place for place in places if whole[place][-len(wanted) :] == wanted]
  if len(fits) > 1:
    fits = [p for p in fits if spelling(paths[p]) == wanted] or fits
  if len(fits) > 1 and len({whole[place] for place in fits}) == 1:
    # Files beside each other whose names look the same: each has its own spelling.
    fits = [p for p in fits if os.path.basename(paths[p]) == os.path.basename(key)]
  return fits


class Known:
  """Names, of which the one is found that a wrong name was most likely meant for."""

  def __init__(self, names: Iterable[str]):
    self._by_small: dict[str, str] = {}
    self._by_stem: dict[str, str] = {}
    for name in names:
      small = name.casefold()
      self._by_small.setdefault(small, name)
      self._by_stem.setdefault(_stem(small), name)

  def nearest(self, name: str) -> str | None:
    """The same but for case, else for the suffix, else a similar one, else None."""
    small = name.casefold()
    found = self._by_small.get(small) or self._by_stem.get(_stem(small))
    if found is not None:
      return found
    near = difflib.get_close_matches(small, self._around(small), n=1)
    return self._by_small[near[0]] if near else None

  def hint(self, name: str) -> str:
    """What a message says of the nearest name, if there is one."""
    near = self.nearest(name)
    return f"; nearest is {short(near)}" if near else ""

  def _around(self, small: str) -> list[str]:
    """All, or of very many those that begin most alike and those that end so."""
    if len(self._by_small) <= _COMPARED:
      return list(self._by_small)
    found = []
    for turn, texts in zip((1, -1), self._sorted, strict=True):
      place = bisect.bisect_left(texts, small[::turn])
      near = texts[max(place - _COMPARED // 4, 0) : place + _COMPARED // 4]
      found += [text[::turn] for text in near]
    return found

  @functools.cached_property
  def _sorted(self) -> tuple[list[str], list[str]]:
    return sorted(self._by_small), sorted(text[::-1] for text in self._by_small)


def _stem(name: str) -> str:
  return name.rpartition(".")[0] or name


def find_file(
  name: str, folder: pathlib.Path, others: Sequence[pathlib.Path] = ()
) -> pathlib.Path:
  """Finds the file that a label file names, which must lie below a folder.

  Args:
    name: As it stands in the label file: relative to the folder, or from the root.
    folder: Where it is looked for.
    others: Further folders that it may lie in.

  Returns:
    The file's path, not opened. What it links to lies below one of the folders, too.

  Raises:
    FileNotFoundError: If it is not there, with the nearest name that is.
    ValueError: If it is no name, or of a file elsewhere.
  """
  if not spelling(name) or "\0" in name:
    raise ValueError(f"expected the name of a file in {folder}, got {short(name)}")
  roots = [_real_folder(str(root)) for root in (folder, *others)]
  for text in _readings(name):
    path = folder / text
    real = _real(path)
    if not any(pathlib.PurePath(real).is_relative_to(root) for root in roots):
      where = "" if real == os.path.abspath(path) else f", which is {real}"
      raise ValueError(
        f"expected a name inside {folder}, got {short(name)}{where}; name the folder "
        "of the pictures with --images"
      )
    if os.path.lexists(path):
      return path
  return _find_alike(name, folder, real, roots)


def _readings(name: str) -> Iterator[str]:
  """As it is written, then as other systems and shells write it."""
  yield name
  turned = os.path.expanduser(name.replace("\\", "/"))
  if turned != name:
    yield turned


def _real(path: pathlib.Path) -> str:
  """The path without links; of a folder's many files, only the file is looked at."""
  if path.name in ("", "..") or os.path.islink(path):
    return os.path.realpath(path)
  return os.path.join(_real_folder(str(path.parent)), path.name)


@functools.lru_cache(4096)
def _real_folder(path: str) -> str:
  return os.path.realpath(path)


def _find_alike(
  name: str, folder: pathlib.Path, real: str, roots: Sequence[str]
) -> pathlib.Path:
  """The file whose name looks the same, found folder by folder."""
  missing = f"{folder / name} is not there"
  root = next(r for r in roots if pathlib.PurePath(real).is_relative_to(r))
  path = pathlib.Path(root)
  for part in pathlib.PurePath(real).relative_to(root).parts:
    alike, known = _listed(str(path), _changed_ns(path))
    fits = alike.get(unicodedata.normalize("NFC", part), ())
    if part in fits:
      path /= part
    elif len(fits) == 1:
      path /= fits[0]
    elif fits:
      raise ValueError(f"{missing}, and {len(fits)} names look like it")
    else:
      raise FileNotFoundError(f"{missing}{known.hint(part)}")
  return path


def _changed_ns(path: pathlib.Path) -> int:
  try:
    return path.stat().st_mtime_ns
  except OSError:
    return 0


@functools.lru_cache(64)
def _listed(path: str, changed_ns: int) -> tuple[dict[str, list[str]], Known]:
  """What lies in a folder, by names in one spelling; read again when it changed."""
  try:
    listed = sorted(os.listdir(path))
  except OSError:
    listed = []
  alike: dict[str, list[str]] = {}
  for name in listed:
    alike.setdefault(unicodedata.normalize("NFC", name), []).append(name)
  return alike, Known(listed)
