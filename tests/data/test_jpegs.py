"""Both ways of decoding give the same pixels, whatever the file."""

import cv2
import numpy as np
import pytest
import simplejpeg

from metro_jax.data import jpegs

# One tag, 0x0112: a quarter turn clockwise makes the picture upright.
TURNED = (
  b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0" * 4
)


def picture(height=61, width=83, channels=3):
  field = np.random.default_rng(0).uniform(0, 255, (height // 6, width // 6, channels))
  return cv2.resize(field, (width, height)).astype(np.uint8)


def jpeg(image, *settings):
  return cv2.imencode(".jpg", image, settings)[1].tobytes()


def segment(content, marker=b"\xff\xe1"):
  return marker + (2 + len(content)).to_bytes(2) + content


def with_segments(file, *segments):
  """Behind the first segment, which says that it is a JPEG."""
  end = 4 + int.from_bytes(file[4:6])
  return file[:end] + b"".join(segments) + file[end:]


PLAIN = jpeg(picture())
FILES = {
  "plain": PLAIN,
  "grey": jpeg(picture()[..., 0]),
  "full colour": jpeg(
    picture(),
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
  ),
  "progressive": jpeg(picture(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
  "tiny": jpeg(picture(36, 36)[::18, ::18]),
  "turned by EXIF": with_segments(PLAIN, segment(b"Exif\0\0" + TURNED)),
  "EXIF comes late": with_segments(
    PLAIN, segment(b"\xff\xda" * 9, b"\xff\xe2"), segment(b"Exif\0\0" + TURNED)
  ),
  "other data": with_segments(PLAIN, segment(b"http://ns.adobe.com/xap/1.0/\0")),
  "PNG": cv2.imencode(".png", picture())[1].tobytes(),
}


@pytest.mark.parametrize("reduction", jpegs.REDUCTIONS)
@pytest.mark.parametrize("name", FILES)
def test_four_channels_hold_the_pixels_that_opencv_reads(name, reduction):
  theirs = jpegs.bgr(FILES[name], reduction)
  ours = jpegs.rgba(FILES[name], reduction)
  np.testing.assert_array_equal(ours[..., 2::-1], theirs)
  assert (ours[..., 3] == 255).all()


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_pixel_is_the_mean_of_a_block(reduction):
  image = picture(64, 96)
  means = image.reshape(64 // reduction, reduction, 96 // reduction, reduction, 3)
  found = jpegs.bgr(jpeg(image, cv2.IMWRITE_JPEG_QUALITY, 100), reduction)
  assert np.abs(found - means.mean((1, 3))).mean() < 2


@pytest.mark.parametrize("turned", [True, False])
def test_exif_data_turns_a_picture(turned):
  file = FILES["turned by EXIF"] if turned else PLAIN
  assert jpegs.rgba(file).shape == ((83, 61, 4) if turned else (61, 83, 4))


@pytest.mark.parametrize("name", ["plain", "grey", "progressive", "other data"])
def test_common_files_do_not_go_the_long_way(name, monkeypatch):
  monkeypatch.setattr(jpegs, "bgr", None)
  assert jpegs.rgba(FILES[name], 2).shape == (31, 42, 4)


def test_files_that_one_decoder_refuses_are_left_to_the_other(monkeypatch):
  def refuse(*_, **__):
    raise ValueError("unsupported color conversion request")

  monkeypatch.setattr(simplejpeg, "decode_jpeg", refuse)
  np.testing.assert_array_equal(jpegs.rgba(PLAIN)[..., 2::-1], jpegs.bgr(PLAIN))


@pytest.mark.parametrize(
  "damaged",
  [
    b"",
    b"\xff\xd8",
    b"\xff\xd8\xff",
    b"no picture",
    PLAIN[:400],
    PLAIN[: len(PLAIN) // 2],
  ],
)
@pytest.mark.parametrize("reduction", [1, 4])
def test_damaged_files_are_named_as_such(damaged, reduction):
  expected = f"image: expected a whole JPEG, got {len(damaged)} bytes"
  for decode in (jpegs.bgr, jpegs.rgba):
    with pytest.raises(ValueError, match=expected):
      decode(damaged, reduction)
