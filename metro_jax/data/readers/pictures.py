"""A dataset's pictures as files: JPEG bytes as they are, others made JPEG."""

import os
import pathlib

import cv2
import numpy as np

JPEG_QUALITY = 95  # of pictures that were PNG or another format
_START_OF_JPEG = b"\xff\xd8\xff"


def read_jpeg(path: str | os.PathLike[str], quarter_turns: int = 0) -> bytes:
  """A picture as a JPEG file's bytes.

  A JPEG that is not to be turned is passed through untouched. PNG and whatever else
  OpenCV reads is encoded anew at `JPEG_QUALITY`, full colour resolution.

  Args:
    path: The file.
    quarter_turns: Clockwise, as seen.

  Raises:
    FileNotFoundError: If it is not there.
    ValueError: If it is no picture.
  """
  try:
    data = pathlib.Path(path).read_bytes()
  except FileNotFoundError:
    raise FileNotFoundError(f"image: {path} is not there") from None
  if data.startswith(_START_OF_JPEG) and quarter_turns % 4 == 0:
    return data
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
  except cv2.error:
    image = None
  if image is None:
    raise ValueError(f"image: {path}: expected a picture, got {len(data):,} bytes")
  image = np.ascontiguousarray(np.rot90(image, -quarter_turns))
  settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
  settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
  return cv2.imencode(".jpg", image, settings)[1].tobytes()


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The file of a name that a label file gives, which may not leave the folder.

  Raises:
    ValueError: If it would.
  """
  path = pathlib.PurePosixPath(name.replace("\\", "/"))
  if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
    raise ValueError(f"image: expected a name inside {folder}, got {name!r}")
  return folder / path
