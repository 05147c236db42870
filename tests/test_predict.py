import json
import pathlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import trimesh

from metro_jax import config as base
from metro_jax import outputs, predict
from metro_jax.body import humanoid, joints
from metro_jax.inference import batch, body_files, parameters, predictor
from metro_jax.inference import boxes as boxes_files
from metro_jax.rendering.overlay import Box

# A tetrahedron that stands for the body, half a metre large, around the origin.
VERTICES_M = np.array(
  [[-0.2, -0.2, 0], [0.2, -0.2, 0], [0, 0.3, 0], [0, 0, 0.2]], np.float32
)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
JOINTS_M = np.linspace(-0.2, 0.2, 14 * 3, dtype=np.float32).reshape(14, 3)
CAMERA = np.array([0.8, 0.1, -0.05], np.float32)
BODY = body_files.Body(VERTICES_M, JOINTS_M, CAMERA, FACES, joints.J14)


def save(path, height=40, width=60):
  image = np.full((height, width, 3), 90, np.uint8)
  cv2.imwrite(str(path), image)
  return path


def fitted(bodies):
  """A made-up fit of the embedded body: everybody stands alike, 2 m away."""
  zeros = np.zeros((1, 3), np.float32)
  pose, betas = np.zeros((1, 69), np.float32), np.ones((1, 10), np.float32)
  away = np.array([[0, 0, 2]], np.float32)
  found = parameters.BodyParameters(zeros, pose, betas, away, np.full(1, 7.5))
  return [body_files.Fitted(humanoid.load(), found) for _ in bodies]


def run(paths, tmp_path, boxes=None, out="out", **options):
  """Predicts the same body everywhere; returns failures and the squares asked for."""
  seen = []

  def fake(image, box):
    seen.append((image.shape, box))
    return BODY

  entries = boxes_files.match(boxes, paths).entries if boxes else None
  folder = outputs.Outputs(tmp_path / out, "predict")
  options = batch.Options(folder, **options)
  jobs = batch.plan(paths, entries, options.contents)
  return batch.predict_all(jobs, fake, options).failures, seen


def test_a_picture_gives_overlay_meshes_and_npz(tmp_path):
  failures, seen = run([save(tmp_path / "a.png")], tmp_path)
  assert failures == []
  assert seen == [((40, 60, 3), Box(30.0, 20.0, 60.0))]  # padded to a square
  names = {path.name for path in (tmp_path / "out").iterdir()} - {outputs.LEDGER}
  assert names == {"a_overlay.jpg", "a.glb", "a.obj", "a.npz"}
  drawn = cv2.imread(str(tmp_path / "out" / "a_overlay.jpg"))
  assert drawn.shape == (40, 60, 3)
  assert np.ptp(drawn[18:22, 28:38]) > 30 and np.ptp(drawn[:, :12]) < 12
  mesh = trimesh.load(tmp_path / "out" / "a.glb", force="mesh", process=False)
  np.testing.assert_allclose(mesh.vertices, VERTICES_M * [1, -1, -1], atol=1e-6)


def test_only_the_files_that_are_asked_for_are_written(tmp_path):
  contents = body_files.Contents(("ply",), ("side", "top"))
  failures, _ = run([save(tmp_path / "a.png")], tmp_path, contents=contents)
  assert failures == []
  names = {path.name for path in (tmp_path / "out").iterdir()} - {outputs.LEDGER}
  assert names == {"a_overlay.jpg", "a.ply", "a.npz", "a_side.jpg", "a_top.jpg"}
  assert cv2.imread(str(tmp_path / "out" / "a_top.jpg")).shape == (512, 512, 3)


def test_pictures_whose_names_are_those_of_views_get_other_ones():
  paths = [pathlib.Path(name) for name in ("a.png", "a_side.png", "a_side_side.png")]
  contents = body_files.Contents((), ("side",))
  jobs = batch.plan(paths, None, contents)
  names = [name for job in jobs for name in job.names.files]
  assert len({*names}) == len(names) == 9


def test_formats_and_views_that_do_not_exist_are_named():
  assert predict.parse_contents(["obj", "obj"], []).suffixes == (".obj", ".npz")
  with pytest.raises(ValueError, match="--formats: expected any of glb, obj, ply, got"):
    predict.parse_contents(["stl"], [])
  with pytest.raises(
    ValueError, match="--views: expected any of side, top, got 'back'"
  ):
    predict.parse_contents([], ["back"])


def test_parameters_go_into_the_npz_and_a_rig_into_the_glb(tmp_path):
  boxes = {"a.png": [(0.0, 0.0, 20.0, 20.0), (30.0, 5.0, 60.0, 35.0)], "none.png": []}
  paths = [save(tmp_path / "a.png"), save(tmp_path / "none.png")]
  failures, _ = run(paths, tmp_path, boxes=boxes, fit=fitted)
  assert failures == []
  with np.load(tmp_path / "out" / "a_2.npz") as stored:
    shapes = {k: stored[k].shape for k in ("global_orient", "body_pose", "betas")}
    assert shapes == {"global_orient": (3,), "body_pose": (69,), "betas": (10,)}
    np.testing.assert_array_equal(stored["transl"], [0, 0, 2])
    assert stored["residual_mm"] == 7.5
    np.testing.assert_array_equal(stored["vertices_m"], VERTICES_M)
  scene = trimesh.load(tmp_path / "out" / "a_2.glb", process=False)
  (mesh,) = scene.geometry.values()
  assert len(mesh.vertices) == 6890
  assert b'"skins"' in (tmp_path / "out" / "a_2.glb").read_bytes()[:20_000]


def test_vertices_take_the_photographs_color(tmp_path):
  path = save(tmp_path / "a.png")
  contents = body_files.Contents(("ply",))
  run([path], tmp_path, contents=contents, photograph_colors=True)
  mesh = trimesh.load(tmp_path / "out" / "a.ply", process=False)
  np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], [[90, 90, 90]] * 4)


def test_a_left_hand_is_predicted_in_a_mirror(monkeypatch):
  # The stand-in of a network says where the brightest column is, as a hand's tip.
  def forward(variables, images):
    column = images[..., 0].mean(1).argmax(-1) / images.shape[1] * 2 - 1
    points = VERTICES_M[None] + np.array([1, 0, 0], np.float32) * column[:, None, None]
    hand = np.zeros((1, 21, 3), np.float32)
    return {"vertices": points, "joints": hand, "camera": CAMERA[None]}

  monkeypatch.setattr(predictor.forward_pass, "make_forward", lambda network: forward)
  body = SimpleNamespace(faces=FACES, joint_names=joints.HAND21, is_hand=True)
  config = base.get_config()
  config.data.image_px = 32
  run = predict.runs.Run(config, SimpleNamespace(body=body), {}, 0)
  image = np.zeros((32, 32, 3), np.uint8)
  image[:, 24] = 255
  box = Box(16.0, 16.0, 32.0)
  right = predict.make_predictor(run)(image, box)
  left = predict.make_predictor(run, mirrored=True)(image[:, ::-1], box)
  np.testing.assert_allclose(left.vertices_m, right.vertices_m * [-1, 1, 1], atol=1e-6)
  np.testing.assert_allclose(left.camera, CAMERA * [1, -1, 1])
  normal = {}
  for name, hand in (("right", right), ("left", left)):
    a, b, c = hand.vertices_m[hand.faces[0]]
    normal[name] = np.cross(b - a, c - a)
  np.testing.assert_allclose(normal["left"], normal["right"] * [-1, 1, 1], atol=1e-6)
  assert left.joint_names == joints.HAND21


def test_the_npz_says_the_camera_in_the_whole_picture(tmp_path):
  boxes = {"a.png": [(10.0, 10.0, 30.0, 20.0)]}
  run([save(tmp_path / "a.png")], tmp_path, boxes=boxes, box_scale=1.5, focal_px=100.0)
  with np.load(tmp_path / "out" / "a.npz") as stored:
    found = dict(stored)
  np.testing.assert_array_equal(found["box_px"], [20, 15, 30])
  np.testing.assert_array_equal(found["image_size_px"], [60, 40])
  assert tuple(found["joint_names"]) == joints.J14
  # A metre is 0.8 * 30 / 2 = 12 px; the origin lands 0.1 m right of the box's middle.
  assert found["scale_px"] == pytest.approx(12.0)
  np.testing.assert_allclose(found["offset_px"], [21.2, 14.4], rtol=1e-6)
  expected_px = 12.0 * JOINTS_M[:, :2] + [21.2, 14.4]
  np.testing.assert_allclose(found["joints_px"], expected_px, rtol=1e-5)
  # The pinhole puts the origin there, too, at the depth where a metre is 12 px.
  x, y, z = found["translation_m"]
  assert z == pytest.approx(100 / 12)
  np.testing.assert_allclose(
    [100 * x / z + 30, 100 * y / z + 20], [21.2, 14.4], rtol=1e-6
  )


def test_the_focal_length_defaults_to_the_diagonal(tmp_path):
  run([save(tmp_path / "a.png", 30, 40)], tmp_path)
  with np.load(tmp_path / "out" / "a.npz") as stored:
    assert stored["focal_px"] == pytest.approx(50.0)


def test_unreadable_pictures_are_named_and_the_others_done(tmp_path, capsys):
  broken = tmp_path / "broken.jpg"
  broken.write_bytes(b"no picture")
  paths = [save(tmp_path / "a.png"), broken, save(tmp_path / "b.png")]
  failures, _ = run(paths, tmp_path)
  assert len(failures) == 1 and "broken.jpg" in failures[0]
  assert "broken.jpg" in capsys.readouterr().err
  out = tmp_path / "out"
  assert (out / "a.npz").exists() and (out / "b.npz").exists()
  assert (out / "contact_sheet.jpg").exists()


def test_several_people_in_a_picture_are_numbered_and_drawn_together(tmp_path):
  boxes = {"a.png": [(0.0, 0.0, 20.0, 20.0), (30.0, 5.0, 60.0, 35.0)], "none.png": []}
  paths = [save(tmp_path / "a.png"), save(tmp_path / "none.png")]
  _, seen = run(paths, tmp_path, boxes=boxes, box_scale=1.0)
  assert [box for _, box in seen] == [Box(10, 10, 20), Box(45, 20, 30)]
  names = {path.name for path in (tmp_path / "out").glob("*.npz")}
  assert names == {"a_1.npz", "a_2.npz"}
  drawn = cv2.imread(str(tmp_path / "out" / "a_overlay.jpg"))
  assert np.ptp(drawn[8:12, 8:14]) > 20 and np.ptp(drawn[18:22, 44:50]) > 20


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
  (tmp_path / "x").mkdir()
  paths = [save(tmp_path / "a.png"), save(tmp_path / "x" / "a.png")]
  assert [job.names.stem for job in batch.plan(paths)] == ["a", "a-2"]
  run(paths, tmp_path)
  assert (tmp_path / "out" / "a-2.glb").exists()


def test_the_contact_sheet_shows_every_picture(tmp_path):
  paths = [save(tmp_path / f"{i}.png") for i in range(6)]
  run(paths, tmp_path)
  sheet = cv2.imread(str(tmp_path / "out" / "contact_sheet.jpg"))
  gap = batch.THUMBNAIL_PX // 32
  assert sheet.shape[1] == 5 * (batch.THUMBNAIL_PX + gap) + gap
  assert sheet.shape[0] == 2 * (batch.THUMBNAIL_PX + gap + 22) + gap


def test_boxes_file_and_prediction_agree_on_names(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps({"b.png": [[0, 0, 10, 10]]}))
  boxes = boxes_files.read(path)
  _, seen = run([save(tmp_path / "b.png")], tmp_path, boxes=boxes, box_scale=1.0)
  assert seen[0][1] == Box(5.0, 5.0, 10.0)
