"""Whole videos through a stand-in of a network: files, people, failures."""

import json
import struct

import cv2
import numpy as np
import pytest

from metro_jax import outputs
from metro_jax.body import body_model, humanoid, joints
from metro_jax.inference import batch, body_files, parameters, video_batch, videos

av = pytest.importorskip("av")
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
VERTICES_M = np.array(
  [[-0.2, -0.9, 0], [0.2, -0.9, 0], [0, 0.9, 0], [0, 0, 0.2]], np.float32
)
FPS, SIZE_PX = 25.0, (320, 160)


def person(frame, first):
  """Where a walker is: the left one walks right, the right one left."""
  return (30 + 2.5 * frame) if first else (290 - 2.5 * frame)


def save(path, frames, people=(True, False)):
  """Walkers as white bars, 12 px x 80 px."""
  with videos.Writer(path, FPS) as writer:
    for n in range(frames):
      image = np.full((SIZE_PX[1], SIZE_PX[0], 3), 60, np.uint8)
      for first in people:
        x = round(person(n, first))
        image[40:120, x - 6 : x + 6] = 250 if first else 200
      writer.add(image, n / FPS)
  return path


def boxes_of(frames, hidden=()):
  for n in range(frames):
    yield [
      (person(n, first) - 6.0, 40.0, person(n, first) + 6.0, 120.0)
      for first in ((n % 2 == 0), (n % 2 != 0))  # in changing order
      if (n, first) not in hidden
    ]


def look(images, boxes):
  """Sees the brightest column of a square as a body 1.8 m tall that fills 80 px."""
  found = []
  for image, box in zip(images, boxes, strict=True):
    half = box.side / 2
    low, high = (round(max(0, box.center_x + sign * half)) for sign in (-1, 1))
    columns = np.flatnonzero(image[80, low:high, 0] > 150)
    x = low + columns.mean() + 0.5 if len(columns) else box.center_x
    scale_px = 80 / 1.8
    camera = np.array(
      [scale_px / half, (x - box.center_x) / scale_px, (80 - box.center_y) / scale_px],
      np.float32,
    )
    places = np.linspace(-0.9, 0.9, 14)[:, None] * [0.0, 1.0, 0.0]
    found.append(
      body_files.Body(VERTICES_M, places.astype(np.float32), camera, FACES, joints.J14)
    )
  return found


def run(paths, folder, find=None, smoothing=1.0, fit=None, predict=look):
  options = batch.Options(outputs.Outputs(folder, "predict"), fit=fit)
  entries = None if find is None else [[] for _ in paths]
  jobs = batch.plan(paths, entries)
  clips = [video_batch.Clip(job.path, find, job.names) for job in jobs]
  report = batch.Report()
  done = video_batch.predict_all(clips, predict, options, report, smoothing)
  return done, report


def test_two_people_who_cross_keep_their_files(tmp_path):
  hidden = {(n, False) for n in range(47, 57)}  # behind the other for ten frames
  path = save(tmp_path / "walk.mp4", 104)
  find = video_batch.in_turn(boxes_of(104, hidden))
  done, report = run([path], tmp_path / "out", find, smoothing=0.0)
  assert (done.videos, done.frames, done.people, report.failures) == (1, 104, 2, [])
  names = {path.name for path in (tmp_path / "out").iterdir()} - {outputs.LEDGER}
  assert names == {"walk_overlay.mp4", "walk_1.npz", "walk_2.npz"}
  for name, first, count in (("walk_1", True, 104), ("walk_2", False, 94)):
    with np.load(tmp_path / "out" / f"{name}.npz") as stored:
      assert stored["vertices_m"].shape == (count, 4, 3)
      expected = [person(n, first) for n in stored["frames"]]
      apart = np.abs(stored["box_px"][:, 0] - expected)
      assert apart.max() < 1e-6
      np.testing.assert_allclose(stored["times_s"], stored["frames"] / FPS, atol=1e-3)
      assert stored["joints_px"].shape == (count, 14, 2)
  with videos.Reader(tmp_path / "out" / "walk_overlay.mp4") as reader:
    frames = list(reader)
  assert len(frames) == 104 and frames[0].image.shape == (160, 320, 3)


def test_one_person_is_followed_without_boxes(tmp_path):
  path = save(tmp_path / "a.mp4", 80, people=(True,))
  done, report = run([path], tmp_path / "out")
  assert (done.frames, done.people, report.failures) == (80, 1, [])
  with np.load(tmp_path / "out" / "a.npz") as stored:
    x_px = stored["joints_px"][:, :, 0].mean(axis=1)
    box = stored["box_px"]
  expected = np.array([person(n, True) for n in range(80)])
  np.testing.assert_array_equal(box[0], [160, 80, 320])  # the whole picture
  np.testing.assert_allclose(box[2:, 2], 1.2 * 80, rtol=0.02)  # around the joints
  lag_px = (expected - x_px)[20:]
  assert np.abs(lag_px).max() < 2 * 2.5  # two frames of the walk


def test_smoothing_calms_the_camera_of_jumping_boxes(tmp_path):
  rng = np.random.default_rng(0)

  def trembling(images, boxes):
    made = look(images, boxes)
    return [
      body._replace(
        joints_m=body.joints_m + rng.normal(0, 0.01, (14, 3)).astype(np.float32),
        camera=body.camera * rng.normal(1, 0.01, 3).astype(np.float32),
      )
      for body in made
    ]

  def still(frame):
    moved = rng.normal(0, 2, 2)
    return [(24.0 + moved[0], 40.0, 36.0 + moved[0], 120.0 + moved[1])]

  path = tmp_path / "a.mp4"
  with videos.Writer(path, FPS) as writer:
    for n in range(60):
      image = np.full((SIZE_PX[1], SIZE_PX[0], 3), 60, np.uint8)
      image[40:120, 24:36] = 250
      writer.add(image, n / FPS)
  jitter = {}
  for strength in (0.0, 1.0):
    out = tmp_path / f"out{strength}"
    run([path], out, still, strength, predict=trembling)
    with np.load(out / "a_1.npz") as stored:
      moves = np.diff(stored["joints_px"][25:], axis=0)
    jitter[strength] = np.linalg.norm(moves, axis=-1).mean()
  assert jitter[1.0] <= 0.5 * jitter[0.0]


def test_a_track_has_one_shape_and_an_animation_with_its_times(tmp_path):
  body = humanoid.load()

  def fit(bodies):
    zeros = np.zeros((1, 3), np.float32)
    shapes = [np.full((1, 10), one.camera[1], np.float32) for one in bodies]
    pose, left = np.zeros((1, 69), np.float32), np.zeros(1, np.float32)
    return [
      body_files.Fitted(
        body, parameters.BodyParameters(zeros, pose, shape, zeros, left)
      )
      for shape in shapes
    ]

  def see(images, boxes):
    made = look(images, boxes)
    return [one._replace(vertices_m=body.template.astype(np.float32)) for one in made]

  path = save(tmp_path / "a.mp4", 8, people=(True,))
  done, report = run([path], tmp_path / "out", fit=fit, predict=see)
  assert (done.people, report.failures) == (1, [])
  data = (tmp_path / "out" / "a.glb").read_bytes()
  (length,) = struct.unpack_from("<I", data, 12)
  content = json.loads(data[20 : 20 + length])
  clock = content["accessors"][content["animations"][0]["samplers"][0]["input"]]
  assert clock["count"] == 8 and clock["max"] == pytest.approx([7 / FPS], abs=1e-3)
  assert "Frames: 8" in (tmp_path / "out" / "a.bvh").read_text()
  with np.load(tmp_path / "out" / "a.npz") as stored:
    assert stored["betas"].shape == (10,) and stored["body_pose"].shape == (8, 69)
    pose = np.concatenate([stored["global_orient"], stored["body_pose"]], axis=1)
    posed = body_model.pose_body(body, pose[:1], stored["betas"][None])
    away = posed.vertices + stored["transl"][:1, None] - stored["vertices_m"][:1]
    away_mm = 1000 * np.linalg.norm(away, axis=-1).mean()
    np.testing.assert_allclose(stored["residual_mm"][0], away_mm, atol=0.02)


def test_a_body_of_one_shape_is_fitted_in_its_pose_alone():
  body, rng = humanoid.load(), np.random.default_rng(0)
  betas = rng.normal(size=10).astype(np.float32)
  pose = rng.normal(0, 0.2, (1, 72)).astype(np.float32)
  vertices = body_model.pose_body(body, pose, betas[None]).vertices
  one = parameters.with_shape(body, betas)
  found = parameters.make_padded_fit(one)(vertices.astype(np.float32))
  np.testing.assert_array_equal(found.betas, 0)
  assert found.residual_mm[0] < 0.5


def test_videos_that_fail_leave_the_others_and_no_files(tmp_path, capsys):
  good = save(tmp_path / "good.mp4", 6, people=(True,))
  bad = tmp_path / "bad.mp4"
  bad.write_bytes(b"nothing")
  breaks = save(tmp_path / "breaks.mp4", 6, people=(True,))
  calls = []

  def predict(images, boxes):
    calls.append(len(images))
    if len(calls) == 3:
      raise RuntimeError("odd")
    return look(images, boxes)

  out = tmp_path / "out"
  done, report = run([bad, breaks, good], out, predict=predict)
  assert (done.videos, report.kinds) == (1, {"reading": 1, "predicting": 1})
  assert len(report.failures) == 2
  assert len([x for x in capsys.readouterr().err.splitlines() if "predict:" in x]) == 2
  names = {path.name for path in out.iterdir()} - {outputs.LEDGER}
  assert names == {"good_overlay.mp4", "good.npz"}


def test_names_of_videos_and_pictures_do_not_meet(tmp_path):
  paths = [tmp_path / name for name in ("a.mp4", "a.jpg", "a_1.jpg", "b.mov")]
  jobs = batch.plan(paths, [[], None, None, None])
  names = [name for job in jobs for name in job.names.files]
  assert len({*names}) == len(names)
  assert jobs[0].names.overlay == "a_overlay.mp4"
  assert jobs[3].names.people == ("b",)


def test_nobody_gives_the_video_alone(tmp_path):
  path = save(tmp_path / "a.mp4", 4)
  done, report = run([path], tmp_path / "out", lambda frame: [])
  assert (done.frames, done.people, report.failures) == (4, 0, [])
  assert (tmp_path / "out" / "a_overlay.mp4").exists()


def test_drawn_people_are_in_the_overlay(tmp_path):
  path = save(tmp_path / "a.mp4", 4, people=(True,))
  run([path], tmp_path / "out", video_batch.in_turn(boxes_of(4, {(0, False)})))
  with videos.Reader(tmp_path / "out" / "a_overlay.mp4") as reader:
    drawn = next(iter(reader)).image
  with videos.Reader(path) as reader:
    plain = next(iter(reader)).image
  changed = cv2.absdiff(drawn, plain).max(axis=-1) > 30
  assert changed[60:80, 26:34].mean() > 0.5 and changed[:, 100:].mean() < 0.02
