"""One picture that fails, at any step, leaves the others and its own files alone."""

import errno

import cv2
import numpy as np
import pytest

from metro_jax import outputs
from metro_jax.body import joints
from metro_jax.inference import batch, body_files

VERTICES_M = np.array(
  [[-0.2, -0.2, 0], [0.2, -0.2, 0], [0, 0.3, 0], [0, 0, 0.2]], np.float32
)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
BODY = body_files.Body(
  VERTICES_M,
  np.zeros((14, 3), np.float32),
  np.array([0.8, 0.1, -0.05], np.float32),
  FACES,
  joints.J14,
)


def save(path, height=40, width=60):
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
  return path


def run(paths, folder, predict=lambda image, box: BODY, entries=None):
  options = batch.Options(outputs.Outputs(folder, "predict"))
  return batch.predict_all(batch.plan(paths, entries), predict, options)


def stems(folder):
  return sorted(path.stem for path in folder.glob("*.npz"))


def raising(error, when):
  def call(*args, **options):
    if when(*args):
      raise error
    return BODY

  return call


STEPS = {
  "reading": ("photographs", "read", lambda path, *_: path.stem == "b"),
  "drawing": ("overlay", "overlay", lambda image, *_: image.shape[0] == 41),
  "writing": ("body_files", "write_body", lambda folder, name, *_: name == "b"),
}
ERRORS = [
  ValueError("odd"), OSError(errno.EACCES, "Permission denied"), MemoryError(),
  cv2.error("(-215) odd\n in function"), KeyError("odd"), RuntimeError("odd"),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_step_that_fails_is_one_line(tmp_path, monkeypatch, capsys, step, error):
  paths = [save(tmp_path / f"{name}.png", 40 + (name == "b")) for name in "abc"]
  module, name, when = STEPS[step]
  before = getattr(getattr(batch, module), name)

  def instead(*args, **options):
    if when(*args):
      raise error
    return before(*args, **options)

  monkeypatch.setattr(getattr(batch, module), name, instead)
  report = run(paths, tmp_path / "out")
  assert (report.done, report.kinds) == (2, {step: 1})
  (line,) = report.failures
  assert line.startswith(f"{tmp_path}/b.png: ") and "\n" not in line
  assert capsys.readouterr().err == f"predict: {line}\n"
  assert stems(tmp_path / "out") == ["a", "c"]
  assert not list((tmp_path / "out").glob("b*"))
  assert (tmp_path / "out" / "contact_sheet.jpg").exists()


def test_a_network_that_fails_or_gives_no_numbers_fails_alone(tmp_path):
  paths = [save(tmp_path / f"{i}.png", 40 + i) for i in range(3)]

  def predict(image, box):
    if image.shape[0] == 40:
      raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
    bad = image.shape[0] == 41
    return BODY._replace(vertices_m=VERTICES_M * np.float32(np.nan if bad else 1))

  report = run(paths, tmp_path / "out", predict)
  assert report.kinds == {"predicting": 1, "drawing": 1}
  assert stems(tmp_path / "out") == ["2"]


def test_strips_that_vanish_in_a_thumbnail_are_done(tmp_path):
  sizes = ((40, 33_000), (2, 2_000), (2_000, 2), (1, 1), (40, 60))
  paths = [save(tmp_path / f"{i}.png", *size) for i, size in enumerate(sizes)]
  assert run(paths, tmp_path / "out").failures == []
  assert stems(tmp_path / "out") == ["0", "1", "2", "3", "4"]
  drawn = cv2.imread(str(tmp_path / "out" / "0_overlay.jpg"))
  assert drawn.shape == (40, 33_000, 3)


def test_a_full_disk_ends_the_work_and_says_what_was_not_tried(tmp_path, monkeypatch):
  paths = [save(tmp_path / f"{i}.png") for i in range(5)]
  before, seen = body_files.write_body, []

  def write(folder, name, *rest):
    before(folder, name, *rest)
    if name == "2":
      raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(batch.body_files, "write_body", write)
  monkeypatch.setattr(batch.photographs, "read", read_noting(seen))
  report = run(paths, tmp_path / "out")
  assert report.done == 2 and seen == ["0", "1", "2"]
  assert report.kinds == {"writing": 1, "not tried as the disk is full": 2}
  assert stems(tmp_path / "out") == ["0", "1"]
  assert not list((tmp_path / "out").glob(".*partial"))


def read_noting(seen):
  before = batch.photographs.read

  def read(path, remark):
    seen.append(path.stem)
    return before(path, remark)

  return read


def test_boxes_that_cannot_be_used_are_their_pictures_failure(tmp_path):
  paths = [save(tmp_path / f"{i}.png") for i in range(3)]
  report = run(paths, tmp_path / "out", entries=["a NaN in its box", None, []])
  assert report.failures == [f"{tmp_path}/0.png: a NaN in its box"]
  assert report.done == 2 and stems(tmp_path / "out") == ["1"]


def test_a_folder_that_cannot_be_written_into_ends_before_the_network(tmp_path):
  (tmp_path / "file").touch()
  paths = [save(tmp_path / "a.png")]
  for folder in (tmp_path / "file", tmp_path / "file" / "inner"):
    with pytest.raises(OSError):
      run(paths, folder, raising(AssertionError(), lambda *_: True))


def test_nothing_of_the_users_is_replaced_and_no_picture_before_it(tmp_path):
  paths = [save(tmp_path / f"{name}.jpg") for name in ("p", "q_overlay", "q")]
  (tmp_path / "p.obj").write_text("the user's own scan")
  kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
  for chosen in (paths[:1], paths[1:], paths):
    with pytest.raises(FileExistsError, match="No file was replaced"):
      run(chosen, tmp_path)
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_a_contact_sheet_that_fails_is_said_and_the_pictures_stay(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(
    batch.overlay, "contact_sheet", raising(MemoryError(), lambda *_: True)
  )
  report = run([save(tmp_path / f"{i}.png") for i in range(2)], tmp_path / "out")
  assert report.done == 2 and report.kinds == {"contact sheet": 1}
  assert "contact_sheet.jpg: MemoryError" in report.failures[0]


def test_the_npz_names_its_picture_also_where_names_were_numbered(tmp_path):
  paths = [save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "a.png")]
  run(paths, tmp_path / "out")
  for stem, path in zip(("a", "a-2"), paths, strict=True):
    with np.load(tmp_path / "out" / f"{stem}.npz") as stored:
      assert str(stored["picture"]) == str(path)
