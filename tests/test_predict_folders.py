"""Made-up folders of pictures through the whole command; the network is a stand-in.

Its bodies say what they were made of: the first joint is the picture's mean colour, and
the npz says picture and square. So a result that is lost, mixed or of another picture
shows, whatever the names are.
"""

import errno
import json
import os
import pathlib
import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from metro_jax import predict
from metro_jax.body import joints
from metro_jax.inference import body_files, videos

VERTICES_M = np.array(
  [[-0.2, -0.2, 0], [0.2, -0.2, 0], [0, 0.3, 0], [0, 0, 0.2]], np.float32
)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
CAMERA = np.array([0.8, 0.1, -0.05], np.float32)
STEMS = (
  "a", "A", "a_1", "a_2", "a_1_1", "a-2", "a_overlay", "contact_sheet", "b", "b_1",
  "café", "cafe\u0301", "straße", "strasse", "two  spaces", "new\nline", ".hidden",
  "l" * 240, "l" * 243 + "x", "é" * 120, "\udce9", "人物", "%s{}", "-x", "~x", "a.b",
)  # fmt: skip
SUFFIXES = (".jpg", ".png", ".JPG", ".jpeg", ".bmp", ".webp", ".tif")
SIZES = ((1, 1), (1, 50), (2, 2_000), (33_000, 40), (40, 33_000), (70, 3))
BAD = ("text", "empty", "heic", "cut", "pipe", "broken link")
OTHERS = ("clip.mp4", "IMG.HEIC", "notes.txt", "raw.CR2", "Thumbs.db", "labels.json")


class Made:
  """A folder to predict from, and what must come of it."""

  def __init__(self, root: pathlib.Path, rng: random.Random):
    self.root, self.rng = root, rng
    self.good: dict[pathlib.Path, tuple[int, int, int]] = {}  # height, width, grey
    self.bad: list[pathlib.Path] = []
    self.folders = [root / "in", *([root / "in2"] if rng.random() < 0.5 else [])]
    self.outside = root / "outside"
    self.outside.mkdir()
    for folder in self.folders:
      folder.mkdir()
      for stem in rng.sample(STEMS, rng.randint(1, 6)):
        self._picture(folder, stem + rng.choice(SUFFIXES))
      for name in rng.sample(OTHERS, rng.randint(0, 3)):
        (folder / name).write_bytes(b"other")
      if rng.random() < 0.2:
        (folder / "folder.jpg").mkdir()
    self._output()
    self._boxes()

  def _picture(self, folder, name):
    path, rng = folder / name, self.rng
    if len(os.fsencode(name)) > 255:
      return
    if rng.random() < 0.2:
      self.bad.append(path)
      self._bad_picture(path, rng.choice(BAD))
      return
    odd = rng.random() < 0.1
    height, width = (
      rng.choice(SIZES) if odd else (rng.randint(8, 60), rng.randint(8, 60))
    )
    if max(height, width) > 16_000 and path.suffix.lower() == ".webp":
      return  # more than the format has
    grey = rng.randint(0, 255)
    turned = rng.choice((1, 3, 6, 8)) if path.suffix.lower() in (".jpg", ".jpeg") else 1
    exif = Image.Exif()
    exif[0x0112] = turned
    place = self.outside / f"{len(self.good)}.x" if rng.random() < 0.1 else path
    image = Image.fromarray(np.full((height, width, 3), grey, np.uint8))
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF"}
    kind = kinds.get(path.suffix.lower(), path.suffix[1:].upper())
    image.save(place, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    if kind == "JPEG" and rng.random() < 0.2:
      place.write_bytes(place.read_bytes()[:-2])  # no end marker
    if place != path:
      path.symlink_to(place)
    size = (width, height) if turned in (6, 8) else (height, width)
    self.good[path] = (*size, grey)

  def _bad_picture(self, path, kind):
    if kind == "pipe":
      os.mkfifo(path)
    elif kind == "broken link":
      path.symlink_to(self.outside / "nowhere.jpg")
    else:
      whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(
        0, 255, (40, 40, 3), np.uint8))[1].tobytes()  # fmt: skip
      heic = b"\0\0\0\x18ftypheic" + bytes(50)
      content = {"text": b"no picture", "empty": b"", "heic": heic, "cut": whole[:-200]}
      path.write_bytes(content[kind])

  def _output(self):
    self.output = self.rng.choice([self.root / "out", *self.folders])
    if self.rng.random() < 0.3:
      self.output.mkdir(exist_ok=True)
      (self.output / "own.npz").write_text("the user's")
      stem = self.rng.choice(["a", "a_1", "b", "other"])
      place = self.output / f"{stem}{self.rng.choice(['.obj', '_overlay.jpg'])}"
      if not os.path.lexists(place):
        place.write_bytes(b"the user's")
        if place.suffix == ".jpg" and self.output in self.folders:
          self.bad.append(place)

  def _boxes(self):
    """Boxes for some pictures, by one of the ways to name each."""
    self.people: dict[pathlib.Path, list | str | None] = dict.fromkeys(self.good)
    self.boxes = self.root / "boxes.json"
    if self.rng.random() < 0.4:
      self.boxes = None
      return
    content = {}
    everything = [*self.good, *self.bad]
    bare = [alike(path.name) for path in everything]
    for path, (height, width, _) in self.good.items():
      if self.rng.random() < 0.3 or "\udce9" in path.name:
        continue
      people = [self._box(height, width) for _ in range(self.rng.randint(0, 3))]
      self.people[path] = [box[:4] for box in people]
      if self.rng.random() < 0.1:
        people, self.people[path] = [[1, 2, float("nan"), 4]], "refused"
      keys = [str(path), f"{path.parent.name}/{path.name}"]
      keys.append(f"{path.parent.name}\\{path.name}")
      if bare.count(alike(path.name)) == 1:
        keys.append(path.name)
      content[self.rng.choice(keys)] = people
    if "refused" in self.people.values() or not content:
      content["good.jpg"] = []  # of no picture; and a file with a good entry
    self.fits = any(entry is not None for entry in self.people.values())
    self.boxes.write_text(json.dumps(content), encoding="utf-8")

  def _box(self, height, width):
    left, top = self.rng.uniform(-9, width), self.rng.uniform(-9, height)
    box = [left, top, left + self.rng.uniform(1, 40), top + self.rng.uniform(1, 40)]
    return box + ([0.5] if self.rng.random() < 0.3 else [])


def alike(name):
  return name.replace("e\u0301", "é")


def stand_in(image, box):
  points = np.zeros((14, 3), np.float32)
  points[0] = image.mean()
  return body_files.Body(VERTICES_M, points, CAMERA, FACES, joints.J14)


def snapshot(*folders):
  found = {}
  for folder in folders:
    for path in sorted(folder.rglob("*")):
      plain = path.is_file() and not path.is_symlink()
      found[path] = path.read_bytes() if plain else path.lstat().st_ino
  return found


@pytest.fixture
def command(monkeypatch):
  """Runs the command on a made folder; its error, or its exit code."""
  body = SimpleNamespace(is_hand=False)
  loaded = SimpleNamespace(network=SimpleNamespace(body=body))
  monkeypatch.setattr(predict.runs, "load", lambda *_: loaded)
  monkeypatch.setattr(predict, "make_predictor", lambda *_: stand_in)
  monkeypatch.setattr(videos, "can_read", lambda: False)  # videos have their own tests

  def run(made):
    boxes = str(made.boxes) if made.boxes else None
    flags = {"workdir": "w", "checkpoint": "best", "output": str(made.output)}
    flags |= {"boxes": boxes, "box_scale": 1.0, "focal_px": 0.0}
    flags |= {"hand": "right", "passes": 0, "smoothing": 0.0, "parameters": False}
    flags |= {"formats": ["glb", "obj"], "views": [], "colors": "plain"}
    monkeypatch.setattr(predict, "FLAGS", SimpleNamespace(**flags))
    try:
      return predict.main([str(folder) for folder in made.folders])
    except (ValueError, OSError) as error:
      return str(error)

  return run


def expected_results(made, left_out=()):
  """(picture, square, grey) of every person who must be there."""
  for path, (height, width, grey) in made.good.items():
    people = made.people[path]
    if people == "refused" or path in left_out:
      continue
    if people is None:
      yield str(path), (width / 2, height / 2, max(height, width)), grey
      continue
    for left, top, right, bottom in people:
      side = max(right - left, bottom - top)
      yield str(path), ((left + right) / 2, (top + bottom) / 2, side), grey


def stored_results(folder):
  for path in folder.glob("*.npz"):
    if path.name == "own.npz":
      continue
    with np.load(path) as found:
      square = tuple(map(float, found["box_px"]))
      yield str(found["picture"]), square, float(found["joints_m"][0, 0])


def as_rows(results):
  return sorted(
    (p, *(round(x, 2) for x in square), round(g)) for p, square, g in results
  )


def check(made, command, capfd):
  before = snapshot(made.root)
  code = command(made)
  said = capfd.readouterr()
  after = snapshot(made.root)
  assert "Traceback" not in said.out + said.err
  assert all(after[path] == content for path, content in before.items())
  if isinstance(code, str):
    assert "\n" not in code and after.keys() == before.keys()
    assert refused_rightly(made, code, before), code
    return
  new = after.keys() - before.keys()
  assert {path.parent for path in new} - {made.output} <= {made.output.parent}
  assert not any(path.name.endswith(".partial") for path in new)
  refused = [path for path, entry in made.people.items() if entry == "refused"]
  failed = [*made.bad, *refused]
  assert code == (1 if failed else 0)
  lines = [line for line in said.err.splitlines() if line.startswith("predict: ")]
  for path in failed:
    shown = predict.printable(f"predict: {path}: ")
    assert sum(line.startswith(shown) for line in lines) == 1, (shown, lines)
  assert as_rows(stored_results(made.output)) == as_rows(expected_results(made))
  done = len(made.good) - len(refused)
  assert f"Predicted {done} of {len(made.good) + len(made.bad)} pictures" in said.out
  overlays = [path for path in new if path.name.endswith("_overlay.jpg")]
  assert len(overlays) == done
  again(made, command, code, after, capfd)


def again(made, command, code, before, capfd):
  """A second run takes no file of the first for a picture and gives the same."""
  assert command(made) == code
  assert f"of {len(made.good) + len(made.bad)} pictures" in capfd.readouterr().out
  after = snapshot(made.root)
  assert after.keys() == before.keys()
  same = {path for path, content in before.items() if after[path] == content}
  assert {path.suffix for path in before.keys() - same} <= {".npz", ".jsonl"}


def refused_rightly(made, said, before):
  if "No file was replaced" in said:
    shown = said.partition(": expected no file")[0]
    taken = {predict.printable(str(path)) for path in before}
    return predict.printable(shown) in taken and os.fspath(made.output) in shown
  if "means no picture" in said:
    return made.boxes and not made.fits
  several = "means several pictures" in said or "both mean the picture" in said
  return said.startswith("pictures: ") if not several else made.boxes


def check_full_disk(made, command, capfd, monkeypatch):
  """The disk is full at some write: what was done before is whole, and all is said."""
  before, written = snapshot(made.root), []
  last, write = made.rng.randint(0, 4), body_files.write_body

  def write_body(folder, name, *rest):
    written.append(name)
    if len(written) > last:
      (folder / f"{name}.glb").write_bytes(b"half")
      raise OSError(errno.ENOSPC, "No space left on device")
    write(folder, name, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(body_files, "write_body", write_body)
    code = command(made)
  said, after = capfd.readouterr(), snapshot(made.root)
  assert all(after[path] == content for path, content in before.items())
  if isinstance(code, str):
    assert refused_rightly(made, code, before)
    return
  expected = as_rows(expected_results(made))
  found = as_rows(stored_results(made.output))
  assert len(written) > last or found == expected
  for picture in {row[0] for row in found}:  # all of its people, or none
    everybody = [row for row in expected if row[0] == picture]
    assert [row for row in found if row[0] == picture] == everybody
  if len(written) > last:
    assert code == 1 and said.err.count("No space left on device") == 1
    assert len(written) == last + 1  # none was tried after
    assert not any(content == b"half" for content in after.values())


def walk(tmp_path, command, capfd, monkeypatch, seeds):
  for seed in seeds:
    for kind in ("whole", "full"):
      (tmp_path / f"{seed}{kind}").mkdir()
    check(Made(tmp_path / f"{seed}whole", random.Random(seed)), command, capfd)
    if seed % 4 == 0:
      made = Made(tmp_path / f"{seed}full", random.Random(seed))
      check_full_disk(made, command, capfd, monkeypatch)


def test_folders_of_all_kinds_quick(tmp_path, command, capfd, monkeypatch):
  walk(tmp_path, command, capfd, monkeypatch, range(14))


@pytest.mark.slow
def test_folders_of_all_kinds(tmp_path, command, capfd, monkeypatch):
  walk(tmp_path, command, capfd, monkeypatch, range(1_000, 2_000))
