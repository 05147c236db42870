import os

import cv2
import numpy as np
import pytest

from metro_jax.data.framing import Frame
from metro_jax.inference import photographs
from metro_jax.rendering.overlay import Box


def write_png(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), image[..., ::-1])
  return path


def test_folders_give_their_pictures_sorted_and_files_stay_as_they_are(tmp_path):
  for name in ("b.PNG", "a.jpg", "notes.txt"):
    (tmp_path / name).touch()
  (tmp_path / "inner").mkdir()
  (tmp_path / "inner" / "c.jpg").touch()
  odd = tmp_path / "picture-without-suffix"
  found = photographs.find([odd, str(tmp_path), tmp_path / "a.jpg"])
  assert found.pictures == [odd, tmp_path / "a.jpg", tmp_path / "b.PNG"]


def test_no_pictures_at_all_is_an_error_that_names_the_folder(tmp_path):
  with pytest.raises(ValueError, match=f"expected image files.*{tmp_path.name}"):
    photographs.find([tmp_path])
  with pytest.raises(ValueError, match="got nothing"):
    photographs.find([])


def test_pictures_are_read_as_rgb(tmp_path):
  image = np.zeros((4, 6, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
  np.testing.assert_array_equal(
    photographs.read(write_png(tmp_path / "a.png", image)), image
  )


@pytest.mark.parametrize("content", [b"", b"this is no picture"])
def test_an_unreadable_picture_is_named(tmp_path, content):
  path = tmp_path / "broken.jpg"
  path.write_bytes(content)
  with pytest.raises(
    ValueError, match=f"broken.jpg: expected an image.*{len(content)}"
  ):
    photographs.read(path)
  with pytest.raises(ValueError, match=r"missing\.jpg: No such file"):
    photographs.read(tmp_path / "missing.jpg")


@pytest.mark.parametrize("pyav", [False, True])
def test_what_a_folder_holds_besides_is_counted_by_kind(tmp_path, monkeypatch, pyav):
  monkeypatch.setattr(photographs.videos, "can_read", lambda: pyav)
  for name in ("a.jpg", "b.HEIC", "c.heic", "d.mp4", "README", ".hidden", "._a.jpg"):
    (tmp_path / name).write_bytes(b"x")
  (tmp_path / "folder.jpg").mkdir()
  found = photographs.find([tmp_path], lambda folder: lambda name: False)
  videos = [tmp_path / "d.mp4"] if pyav else []
  assert found.pictures == [tmp_path / "a.jpg", *videos] and found.refused == []
  assert found.passed_over == {
    ".heic": 2, "without a suffix": 1, "._*": 1, "folders": 1,
    **({} if pyav else {".mp4": 1}),
  }  # fmt: skip
  assert photographs.count_kinds(found.passed_over).startswith("2 .heic, 1 ")


def test_what_was_written_here_is_no_picture_unless_named_itself(tmp_path):
  for name in ("a.jpg", "a_overlay.jpg"):
    (tmp_path / name).touch()

  def ours(folder):
    assert folder == tmp_path
    return lambda name: name == "a_overlay.jpg"

  found = photographs.find([tmp_path], ours)
  assert found.pictures == [tmp_path / "a.jpg"]
  assert found.passed_over == {"written by this command": 1}
  named = photographs.find([tmp_path / "a_overlay.jpg"], ours)
  assert named.pictures == [tmp_path / "a_overlay.jpg"]


def test_addresses_and_folders_that_cannot_be_listed_leave_the_others(
  tmp_path, monkeypatch
):
  (tmp_path / "a.jpg").touch()
  (tmp_path / "closed").mkdir()
  listed = photographs.pathlib.Path.iterdir

  def iterdir(folder):
    if folder.name == "closed":
      raise PermissionError(13, "Permission denied", str(folder))
    return listed(folder)

  monkeypatch.setattr(photographs.pathlib.Path, "iterdir", iterdir)
  long = "https://x.org/" + "b" * 300
  given = [tmp_path / "closed", long, "gs://x/b.jpg", tmp_path]
  found = photographs.find(given)
  assert found.pictures == [tmp_path / "a.jpg"]
  assert found.refused == [
    f"{tmp_path}/closed: Permission denied",
    f"{long}: expected a path, got an address",
    "gs://x/b.jpg: expected a path, got an address",
  ]
  with pytest.raises(ValueError, match=r"closed; .*closed: Permission denied"):
    photographs.find(given[:1])


def test_one_picture_named_in_two_ways_is_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  for name in ("a.jpg", "b.jpg", "~b.jpg"):
    (tmp_path / name).touch()
  (tmp_path / "x").mkdir()
  given = ["a.jpg", tmp_path / "a.jpg", "x/../a.jpg", "~/a.jpg", "~/b.jpg", "~b.jpg"]
  found = photographs.find(given)
  assert [str(p) for p in found.pictures] == ["a.jpg", f"{tmp_path}/b.jpg", "~b.jpg"]


def test_a_jpeg_without_its_end_marker_is_read_and_one_without_pixels_is_not(tmp_path):
  image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
  data = cv2.imencode(".jpg", image)[1].tobytes()
  for name, content in {
    "whole": data, "no_end": data[:-2], "half_end": data[:-1], "cut": data[:-40],
    "trailing": data + bytes(50),
  }.items():  # fmt: skip
    (tmp_path / f"{name}.jpg").write_bytes(content)
  whole = photographs.read(tmp_path / "whole.jpg", pytest.fail)
  for name in ("no_end", "half_end", "trailing"):
    said = []
    found = photographs.read(tmp_path / f"{name}.jpg", said.append)
    np.testing.assert_array_equal(found, whole)
    assert len(said) == (name != "trailing")
  with pytest.raises(ValueError, match=r"cut\.jpg: .* a JPEG: Premature end of JPEG"):
    photographs.read(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
  ("content", "meaning"),
  [
    (b"\0\0\0\x18ftypheic\0\0", "HEIC, which is not read: save it as JPEG"),
    (b"\0\0\0\x18ftypmif1\0\0", "HEIC"),
    (b"\0\0\0\x20ftypisom\0\0", r"a video \(MP4"),
    (b"\x1aE\xdf\xa3\0\0", r"a video \(Matroska"),
    (b"RIFF\0\0\0\0AVI LIST", r"a video \(AVI"),
    (b"%PDF-1.7", "a PDF"),
    (b"<!DOCTYPE html>", "a web page"),
    (b"\x89PNG\r\n\x1a\n\0\0", "PNG that is damaged"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG: "),
  ],
)
def test_a_file_that_is_no_picture_is_named_for_what_it_is(tmp_path, content, meaning):
  (tmp_path / "x.jpg").write_bytes(content)
  with pytest.raises(
    ValueError, match=rf"x\.jpg: expected an image.*bytes of {meaning}"
  ):
    photographs.read(tmp_path / "x.jpg")


def test_only_regular_files_are_read(tmp_path):
  os.mkfifo(tmp_path / "x.jpg")
  for path, kind in ((tmp_path / "x.jpg", "pipe"), ("/dev/zero", "device")):
    with pytest.raises(ValueError, match=f"expected a file, got a {kind}"):
      photographs.read(photographs.pathlib.Path(path))


def test_boxes_become_enlarged_squares_around_the_same_middle():
  boxes = [(10.0, 20.0, 30.0, 60.0)]
  assert photographs.squares(100, 200, boxes, 1.5) == [Box(20.0, 40.0, 60.0)]
  assert photographs.squares(100, 200, None, 1.5) == [Box(100.0, 50.0, 200.0)]
  assert photographs.squares(100, 200, [], 1.5) == []


def test_crop_cuts_the_square_and_is_black_beyond_the_border():
  image = np.zeros((8, 8, 3), np.uint8)
  image[:, :, 0] = np.arange(8) * 10 + 50
  crop = photographs.crop(image, Frame(np.array([6.0, 4.0]), 4.0, 0.0), 4)
  np.testing.assert_array_equal(crop, image[2:6, 4:8])
  outside = photographs.crop(image, Frame(np.array([8.0, 4.0]), 4.0, 0.0), 4)
  np.testing.assert_array_equal(outside[:, :2], image[2:6, 6:8])
  assert not outside[:, 2:].any()
