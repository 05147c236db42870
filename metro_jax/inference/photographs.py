"""Photographs to predict from: finding, reading, and the square around a person."""

import collections
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from metro_jax import files
from metro_jax.data import exact_crop
from metro_jax.data.exact_crop import Crop
from metro_jax.data.framing import Frame
from metro_jax.inference import videos
from metro_jax.inference.boxes import Corners
from metro_jax.rendering.overlay import Box, whole_picture
from metro_jax.text_files import one_line, printable

BOX_SCALE = 1.2  # of the network's square, over a box's longer side
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
Ours = Callable[[pathlib.Path], Callable[[str], bool]]
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_BEGINNINGS = (
  (0, b"\x89PNG", "PNG that is damaged or cut off"),
  (0, b"BM", "BMP that is damaged or cut off"),
  (0, b"II*\0", "TIFF that is damaged or of an unknown kind"),
  (0, b"MM\0*", "TIFF that is damaged or of an unknown kind"),
  (8, b"WEBP", "WebP that is damaged or cut off"),
  (0, b"GIF8", "GIF, which is not read"),
  *((8, brand, "HEIC, which is not read: save it as JPEG or PNG")
    for brand in (b"hei", b"hev", b"mif1", b"msf1")),
  (8, b"avi", "AVIF, which is not read: save it as JPEG or PNG"),
  (4, b"ftyp", "a video (MP4 or QuickTime), which is not read"),
  (8, b"AVI ", "a video (AVI), which is not read"),
  (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM), which is not read"),
  (0, b"%PDF", "a PDF, which is not read"),
  (0, b"PK\3\4", "a zip archive, which is not read"),
  (0, b"<", "a web page or other text"),
)  # where they stand, the bytes, and what a file with them is  # fmt: skip


class Found(NamedTuple):
  """What arguments name.

  Attributes:
    pictures: Each once; videos, too.
    passed_over: Files of folders that are no pictures, counted by kind.
    refused: A line for each address, and each folder that cannot be listed.
  """

  pictures: list[pathlib.Path]
  passed_over: collections.Counter[str]
  refused: list[str]


def find(paths: Iterable[str | os.PathLike[str]], ours: Ours | None = None) -> Found:
  """Lists the pictures and videos that arguments name; folders are sorted.

  Args:
    paths: Files, or folders whose pictures (by suffix, not of their subfolders) are
      meant; videos as well, if they can be read here.
    ours: Of a folder, which of its files were written by this command and are thus
      not meant.

  Returns:
    A file that does not exist is listed, too; reading it says so.

  Raises:
    ValueError: If there is no picture, naming the arguments.
  """
  given = [os.fspath(path) for path in paths]
  found = Found([], collections.Counter(), [])
  known: set[str] = set()
  for name in given:
    path = _expanded(name)
    if "://" in name and not os.path.lexists(path):
      found.refused.append(f"{printable(name)}: expected a path, got an address")
      continue
    inside = _list(path, ours, found) if os.path.isdir(path) else [path]
    for picture in inside:
      if (whole := os.path.abspath(picture)) not in known:
        known.add(whole)
        found.pictures.append(picture)
  if not found.pictures:
    raise ValueError(_nothing_found(given, found))
  return found


def _expanded(name: str) -> pathlib.Path:
  """A path with the home folder for ~, unless a file begins so."""
  return pathlib.Path(name if os.path.lexists(name) else os.path.expanduser(name))


def _list(folder: pathlib.Path, ours: Ours | None, found: Found) -> list[pathlib.Path]:
  """The folder's pictures; the rest is counted in `found`."""
  try:
    inside = sorted(folder.iterdir())
    is_ours = ours(folder) if ours is not None else None
    return [path for path in inside if _is_meant(path, is_ours, found.passed_over)]
  except OSError as error:
    found.refused.append(f"{printable(str(folder))}: {error.strerror or error}")
    return []


def _is_meant(
  path: pathlib.Path,
  is_ours: Callable[[str], bool] | None,
  passed_over: collections.Counter[str],
) -> bool:
  suffix = path.suffix.lower()
  if os.path.isdir(path):
    passed_over["folders"] += 1
  elif suffix not in (*SUFFIXES, *(videos.SUFFIXES if videos.can_read() else ())):
    if not path.name.startswith("."):
      passed_over[suffix or "without a suffix"] += 1
  elif path.name.startswith("._"):  # macOS keeps attributes so on other systems' disks
    passed_over["._*"] += 1
  elif is_ours is not None and is_ours(path.name):
    passed_over["written by this command"] += 1
  else:
    return True
  return False


def count_kinds(counts: collections.Counter[str]) -> str:
  """Counts by kind in words, largest first: "3 .heic, 1 folders"."""
  return ", ".join(f"{count:,} {printable(k)}" for k, count in counts.most_common())


def _nothing_found(given: Sequence[str], found: Found) -> str:
  named = ", ".join(map(printable, given)) or "nothing"
  expected = f"expected image files or folders with {' '.join(SUFFIXES)}, or videos"
  over = count_kinds(found.passed_over)
  more = [f"passed over {over}"] if over else []
  return "; ".join([f"pictures: {expected}, got {named}", *more, *found.refused])


def read(
  path: pathlib.Path, remark: Callable[[str], None] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
  """Reads a picture, turned upright as its EXIF data says.

  Args:
    path: Of the picture.
    remark: Called with what is odd about a picture that can be read.

  Returns:
    RGB.

  Raises:
    ValueError: If it cannot be read, naming the file.
  """
  try:
    data = files.read_bytes(path)
  except OSError as error:
    raise ValueError(f"{path}: {error.strerror or error}") from error
  image, reason = _decode(data)
  if image is None and data.startswith(_JPEG_START) and _lacks_only_end(data):
    image, reason = _decode(data + _JPEG_END)
    if image is not None and remark is not None:
      remark("JPEG without its end marker; all pixels are there")
  if image is None:
    got = _describe(data) or reason or "no such"
    raise ValueError(f"{path}: expected an image, got {len(data):,} bytes of {got}")
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode(data: bytes) -> tuple[np.ndarray | None, str]:
  """BGR, or nothing and a reason where OpenCV has one."""
  if not data:
    return None, ""
  try:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), ""
  except cv2.error as error:
    return None, f"what OpenCV refuses: {one_line(error.err)}"


def _lacks_only_end(jpeg: bytes) -> bool:
  """Whether every pixel is there once the end marker is added."""
  try:
    simplejpeg.decode_jpeg(jpeg + _JPEG_END, strict=True)
  except ValueError:
    return False
  return True


def _describe(data: bytes) -> str:
  """What a file is that is no picture to OpenCV; empty if that is not known."""
  if data.startswith(_JPEG_START):
    return f"a JPEG: {_jpeg_damage(data)}"
  for place, beginning, meaning in _BEGINNINGS:
    if data.startswith(beginning, place):
      return meaning
  return ""


def _jpeg_damage(data: bytes) -> str:
  try:
    simplejpeg.decode_jpeg(data, strict=True)
  except ValueError as error:
    return str(error)
  return "OpenCV cannot decode it"


def squares(
  height: int, width: int, boxes: Sequence[Corners] | None, scale: float
) -> list[Box]:
  """The squares that the network shall see.

  Args:
    height: Of the picture.
    width: Of the picture.
    boxes: Tight boxes around people; None stands for one person and takes the whole
      picture, padded to a square.
    scale: How much larger than the longer side of a given box its square is.
  """
  if boxes is None:
    return [whole_picture(height, width)]
  return [
    Box((x0 + x1) / 2, (y0 + y1) / 2, scale * max(x1 - x0, y1 - y0))
    for x0, y0, x1, y1 in boxes
  ]


def crop(
  image: UInt8[np.ndarray, "h w 3"], frame: Frame, crop_px: int
) -> UInt8[np.ndarray, "crop_px crop_px 3"]:
  """Cuts a square out, black beyond the picture's border, as in training."""
  turn = frame.rotation_rad
  seen = Crop(frame.center_px, frame.side_px, crop_px, rotation_rad=turn)
  return exact_crop.warp(image, seen)
