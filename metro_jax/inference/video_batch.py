"""Predicts videos one after another: decoding, network and drawing side by side."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm
from jaxtyping import UInt8

from metro_jax import files
from metro_jax.inference import photographs, tracks, videos
from metro_jax.inference.ahead import ahead
from metro_jax.inference.batch import Job, Options, Report, StepError, say, step
from metro_jax.inference.body_files import Body
from metro_jax.inference.boxes import Corners
from metro_jax.inference.output_names import PictureNames
from metro_jax.inference.predictor import SIZES, BatchPredictor
from metro_jax.inference.track_files import TrackRows, write_track
from metro_jax.inference.tracks import OneEuro, Tracker
from metro_jax.inference.videos import VideoFrame
from metro_jax.rendering import overlay
from metro_jax.rendering.overlay import Box, whole_picture
from metro_jax.text_files import one_line

BATCH_PX = 40_000_000  # of frames that are seen together, and of those that wait
LEAST_FRAMES = 5  # of a person, in a video that is longer: a detector's mistakes
LOST_PX = 16  # a followed person who is smaller is looked for again
Finder = Callable[[VideoFrame], Sequence[Corners]]


class Clip(NamedTuple):
  """One video: who is in it, and what to call the files.

  Attributes:
    path: Of the video.
    find: Says where people are in a frame, frame after frame; None follows one person,
      who at first fills the picture.
    names: Of the files.
  """

  path: pathlib.Path
  find: Finder | None
  names: PictureNames


class Seen(NamedTuple):
  """People of one frame.

  Attributes:
    number: Of the frame.
    time_s: Of the frame.
    size_px: Width and height of the frame.
    image: To draw on, perhaps reduced, so that many can wait.
    places: Of each, the tight box by which they are known again.
    squares: Of each, the square that the network saw.
    bodies: Of each, as predicted there.
  """

  number: int
  time_s: float
  size_px: tuple[int, int]
  image: UInt8[np.ndarray, "_ _ 3"]
  places: Sequence[Corners]
  squares: Sequence[Box]
  bodies: Sequence[Body]


@dataclasses.dataclass
class Done:
  """What became of the videos that could be predicted."""

  videos: int = 0
  frames: int = 0
  people: int = 0


def in_turn(boxes: Iterable[Sequence[Corners]]) -> Finder:
  """Makes boxes that are known beforehand a `Finder`.

  Args:
    boxes: Of frame 0, 1, ...; where they end nobody is seen any more.
  """
  each = iter(boxes)
  return lambda frame: next(each, ())


def make_clip(job: Job) -> Clip:
  """Makes a video of a planned job, whose boxes hold for all frames."""

  def find(frame: VideoFrame) -> Sequence[Corners]:
    if isinstance(job.boxes, str):
      raise ValueError(job.boxes)
    return job.boxes or []

  return Clip(job.path, None if job.boxes is None else find, job.names)


def predict_all(
  clips: Sequence[Clip],
  predict: BatchPredictor,
  options: Options,
  report: Report,
  smoothing: float = 1.0,
) -> Done:
  """Predicts every video and writes its files: all of a video's, or none.

  Args:
    clips: The videos; their files' places are free.
    predict: The network, of pictures and a square in each.
    options: Where to write, focal length.
    report: Takes the failures; a full disk leaves out the rest.
    smoothing: Strength, 0 for none.
  """
  done = Done()
  for number, clip in enumerate(clips, start=1):
    try:
      frames, people = predict_clip(clip, predict, options, smoothing)
    except StepError as error:
      reason = one_line(str(error).removeprefix(f"{clip.path}: "))
      report.fail(error.step, clip.path, reason)
      if files.means_full_disk(error):
        report.kinds["not tried as the disk is full"] += len(clips) - number
        break
      continue
    done.videos, done.frames = done.videos + 1, done.frames + frames
    done.people += people
  return done


def predict_clip(
  clip: Clip, predict: BatchPredictor, options: Options, smoothing: float = 1.0
) -> tuple[int, int]:
  """Predicts everybody in one video and writes the files.

  Returns:
    Frames, and people who were written.

  Raises:
    StepError: If any of it fails; nothing of this video was written then.
  """
  with (
    contextlib.ExitStack() as stack,
    step("writing"),
    options.outputs.adding() as folder,
  ):
    with step("reading"):
      reader = stack.enter_context(videos.Reader(clip.path))
    with step("writing"):
      film = videos.Writer(folder / clip.names.overlay, reader.fps)
    if film.codec != videos.CODECS[0]:
      say(f"{clip.path}: PyAV has no {videos.CODECS[0]}; written as {film.codec}")
    people = _People(folder, clip.names.stem, options.focal_px, smoothing)
    with film:
      seen = _look(clip, reader, predict, options.box_scale)
      count = _draw_all(clip, reader, seen, people, film)
    written = _write_tracks(clip, people, count, folder, options)
    if reader.damage:
      say(f"{clip.path}: {reader.damage}; {count} frames were predicted")
  return count, written


class _People:
  """Who was seen so far: numbers, smoothing, and rows on disk."""

  def __init__(
    self, folder: pathlib.Path, stem: str, focal_px: float, smoothing: float
  ):
    self._folder, self._stem = folder, stem
    self._focal_px, self._smoothing = focal_px, smoothing
    self._tracker = Tracker()
    self._smooth: dict[int, tuple[int, SmoothBody]] = {}  # last frame, filter
    self.rows: dict[int, TrackRows] = {}

  def follow(self, seen: Seen, one: bool) -> list[Body]:
    """Returns the bodies smoothed, and keeps them."""
    numbers = [0] if one else self._tracker.update(seen.places, seen.number)
    focal_px = self._focal_px or math.hypot(*seen.size_px)
    smoothed = []
    for number, body, box in zip(numbers, seen.bodies, seen.squares, strict=True):
      _, smooth = self._smooth.get(number, (0, None))
      smooth = smooth or SmoothBody(self._smoothing)
      self._smooth[number] = seen.number, smooth
      smoothed.append(smooth(body, box, seen.time_s))
      rows = self.rows.setdefault(number, TrackRows(self._rows_path(number)))
      about = seen.size_px, focal_px
      rows.add(seen.number, seen.time_s, smoothed[-1], box, *about)
    oldest = seen.number - tracks.LONGEST_GAP - 1
    self._smooth = {n: kept for n, kept in self._smooth.items() if kept[0] >= oldest}
    return smoothed

  def _rows_path(self, number: int) -> pathlib.Path:
    return self._folder / f".rows{number}"


class SmoothBody:
  """Smooths one person's mesh, joints and camera.

  The camera is smoothed in the whole picture, as squares jump with their boxes: the
  place over the first scale, in metres, and the scale's logarithm, which moves what is
  a metre from the middle by as many.

  Args:
    strength: 0 smooths nothing.
  """

  def __init__(self, strength: float):
    self._strength = strength
    self._points, self._camera = OneEuro(strength), OneEuro(strength)
    self._scale_px = 0.0

  def __call__(self, body: Body, box: Box, time_s: float) -> Body:
    """Smooths the next frame's body, which was seen in a square."""
    if self._strength == 0:
      return body
    count = len(body.vertices_m)
    points = np.concatenate([body.vertices_m, body.joints_m])
    points = self._points(points, time_s)
    camera = self._smooth_camera(body.camera.astype(np.float64), box, time_s)
    return body._replace(
      vertices_m=points[:count],
      joints_m=points[count:],
      camera=camera.astype(body.camera.dtype),
    )

  def _smooth_camera(self, camera: np.ndarray, box: Box, time_s: float) -> np.ndarray:
    center_px = np.array([box.center_x, box.center_y])
    scale_px = camera[0] * box.side / 2
    if scale_px <= 0:
      return camera
    offset_px = center_px + scale_px * camera[1:]
    self._scale_px = self._scale_px or float(scale_px)
    state = np.array([offset_px / self._scale_px, [np.log(scale_px), 0]])
    place, (log_scale, _) = self._camera(state, time_s)
    scale_px = np.exp(log_scale)
    shift = (place * self._scale_px - center_px) / scale_px
    return np.array([2 * scale_px / box.side, *shift])


def _look(
  clip: Clip, reader: videos.Reader, predict: BatchPredictor, box_scale: float
) -> Generator[Seen]:
  """Runs the network over the frames, which are decoded ahead of it."""
  with ahead(_batches(reader), depth=1) as batches:
    if clip.find is None:
      frames = (frame for some in batches for frame in some)
      yield from _follow(frames, predict, box_scale)
      return
    for some in batches:
      with step("boxes"):
        places = [list(clip.find(frame)) for frame in some]
      with step("predicting"):
        seen = _predict(some, places, predict, box_scale)
      yield from seen


def _batches(reader: videos.Reader) -> Iterator[list[VideoFrame]]:
  """Reads as many frames together as memory should hold."""
  waiting: list[VideoFrame] = []
  with step("reading"):
    for frame in reader:
      waiting.append(frame)
      pixels = len(waiting) * frame.image.shape[0] * frame.image.shape[1]
      if len(waiting) == SIZES[-1] or pixels >= BATCH_PX:
        yield waiting
        waiting = []
  if waiting:
    yield waiting


def _predict(
  frames: Sequence[VideoFrame],
  places: Sequence[Sequence[Corners]],
  predict: BatchPredictor,
  box_scale: float,
) -> list[Seen]:
  squares = [
    photographs.squares(frame.image.shape[0], frame.image.shape[1], some, box_scale)
    for frame, some in zip(frames, places, strict=True)
  ]
  each = [
    (f.image, box) for f, some in zip(frames, squares, strict=True) for box in some
  ]
  bodies = iter(predict([image for image, _ in each], [box for _, box in each]))
  return [
    _seen(frame, some, boxes, [next(bodies) for _ in boxes])
    for frame, some, boxes in zip(frames, places, squares, strict=True)
  ]


def _follow(
  frames: Iterable[VideoFrame], predict: BatchPredictor, box_scale: float
) -> Iterator[Seen]:
  """Follows one person: where the joints were is where to look next."""
  square: Box | None = None
  for frame in frames:
    height, width = frame.image.shape[:2]
    box = square or whole_picture(height, width)
    with step("predicting"):
      (body,) = predict([frame.image], [box])
    place = _around_joints(body, box)
    square = None
    if _is_in_picture(place, width, height):
      (square,) = photographs.squares(height, width, [place], box_scale)
    yield _seen(frame, [place], [box], [body])


def _seen(
  frame: VideoFrame,
  places: Sequence[Corners],
  squares: Sequence[Box],
  bodies: Sequence[Body],
) -> Seen:
  height, width = frame.image.shape[:2]
  small = videos.reduced(frame.image)
  about = frame.number, frame.time_s, (width, height), small
  return Seen(*about, places, squares, bodies)


def _around_joints(body: Body, box: Box) -> Corners:
  px = overlay.to_pixels(body.joints_m, body.camera, box)
  (x0, y0), (x1, y1) = px.min(axis=0).tolist(), px.max(axis=0).tolist()
  return x0, y0, x1, y1


def _is_in_picture(place: Corners, width: int, height: int) -> bool:
  """Returns whether a person may be there; not so of NaN."""
  x0, y0, x1, y1 = place
  large = max(x1 - x0, y1 - y0) >= LOST_PX
  return large and 0 < (x0 + x1) / 2 < width and 0 < (y0 + y1) / 2 < height


def _draw_all(
  clip: Clip,
  reader: videos.Reader,
  looked: Generator[Seen],
  people: _People,
  film: videos.Writer,
) -> int:
  """Draws and writes what the network saw, which works ahead; returns the frames."""
  count = 0
  bar = tqdm.tqdm(
    total=reader.expected_frames or None,
    unit="frame",
    desc=clip.path.name,
    disable=None,
  )
  with bar, contextlib.closing(looked), ahead(looked, SIZES[-1]) as seen:
    for one in seen:
      with step("writing"):
        bodies = people.follow(one, clip.find is None)
      with step("drawing"):
        drawn = _draw(one, bodies)
      with step("writing"):
        film.add(drawn, one.time_s)
      count += 1
      bar.update()
  return count


def _draw(seen: Seen, bodies: Sequence[Body]) -> np.ndarray:
  """Draws everybody, who is nearer over who is farther."""
  drawn, scale = seen.image, max(seen.image.shape) / max(seen.size_px)
  pairs = [
    (body, Box(*(scale * value for value in box)))
    for body, box in zip(bodies, seen.squares, strict=True)
  ]
  for body, box in sorted(pairs, key=lambda pair: pair[0].camera[0] * pair[1].side):
    drawn = overlay.overlay(drawn, body.vertices_m, body.faces, body.camera, box)
  return drawn


def _write_tracks(
  clip: Clip, people: _People, frames: int, folder: pathlib.Path, options: Options
) -> int:
  """Writes the files of everybody seen long enough; returns how many they are."""
  everybody = list(people.rows.values())
  steady = [rows for rows in everybody if rows.count >= min(LEAST_FRAMES, frames)]
  longest = sorted(steady, key=lambda rows: -rows.count)[: len(clip.names.people)]
  kept = [rows for rows in everybody if rows in longest]
  if len(kept) < len(everybody):
    say(
      f"{clip.path}: {len(everybody) - len(kept)} of {len(everybody)} tracks were left "
      f"out: shorter than {LEAST_FRAMES} frames, or not among the "
      f"{len(clip.names.people)} longest"
    )
  for name, rows in zip(clip.names.people, kept, strict=False):
    with step("fitting" if options.fit else "writing"):
      write_track(folder, name, rows, clip.path, options.fit)
  for rows in everybody:
    rows.remove()
  return len(kept)
