"""What the files of a prediction are called, so that no two of them ever meet."""

import os
import pathlib
import unicodedata
from typing import NamedTuple

from metro_jax import files

CONTACT_SHEET = "contact_sheet.jpg"
PERSON_SUFFIXES = (".glb", ".obj", ".npz")  # unless others are asked for
_OVERLAY, _VIDEO_OVERLAY = "_overlay.jpg", "_overlay.mp4"
MOST_TRACKED = 30  # people of a video, whose number is known only at its end


class PictureNames(NamedTuple):
  """The files of one picture or video.

  Attributes:
    stem: What they begin with, and what the contact sheet says.
    people: Of each person, the names without an ending: the stem, or for several
      people stem_1, stem_2, ...
    suffixes: Endings of each person's files.
    overlay_suffix: Of the overlay.
  """

  stem: str
  people: tuple[str, ...]
  suffixes: tuple[str, ...] = PERSON_SUFFIXES
  overlay_suffix: str = _OVERLAY

  @property
  def overlay(self) -> str:
    """The picture with everybody drawn in."""
    return self.stem + self.overlay_suffix

  @property
  def files(self) -> list[str]:
    """All of them."""
    people = [name + suffix for name in self.people for suffix in self.suffixes]
    return [self.overlay, *people]


class Namer:
  """Names the files of one picture after another.

  A picture's files begin with its name without the suffix. Where one of them would
  have the name of an earlier picture's, all get "-2", "-3" and so on; names that a file
  system may take for the same (letter case, Unicode's forms) count as the same. What
  is too long for a file system is cut.

  Args:
    suffixes: Endings of each person's files.
  """

  def __init__(self, suffixes: tuple[str, ...] = PERSON_SUFFIXES):
    self._suffixes = suffixes
    self._taken = {fold(CONTACT_SHEET)}
    self._numbers: dict[tuple[str, int], int] = {}

  def claim(self, path: pathlib.Path, people: int) -> PictureNames:
    """Names the files of a picture.

    Args:
      path: Of the picture.
      people: How many are in it.
    """
    return self._claim(path, people, self._suffixes, _OVERLAY)

  def claim_video(
    self, path: pathlib.Path, one: bool, suffixes: tuple[str, ...]
  ) -> PictureNames:
    """Names the files of a video.

    Args:
      path: Of the video.
      one: Whether a single person is followed; otherwise there are `MOST_TRACKED`.
      suffixes: Endings of each person's files.
    """
    return self._claim(path, 1 if one else MOST_TRACKED, suffixes, _VIDEO_OVERLAY)

  def _claim(
    self, path: pathlib.Path, people: int, suffixes: tuple[str, ...], overlay: str
  ) -> PictureNames:
    alike = fold(path.stem), people
    number, taken = self._numbers.get(alike, 1), True
    while taken:
      names = self._name(path, number, people, suffixes, overlay)
      wanted = _folded(names)
      taken = bool(self._taken & wanted)
      number += 1
    self._numbers[alike] = number
    self._taken |= wanted
    return names

  def _name(
    self,
    path: pathlib.Path,
    number: int,
    people: int,
    suffixes: tuple[str, ...],
    overlay: str,
  ) -> PictureNames:
    stem, ending = path.stem, f"-{number}" if number > 1 else ""
    while True:
      whole = stem + ending
      each = [whole] if people == 1 else [f"{whole}_{i + 1}" for i in range(people)]
      names = PictureNames(whole, tuple(each), suffixes, overlay)
      longest = max(len(os.fsencode(name)) for name in names.files)
      if longest <= files.LONGEST_NAME:
        return names
      stem = stem[: -max(1, (longest - files.LONGEST_NAME) // 4)]  # a letter: 4 bytes


def fold(name: str) -> str:
  """A name without what some file systems do not tell apart.

  Source: The Unicode Standard, definition D145, canonical caseless matching.
  """
  name = unicodedata.normalize("NFD", name).casefold()
  return unicodedata.normalize("NFD", name)


def _folded(names: PictureNames) -> set[str]:
  return {fold(name) for name in names.files}
