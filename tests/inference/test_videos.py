"""Videos of phones, cameras and broken disks give upright RGB frames, or one line."""

from fractions import Fraction

import numpy as np
import pytest

from metro_jax.inference import videos

av = pytest.importorskip("av")
RED, BLUE = (200, 0, 0), (0, 0, 200)


def picture(height=48, width=64):
  """Red, with a blue top left corner."""
  image = np.full((height, width, 3), RED, np.uint8)
  image[: height // 3, : width // 3] = BLUE
  return image


def save(path, images, times_s, codec="libx264", pixels="yuv420p", rotation=0):
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=30)
    stream.height, stream.width = images[0].shape[:2]
    stream.pix_fmt = pixels
    stream.codec_context.time_base = Fraction(1, 6000)
    if rotation:
      stream.set_display_rotation(rotation)
    for image, time_s in zip(images, times_s, strict=True):
      frame = av.VideoFrame.from_ndarray(image, format="rgb24")
      frame.pts, frame.time_base = round(6000 * time_s), Fraction(1, 6000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def read(path):
  with videos.Reader(path) as reader:
    return list(reader), reader


def near(image, row, column, color):
  return np.abs(image[row, column].astype(int) - color).max() <= 12


def test_frames_keep_their_uneven_times(tmp_path):
  times_s = [0.0, 0.033, 0.1, 0.35, 0.36]
  frames, reader = read(save(tmp_path / "a.mp4", [picture()] * 5, times_s))
  np.testing.assert_allclose([frame.time_s for frame in frames], times_s, atol=1e-3)
  assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
  assert reader.expected_frames == 5 and reader.damage == ""
  assert near(frames[0].image, 4, 4, BLUE) and near(frames[0].image, 40, 60, RED)


@pytest.mark.parametrize(
  ("matrix", "corner"),  # of ISO/IEC 14496-12's track header, and where blue goes
  [((0, 1, -1, 0), (4, -4)), ((-1, 0, 0, -1), (-4, -4)), ((0, -1, 1, 0), (-4, 4))],
)
def test_phones_frames_are_turned_upright(tmp_path, matrix, corner):
  path = save(tmp_path / "a.mp4", [picture()] * 2, [0.0, 0.1])
  data = bytearray(path.read_bytes())
  start = data.find(b"tkhd") + 4 + 40
  a, b, c, d = (value << 16 for value in matrix)
  numbers = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
  data[start : start + 36] = numbers.tobytes()
  path.write_bytes(data)
  frames, _ = read(path)
  turned = matrix[0] == 0
  assert frames[0].image.shape == ((64, 48, 3) if turned else (48, 64, 3))
  assert near(frames[0].image, *corner, BLUE)


@pytest.mark.parametrize(
  ("codec", "pixels", "suffix"),
  [("libx264", "yuv420p10le", ".mp4"), ("libx264", "yuv444p", ".mkv"),
   ("mjpeg", "yuvj422p", ".avi"), ("ffv1", "gbrp10le", ".mkv"),
   ("ffv1", "gray", ".mkv")],
)  # fmt: skip
def test_every_pixel_format_becomes_rgb(tmp_path, codec, pixels, suffix):
  path = tmp_path / f"a{suffix}"
  frames, _ = read(save(path, [picture()] * 2, [0.0, 1 / 30], codec, pixels))
  red, blue = ((60,) * 3, (23,) * 3) if pixels == "gray" else (RED, BLUE)
  assert near(frames[1].image, 40, 60, red) and near(frames[1].image, 4, 4, blue)
  assert frames[1].image.dtype == np.uint8


def noise(count):
  return list(np.random.default_rng(0).integers(0, 255, (count, 48, 64, 3), np.uint8))


def test_of_a_truncated_video_the_frames_that_are_there_come(tmp_path):
  path = tmp_path / "a.mp4"
  with videos.Writer(path, 10.0) as writer:  # its index stands in front
    for n, image in enumerate(noise(60)):
      writer.add(image, n / 10)
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  frames, reader = read(path)
  assert 5 <= len(frames) < 50
  assert reader.damage and "\n" not in reader.damage


def test_damaged_bytes_in_the_middle_leave_the_other_frames(tmp_path):
  path = save(tmp_path / "a.avi", noise(30), np.arange(30) / 30, "mjpeg", "yuvj422p")
  data = bytearray(path.read_bytes())
  data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
  path.write_bytes(data)
  frames, _ = read(path)
  assert 20 <= len(frames) <= 30


def save_sound(path):
  with av.open(str(path), "w") as container:
    stream = container.add_stream("aac", rate=16000)
    frame = av.AudioFrame.from_ndarray(
      np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
    )
    frame.rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def save_without_frames(path):
  """Packets of nothing but zeros."""
  data = bytearray(save(path, noise(5), np.arange(5) / 30).read_bytes())
  start, size = data.index(b"mdat") + 4, data.index(b"moov") - 4
  data[start:size] = bytes(size - start)
  path.write_bytes(data)


def save_without_index(path):
  save(path, noise(5), np.arange(5) / 30)
  path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
  ("name", "make", "reason"),
  [
    ("none.mp4", lambda path: None, "No such file"),
    ("empty.mp4", lambda path: path.write_bytes(b""), "Invalid data"),
    ("text.mov", lambda path: path.write_text("hello " * 50), "Invalid data"),
    ("sound.mp4", save_sound, "without a video stream"),
    ("frames.mp4", save_without_frames, "without frames"),
    ("index.mp4", save_without_index, "expected a video"),
  ],
)
def test_what_is_no_video_is_one_line(tmp_path, name, make, reason):
  path = tmp_path / name
  make(path)
  with pytest.raises(ValueError, match=reason) as caught:
    read(path)
  assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_what_is_written_plays_in_browsers(tmp_path):
  path = tmp_path / "a.mp4"
  times_s = [5.0, 5.04, 5.3]
  with videos.Writer(path, 25.0) as writer:
    for time_s in times_s:
      writer.add(picture(47, 65), time_s)
  data = path.read_bytes()
  assert data.index(b"moov") < data.index(b"mdat")
  with av.open(str(path)) as container:
    (stream,) = container.streams.video
    assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert (stream.width, stream.height) == (66, 48)
  frames, _ = read(path)
  np.testing.assert_allclose([f.time_s for f in frames], [0, 0.04, 0.3], atol=1e-3)
  assert near(frames[0].image, 4, 4, BLUE) and near(frames[0].image, 40, 60, RED)


def test_without_x264_mpeg4_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
  with videos.Writer(tmp_path / "a.mp4", 25.0) as writer:
    writer.add(picture(), 0.0)
    writer.add(picture(), 0.04)
  assert writer.codec == "mpeg4"
  frames, _ = read(tmp_path / "a.mp4")
  assert len(frames) == 2 and near(frames[1].image, 40, 60, RED)


def test_frames_of_8k_are_reduced_to_what_is_written():
  small = videos.reduced(np.zeros((4320, 7680, 3), np.uint8))
  assert small.shape == (1080, 1920, 3)
  assert videos.reduced(small) is small


def test_without_pyav_the_way_to_get_it_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "av", None)
  with pytest.raises(ValueError, match=r"pip install 'metro_jax\[video\]'"):
    videos.Reader(tmp_path / "a.mp4")
