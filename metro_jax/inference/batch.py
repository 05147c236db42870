"""Predicts pictures one after another; what fails leaves the others alone."""

import collections
import contextlib
import dataclasses
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import tqdm
from jaxtyping import UInt8

from metro_jax import files
from metro_jax.inference import body_files, output_names, photographs, videos
from metro_jax.inference.body_files import Body, Contents, Fitted
from metro_jax.inference.boxes import Entry
from metro_jax.inference.output_names import PictureNames
from metro_jax.outputs import Outputs
from metro_jax.rendering import overlay, vertex_colors
from metro_jax.rendering.overlay import Box
from metro_jax.text_files import one_line, printable

SHEET_COLUMNS = 5
MOST_ON_SHEET = 100
THUMBNAIL_PX = 320
Image = UInt8[np.ndarray, "h w 3"]
Predictor = Callable[[Image, Box], Body]
Fitter = Callable[[Sequence[Body]], list[Fitted]]


class Job(NamedTuple):
  """One picture: whom to predict there, and what to call the files.

  Attributes:
    path: Of the picture.
    boxes: Of the people; None stands for one person who fills the picture, a str says
      why the boxes cannot be used.
    names: Of the files.
  """

  path: pathlib.Path
  boxes: Entry | None
  names: PictureNames


class Options(NamedTuple):
  """What to do with every picture."""

  outputs: Outputs
  box_scale: float = photographs.BOX_SCALE
  focal_px: float = 0.0  # 0: the picture's diagonal
  contents: Contents = Contents()
  fit: Fitter | None = None  # gives every person a body model's parameters
  photograph_colors: bool = False  # of the vertices


@dataclasses.dataclass
class Report:
  """What became of the pictures.

  Attributes:
    done: How many were predicted.
    failures: A line for all that went wrong; it was printed, too.
    kinds: Pictures left out, counted by what failed.
  """

  done: int = 0
  failures: list[str] = dataclasses.field(default_factory=list)
  kinds: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  def fail(self, kind: str, path: pathlib.Path, reason: str) -> None:
    """Notes and prints a failure."""
    self.failures.append(f"{printable(str(path))}: {reason}")
    self.kinds[kind] += 1
    say(self.failures[-1])


class StepError(Exception):
  """Says at which step a picture failed, and why."""

  def __init__(self, step: str, reason: str):
    super().__init__(reason)
    self.step = step


def plan(
  paths: Sequence[pathlib.Path],
  entries: Sequence[Entry | None] | None = None,
  contents: Contents = Contents(),  # noqa: B008
) -> list[Job]:
  """Decides for all pictures what their files are called.

  Args:
    paths: The pictures.
    entries: Of each, its boxes, see `Job`; None where there are no boxes at all.
    contents: The files of every person.
  """
  namer, jobs = output_names.Namer(contents.suffixes), []
  for path, entry in zip(paths, entries or [None] * len(paths), strict=True):
    people = len(entry) if isinstance(entry, list) else 1
    if videos.is_video(path):
      names = namer.claim_video(path, entry is None, videos.PERSON_SUFFIXES)
    else:
      names = namer.claim(path, people)
    jobs.append(Job(path, entry, names))
  return jobs


def expect_free(jobs: Sequence[Job], outputs: Outputs) -> None:
  """Checks, before anything is written, that no file takes another's place.

  Raises:
    FileExistsError: If there is a file that predict did not write.
  """
  sheet = [output_names.CONTACT_SHEET] if len(jobs) > 1 else []
  outputs.expect_free([*(name for job in jobs for name in job.names.files), *sheet])


def predict_all(jobs: Sequence[Job], predict: Predictor, options: Options) -> Report:
  """Predicts every picture and writes its files: all of a picture's, or none.

  Args:
    jobs: Made by `plan`.
    predict: The network, of a picture and a square in it.
    options: Where to write, focal length.

  Returns:
    What became of them; a full disk leaves out the rest.

  Raises:
    OSError: If a file would take another's place, or the folder cannot be written
      into; nothing was changed then.
  """
  expect_free(jobs, options.outputs)
  with options.outputs.adding():
    pass  # where nothing can be written, nothing need be predicted
  report = Report()
  thumbnails: dict[str, Image] = {}
  bar = tqdm.tqdm(jobs, unit="picture", disable=None)
  for number, job in enumerate(bar, start=1):
    try:
      thumbnail = predict_picture(job, predict, options)
    except StepError as error:
      reason = str(error).removeprefix(f"{job.path}: ")
      report.fail(error.step, job.path, reason)
      if files.means_full_disk(error):
        report.kinds["not tried as the disk is full"] += len(jobs) - number
        break
      continue
    report.done += 1
    if not job.names.stem.startswith(job.path.stem):
      say(f"{job.path}: too long a name; its files are called {job.names.stem}")
    if len(thumbnails) < MOST_ON_SHEET:
      thumbnails[job.names.stem] = thumbnail
  if len(thumbnails) > 1:
    _write_sheet(thumbnails, options.outputs, report)
  return report


def predict_picture(job: Job, predict: Predictor, options: Options) -> Image:
  """Predicts everybody in one picture, writes the files, returns a small overlay.

  Raises:
    StepError: If any of it fails; nothing of this picture was written then.
  """
  if isinstance(job.boxes, str):
    raise StepError("boxes", job.boxes)
  with step("reading"):
    image = photographs.read(job.path, lambda text: say(f"{job.path}: {text}"))
  height, width = image.shape[:2]
  squares = photographs.squares(height, width, job.boxes, options.box_scale)
  with step("predicting"):
    bodies = [predict(image, box) for box in squares]
  fitted: Sequence[Fitted | None] = [None] * len(bodies)
  if options.fit is not None and bodies:
    with step("fitting"):
      fitted = options.fit(bodies)
  with step("drawing"):
    drawn = image
    for body, box in zip(bodies, squares, strict=True):
      drawn = overlay.overlay(drawn, body.vertices_m, body.faces, body.camera, box)
    thumbnail = overlay.fitted(drawn, THUMBNAIL_PX)
  focal_px = options.focal_px or math.hypot(width, height)
  people = zip(job.names.people, bodies, squares, fitted, strict=True)
  with step("writing"), options.outputs.adding() as folder:
    for name, body, box, fit in people:
      colors = _colors(image, body, box) if options.photograph_colors else None
      about = (width, height), focal_px, job.path
      files_of = options.contents, colors, fit
      body_files.write_body(folder, name, body, box, *about, *files_of)
    overlay.write_jpeg(folder / job.names.overlay, drawn)
  return thumbnail


def _colors(image: Image, body: Body, box: Box) -> UInt8[np.ndarray, "v 3"]:
  points_px = overlay.to_pixels(body.vertices_m, body.camera, box)
  return vertex_colors.from_photograph(image, points_px, body.vertices_m, body.faces)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
  """Says of what fails inside at which step it did.

  Raises:
    StepError: For any error; one from a step inside stays as it is.
  """
  try:
    yield
  except StepError:
    raise
  except Exception as error:  # whatever it is, it concerns this picture
    raise StepError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
  known = isinstance(error, ValueError | OSError | cv2.error) and str(error)
  return one_line(error if known else f"{type(error).__name__} {error}")


def say(text: str) -> None:
  """Prints a line above the progress bar."""
  tqdm.tqdm.write(f"predict: {printable(text)}", file=sys.stderr)


def _write_sheet(
  thumbnails: dict[str, Image], outputs: Outputs, report: Report
) -> None:
  pictures, captions = list(thumbnails.values()), list(thumbnails)
  try:
    with step("contact sheet"), outputs.adding() as folder:
      sheet = overlay.contact_sheet(pictures, SHEET_COLUMNS, captions, THUMBNAIL_PX)
      overlay.write_jpeg(folder / output_names.CONTACT_SHEET, sheet)
  except StepError as error:
    path = outputs.folder / output_names.CONTACT_SHEET
    report.fail(error.step, path, str(error))
