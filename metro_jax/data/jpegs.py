"""JPEG files to pixels, whole or reduced while they are decoded."""

from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

REDUCTIONS = (8, 4, 2, 1)  # each pixel is the mean of so many squared
_FLAGS = {
  8: cv2.IMREAD_REDUCED_COLOR_8,
  4: cv2.IMREAD_REDUCED_COLOR_4,
  2: cv2.IMREAD_REDUCED_COLOR_2,
  1: cv2.IMREAD_COLOR,
}
_EXIF = b"\xff\xe1"  # markers of segments
_BEFORE_PIXELS = (b"\xff\xda", b"\xff\xd9", b"")  # start of scan, end of image or file
_FEWEST_PX = 16  # of a side, lest several reductions give one size


def bgr(jpeg: bytes, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"]:
  """Decodes with OpenCV, which turns pictures upright as their EXIF data says.

  Args:
    jpeg: The file's bytes.
    reduction: Of `REDUCTIONS`.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  image = (
    cv2.imdecode(np.frombuffer(jpeg, np.uint8), _FLAGS[reduction]) if jpeg else None
  )
  if image is None:
    raise ValueError(f"image: expected a whole JPEG, got {len(jpeg)} bytes of no such")
  return image


def rgb(jpeg: bytes, reduction: int = 1) -> UInt8[np.ndarray, "h w 3"]:
  """The same pixels, red first."""
  image = bgr(jpeg, reduction)
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def rgba(jpeg: bytes, reduction: int = 1) -> UInt8[np.ndarray, "h w 4"]:
  """The same pixels, red first, and a fourth channel that is 255.

  OpenCV warps four channels in half the time of three, and simplejpeg writes four at
  once; what it does not read, and what EXIF data may turn, is left to OpenCV.

  Args:
    jpeg: The file's bytes.
    reduction: Of `REDUCTIONS`.

  Raises:
    ValueError: If the bytes are not a whole JPEG.
  """
  try:
    if not _has_exif(jpeg):
      return _plain(jpeg, reduction)
  except ValueError:
    pass
  return cv2.cvtColor(bgr(jpeg, reduction), cv2.COLOR_BGR2RGBA)


def _plain(jpeg: bytes, reduction: int) -> UInt8[np.ndarray, "h w 4"]:
  if reduction == 1:
    return simplejpeg.decode_jpeg(jpeg, "RGBA")
  height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
  if min(height, width) < _FEWEST_PX:
    raise ValueError(f"expected a side of {_FEWEST_PX}, got {height} x {width}")
  least = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
  return simplejpeg.decode_jpeg(jpeg, "RGBA", min_factor=reduction, **least)


def upright_size(jpeg: bytes, height: int, width: int) -> tuple[int, int]:
  """Height and width as `bgr` and `rgba` give them.

  Args:
    jpeg: The file's bytes.
    height: Of the pixels as they are stored.
    width: Likewise.
  """
  return (width, height) if _lies_on_its_side(jpeg) else (height, width)


def _lies_on_its_side(jpeg: bytes) -> bool:
  """Whether OpenCV turns the picture by a quarter; it is asked with a tiny one."""
  segments = b"".join(_exif_segments(jpeg)) if b"Exif" in jpeg else b""
  if not segments:
    return False
  low = cv2.imencode(".jpg", np.zeros((1, 2), np.uint8))[1].tobytes()
  found = bgr(low[:2] + segments + low[2:])
  return found.shape[0] > found.shape[1]


def _has_exif(jpeg: bytes) -> bool:
  return next(_exif_segments(jpeg), None) is not None


def _exif_segments(jpeg: bytes) -> Iterator[bytes]:
  """The segments in front of the pixels that hold EXIF data.

  A segment is two bytes of marker, two of its length without the marker, and content;
  bytes of 255 may stand before it.
  """
  place = 2
  while (marker := jpeg[place : place + 2]) not in _BEFORE_PIXELS:
    if marker == b"\xff\xff":
      place += 1
      continue
    end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    if marker == _EXIF and jpeg.startswith(b"Exif", place + 4):
      yield jpeg[place:end]
    place = end
