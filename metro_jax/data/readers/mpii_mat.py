"""The people in MPII's MATLAB file, read by SciPy in a process of its own.

A damaged file can end the process that SciPy reads it in, by a bad address.
"""

import io
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from metro_jax import files
from metro_jax.text_files import one_line

_LONGEST = 1000  # of a message
PATIENCE_S = 1800.0  # SciPy needs about a minute for MPII's file
_REFUSED = 3  # exit code; standard output then says why


class People(NamedTuple):
  """All annotated people of the training pictures, in MPII's pixels."""

  images: np.ndarray  # (n,) file names
  joints: np.ndarray  # (n, 16, 3) x, y, confidence
  boxes: np.ndarray  # (n, 3) centre and height / 200 px, negative where unknown
  problems: np.ndarray  # (n,) why a person cannot be read, or ""


def read(path: pathlib.Path) -> People:
  """Reads the file; SciPy must be there.

  Raises:
    ValueError: If it is another file or a damaged one, naming it.
    TimeoutError: If SciPy does not end.
  """
  paths = {"PYTHONPATH": files.import_path(), "PYTHONIOENCODING": "utf-8"}
  try:
    done = subprocess.run(
      [sys.executable, "-m", __spec__.name, str(path)],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      env=os.environ | paths,
      timeout=PATIENCE_S,
    )
  except subprocess.TimeoutExpired:
    raise TimeoutError(
      f"{path}: expected SciPy to read it within {PATIENCE_S:g} s, got nothing"
    ) from None
  if done.returncode == _REFUSED:
    raise ValueError(f"{path}: {done.stdout.decode(errors='replace')}")
  if done.returncode:
    code = done.returncode
    end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    raise ValueError(f"{path}: expected MPII's RELEASE; SciPy ended by {end}")
  with np.load(io.BytesIO(done.stdout), allow_pickle=False) as stored:
    return People(**stored)


def _people(path: str) -> Iterator[tuple[str, np.ndarray, list[float], str]]:
  import scipy.io

  try:
    content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
    release = content["RELEASE"]
    pictured, training = map(np.atleast_1d, (release.annolist, release.img_train))
  except Exception as error:  # what a damaged file raises has no common base
    raise ValueError(
      f"expected MPII's RELEASE; {type(error).__name__}: {error}"
    ) from error
  for number in np.flatnonzero(training == 1).tolist():
    for image, person in _of_picture(pictured, number):
      try:
        yield image, *_person(person), ""
      except Exception as error:  # as above
        told = one_line(f"annolist({number + 1}): {error}", _LONGEST)
        yield image, np.zeros((16, 3)), [-1.0] * 3, told


def _of_picture(pictured: np.ndarray, number: int) -> list[tuple[str, Any]]:
  """A picture's name and each of its people; None stands for what cannot be read."""
  try:
    picture = pictured[number]
    name = str(picture.image.name)
    return [
      (name, person) for person in np.atleast_1d(getattr(picture, "annorect", []))
    ]
  except Exception:  # as above
    return [("", None)]


def _person(person: Any) -> tuple[np.ndarray, list[float]]:
  """Joints and box; fields that are empty or absent are not annotated."""
  if person is None:
    raise ValueError("expected a picture with a name, got another")
  joints = np.zeros((16, 3))
  annotated = getattr(person, "annopoints", None)
  for point in np.atleast_1d(getattr(annotated, "point", [])):
    number = int(point.id)
    if not 0 <= number < len(joints):
      raise ValueError(f"expected a joint from 0 to 15, got {number}")
    joints[number] = [float(point.x), float(point.y), 1]
  middle = getattr(person, "objpos", None)
  box = [_number(middle, "x"), _number(middle, "y"), _number(person, "scale")]
  return joints, box


def _number(struct: Any, field: str) -> float:
  found = np.atleast_1d(getattr(struct, field, -1))
  return float(found[0]) if found.size == 1 else -1.0


def _serve(path: str) -> int:
  """What the other process does; returns its exit code."""
  try:
    images, joints, boxes, problems = [], [], [], []
    for image, points, box, problem in _people(path):
      images.append(image)
      joints.append(points)
      boxes.append(box)
      problems.append(problem)
    made = io.BytesIO()
    np.savez(
      made,
      images=np.array(images, str),
      joints=np.reshape(joints, (-1, 16, 3)).astype(np.float64),
      boxes=np.reshape(boxes, (-1, 3)).astype(np.float64),
      problems=np.array(problems, str),
    )
  except (ValueError, MemoryError) as error:
    print(one_line(error, _LONGEST), end="")
    return _REFUSED
  sys.stdout.buffer.write(made.getbuffer())
  return 0


if __name__ == "__main__":
  sys.exit(_serve(sys.argv[1]))
