"""A dataset's pictures as files: JPEG bytes as they are, others made JPEG."""

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from metro_jax import files
from metro_jax.data import names

JPEG_QUALITY = 95  # of pictures that were PNG or another format
MAX_BYTES = 1 << 30  # a hundred megapixels without any compression have fewer
_MAX_SIDE_PX = 65_500  # of a JPEG, as its library writes it
_START_OF_JPEG = b"\xff\xd8\xff"


def read_named(
  name: str,
  folder: pathlib.Path,
  others: Sequence[pathlib.Path] = (),
  quarter_turns: int = 0,
) -> bytes:
  """The picture that a label file names, as a JPEG file's bytes.

  Args:
    name: As the label file has it.
    folder: Where the pictures are, and below which each must lie.
    others: Further folders below which it may lie.
    quarter_turns: Clockwise, as seen.

  Raises:
    FileNotFoundError: If it is not there, with the nearest name that is.
    ValueError: If it is no picture, or one elsewhere.
  """
  try:
    path = names.find_file(name, folder, others)
  except FileNotFoundError as error:
    raise FileNotFoundError(f"image: {error}") from None
  except ValueError as error:
    raise ValueError(f"image: {error}") from None
  return read_jpeg(path, quarter_turns)


def read_jpeg(path: str | os.PathLike[str], quarter_turns: int = 0) -> bytes:
  """A picture as a JPEG file's bytes.

  A JPEG that is not to be turned is passed through untouched. PNG and whatever else
  OpenCV reads is encoded anew at `JPEG_QUALITY`, full colour resolution.

  Args:
    path: The file.
    quarter_turns: Clockwise, as seen.

  Raises:
    FileNotFoundError: If it is not there.
    ValueError: If it is no picture, no file, or too large.
  """
  try:
    data = files.read_bytes(path, MAX_BYTES)
  except FileNotFoundError:
    raise FileNotFoundError(f"image: {path} is not there") from None
  except ValueError as error:
    raise ValueError(f"image: {error}") from error
  if data.startswith(_START_OF_JPEG) and quarter_turns % 4 == 0:
    return data
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except cv2.error:
    image = None
  if image is None:
    raise ValueError(f"image: {path}: expected a picture, got {len(data):,} bytes")
  if max(image.shape) > _MAX_SIDE_PX:
    height, width = image.shape[:2]
    raise ValueError(
      f"image: {path}: expected sides up to {_MAX_SIDE_PX} px, got {width} x {height}"
    )
  image = np.ascontiguousarray(np.rot90(image, -quarter_turns))
  settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
  settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  return cv2.imencode(".jpg", image, settings)[1].tobytes()
