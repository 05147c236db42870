"""Videos, frame by frame: read upright with their times, written for browsers."""

import importlib.util
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import UInt8

from metro_jax.rendering import overlay
from metro_jax.text_files import one_line

if TYPE_CHECKING:
  import av

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp")
PERSON_SUFFIXES = (".npz", ".glb", ".bvh")  # the last two of fitted people
LARGEST_WRITTEN_PX = 1920  # longer side; browsers play it, and drawing stays cheap
TICKS = 60_000  # a second; whole numbers for 24, 25, 30, 60 and 30000/1001 frames
LEAST_STEP_S = 1e-3  # between frames whose times stand still or go back
FALLBACK_FPS = 30.0
CODECS = ("libx264", "mpeg4")  # the second where PyAV came without the first
MPEG4_BIT_RATE = 8_000_000
HD_ROWS = 720  # from here on colours without a word about them are BT.709
_UNSPECIFIED = 2  # of FFmpeg's colour spaces


class VideoFrame(NamedTuple):
  """One picture of a video.

  Attributes:
    number: From 0.
    time_s: As the file says; larger than the one before.
    image: RGB, upright, as large as it was taken.
  """

  number: int
  time_s: float
  image: UInt8[np.ndarray, "h w 3"]


def is_video(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path's suffix is a video's."""
  return pathlib.Path(path).suffix.lower() in SUFFIXES


def can_read() -> bool:
  """Returns whether PyAV is installed."""
  return importlib.util.find_spec("av") is not None


class Reader:
  """The frames of a video, decoded as they are asked for.

  What is damaged in the middle is left out, and what was cut off at the end is missing:
  the frames around it come.

  Args:
    path: Of the video.

  Attributes:
    expected_frames: How many the file says there are; 0 if it does not say.
    fps: Frames a second on average.
    damage: Once the frames were read, what was wrong; empty if nothing was.

  Raises:
    ValueError: If there is no such file, no video in it, or no PyAV.
  """

  def __init__(self, path: pathlib.Path):
    av = _import_av()
    self._path, self._error = path, av.FFmpegError
    self.damage = ""
    try:
      self._container = av.open(os.fspath(path))
    except (av.FFmpegError, OSError) as error:
      reason = getattr(error, "strerror", None) or str(error)
      raise ValueError(f"{path}: expected a video, got: {one_line(reason)}") from error
    streams = self._container.streams.video
    if not streams:
      self._container.close()
      raise ValueError(f"{path}: expected a video, got a file without a video stream")
    self._stream = self._container.streams.best("video") or streams[0]
    self._stream.thread_type = "AUTO"
    self.expected_frames = int(self._stream.frames)
    rate = self._stream.average_rate or self._stream.guessed_rate
    self.fps = float(rate) if rate else FALLBACK_FPS

  def __enter__(self) -> "Reader":
    return self

  def __exit__(self, *exc: object) -> None:
    self._container.close()

  def __iter__(self) -> Iterator[VideoFrame]:
    """Reads all frames, once.

    Raises:
      ValueError: If there is none.
    """
    number, time_s = 0, -np.inf
    for frame in self._decoded():
      least = time_s + LEAST_STEP_S if number else 0.0
      given = least + 1 / self.fps if frame.time is None else float(frame.time)
      time_s = max(given, least) if number else given
      yield VideoFrame(number, time_s, _upright_rgb(frame))
      number += 1
    if not number:
      more = f": {self.damage}" if self.damage else ""
      raise ValueError(f"{self._path}: expected a video, got one without frames{more}")
    self._note_missing_end(time_s)

  def _decoded(self) -> "Iterator[av.VideoFrame]":
    packets, damaged = self._packets(), 0
    for packet in packets:
      try:
        frames = packet.decode()
      except self._error as error:
        damaged += 1
        self.damage = f"{damaged} damaged packets were left out, the last as "
        self.damage += one_line(getattr(error, "strerror", None) or str(error))
        continue
      yield from frames

  def _packets(self) -> "Iterator[av.Packet]":
    try:
      yield from self._container.demux(self._stream)
    except (self._error, IndexError) as error:
      reason = getattr(error, "strerror", None) or "it is cut off"
      self.damage = f"cannot be read to its end: {one_line(reason)}"

  def _note_missing_end(self, last_s: float) -> None:
    stream = self._stream
    if self.damage or not stream.duration or not stream.time_base:
      return
    end_s = float((stream.start_time or 0) * stream.time_base)
    end_s += float(stream.duration * stream.time_base)
    if end_s - last_s > 1 + 2 / self.fps:
      self.damage = f"ends after {last_s:.1f} of {end_s:.1f} s"


class Writer:
  """An MP4 of H.264 that browsers play while it loads; frames keep their times.

  Frames are reduced to `LARGEST_WRITTEN_PX`; all are brought to the first one's size,
  made even by repeating the border.

  Args:
    path: Ends in .mp4; its folder must exist.
    fps: Frames a second on average.

  Attributes:
    codec: The first of `CODECS` that PyAV has.

  Raises:
    ValueError: If there is no PyAV.
  """

  def __init__(self, path: pathlib.Path, fps: float):
    av = _import_av()
    self._frame_from = av.VideoFrame.from_ndarray
    self.codec = next((c for c in CODECS if c in av.codecs_available), CODECS[-1])
    self._container = av.open(
      os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"}
    )
    rate = Fraction(fps).limit_denominator(1001)
    self._stream = self._container.add_stream(self.codec, rate=max(rate, Fraction(1)))
    self._stream.pix_fmt = "yuv420p"
    self._stream.codec_context.time_base = Fraction(1, TICKS)
    if self.codec != CODECS[0]:
      self._stream.bit_rate = MPEG4_BIT_RATE
    self._size: tuple[int, int] | None = None
    self._start_s, self._ticks = 0.0, -1

  def add(self, image: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
    """Writes one frame.

    Args:
      image: RGB, at most `LARGEST_WRITTEN_PX` large.
      time_s: When it is shown.
    """
    even = np.pad(
      image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), "edge"
    )
    if self._size is None:
      self._size, self._start_s = (even.shape[1], even.shape[0]), time_s
      self._stream.width, self._stream.height = self._size
      self._tag_colors(even.shape[0])
    frame = self._frame_from(np.ascontiguousarray(even), format="rgb24").reformat(
      *self._size,
      format="yuv420p",
      dst_colorspace="ITU709" if self._size[1] >= HD_ROWS else "ITU601",
    )
    self._ticks = max(round((time_s - self._start_s) * TICKS), self._ticks + 1)
    frame.pts, frame.time_base = self._ticks, Fraction(1, TICKS)
    self._container.mux(self._stream.encode(frame))

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, *exc: object) -> None:
    if exc[0] is None and self._size is not None:
      self._container.mux(self._stream.encode())
    self._container.close()

  def _tag_colors(self, rows: int) -> None:
    context = self._stream.codec_context
    context.colorspace = 1 if rows >= HD_ROWS else 5  # FFmpeg's BT.709 and BT.470BG
    context.color_range = 1  # 16..235


def reduced(
  image: UInt8[np.ndarray, "h w 3"], most_px: int = LARGEST_WRITTEN_PX
) -> UInt8[np.ndarray, "_ _ 3"]:
  """Returns a frame, reduced if it is too large to draw on and write."""
  return image if max(image.shape[:2]) <= most_px else overlay.fitted(image, most_px)


def _import_av() -> ModuleType:
  try:
    import av  # an extra, and only videos need it
  except ImportError as error:
    raise ValueError(
      "videos: expected PyAV, which is not installed: pip install 'metro_jax[video]'"
    ) from error
  return av


def _upright_rgb(frame: "av.VideoFrame") -> UInt8[np.ndarray, "h w 3"]:
  """Converts a frame of any pixel format and turns it as its file asks."""
  untold = int(frame.colorspace) == _UNSPECIFIED and frame.height >= HD_ROWS
  source = "ITU709" if untold else None
  image = frame.reformat(format="rgb24", src_colorspace=source).to_ndarray()
  quarters = round(frame.rotation / 90)  # counter-clockwise, as NumPy turns
  return np.ascontiguousarray(np.rot90(image, quarters)) if quarters % 4 else image
