"""The Python API: a network from anywhere, people from any picture."""

import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

import metro_jax
from metro_jax import export
from metro_jax.body import body_model, camera, humanoid
from metro_jax.checkpoints import runs
from metro_jax.exporting import card
from metro_jax.inference import sources
from metro_jax.outputs import Outputs
from metro_jax.weights import weight_files

PHOTOGRAPHS = sorted(
  (pathlib.Path(__file__).parents[2] / "configs" / "photographs").glob("*.jpg")
)


@pytest.fixture(scope="module")
def network():
  return metro_jax.load()


@pytest.fixture(scope="module")
def person(network):
  return network(PHOTOGRAPHS[0])[0]


def test_importing_the_package_loads_neither_jax_nor_numpy():
  code = "import metro_jax, sys; print({'jax', 'numpy'} & set(sys.modules))"
  done = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  assert done.stdout.strip() == "set()"


def test_a_batch_over_pictures_gives_what_each_picture_gives_alone(network, person):
  together = network(list(PHOTOGRAPHS[:3]))
  assert [len(people) for people in together] == [1, 1, 1]
  np.testing.assert_allclose(together[0][0].vertices, person.vertices, atol=2e-4)
  alone = network(PHOTOGRAPHS[2])[0]
  np.testing.assert_allclose(together[2][0].vertices, alone.vertices, atol=2e-4)


def test_boxes_place_each_person_where_a_crop_made_by_hand_does(network):
  image = cv2.imread(str(PHOTOGRAPHS[0]))[..., ::-1]
  height, width = image.shape[:2]
  wide = np.zeros((height + 60, 3 * width, 3), np.uint8)
  wide[30 : 30 + height, width : 2 * width] = image
  side = max(width, height)
  left, top = width + (width - side) / 2, 30 + (height - side) / 2
  box = (left, top, left + side, top + side)
  (found,) = network(wide, [box], box_scale=1.0)
  (alone,) = network(np.ascontiguousarray(image))
  for name, px in alone.joints_px.items():
    np.testing.assert_allclose(
      found.joints_px[name], px + np.array([width, 30]), atol=1.0
    )


def test_all_three_cameras_send_joints_to_the_same_pixels(person):
  points = np.stack(list(person.joints.values())).astype(np.float64)
  wanted = np.stack(list(person.joints_px.values()))
  scale_px, offset_px = person.camera.picture
  np.testing.assert_allclose(scale_px * points[:, :2] + offset_px, wanted, atol=1e-3)
  in_box = camera.weak_perspective(points, person.camera.crop)
  box = person.box
  px = (in_box + 1) / 2 * box.side + np.array([box.center_x, box.center_y])
  np.testing.assert_allclose(px - box.side / 2, wanted, atol=1e-3)
  # Perspective agrees exactly at the origin's depth only.
  seen = points * [1, 1, 0] + person.camera.pinhole.translation_m
  middle = np.array(cv2.imread(str(PHOTOGRAPHS[0])).shape[1::-1]) / 2
  flat = person.camera.pinhole.focal_px * seen[:, :2] / seen[:, 2:] + middle
  np.testing.assert_allclose(flat, wanted, atol=0.01)


def test_parameters_pose_the_body_model_as_the_mesh_is(network, person):
  found = person.parameters()
  shapes = {name: value.shape for name, value in found.items()}
  assert shapes == {
    "global_orient": (3,), "body_pose": (69,), "betas": (10,), "transl": (3,),
    "residual_mm": (),
  }  # fmt: skip
  pose = np.concatenate([found["global_orient"], found["body_pose"]])[None]
  posed = body_model.pose_body(humanoid.load(), pose, found["betas"][None])
  # smplx adds transl after posing about the pelvis's own place.
  gap_m = posed.vertices[0] + found["transl"] - person.vertices
  gaps_mm = 1000 * np.linalg.norm(gap_m, axis=-1)
  assert gaps_mm.mean() == pytest.approx(found["residual_mm"], rel=0.02)
  assert gaps_mm.mean() < 40
  assert person.parameters() is not found  # a caller may change what it got


def test_an_overlay_has_the_size_of_the_picture_and_another_size_is_refused(person):
  drawn = person.overlay(PHOTOGRAPHS[0])
  image = cv2.imread(str(PHOTOGRAPHS[0]))[..., ::-1]
  assert drawn.shape == image.shape
  changed = np.abs(drawn.astype(int) - image).max(-1) > 20
  assert 0.05 < changed.mean() < 0.6
  with pytest.raises(ValueError, match=r"overlay: expected .* px .*got \(9, 9\)"):
    person.overlay(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize(
  ("image", "boxes", "said"),
  [
    (np.zeros((9, 9), np.uint8), None, r"RGB array \(h, w, 3\) of uint8, got \(9, 9\)"),
    (np.zeros((9, 9, 3)), None, r"of uint8, got \(9, 9, 3\) float64"),
    (np.zeros((9, 9, 3), np.uint8), [(5, 5, 4, 9)], "left < right"),
    ([np.zeros((9, 9, 3), np.uint8)], [], "a list for each of the 1 pictures, got 0"),
    ("nowhere.jpg", None, "nowhere.jpg"),
  ],
)
def test_what_is_no_picture_or_no_box_is_one_clear_error(network, image, boxes, said):
  with pytest.raises(ValueError, match=said):
    network(image, boxes)


def test_a_network_of_bodies_has_no_left_side(network):
  with pytest.raises(ValueError, match="side: expected right of a network of bodies"):
    metro_jax.load(side="left")
  with pytest.raises(ValueError, match="side: expected one of right, left, got 'both'"):
    metro_jax.load(side="both")


@pytest.mark.parametrize("form", ["safetensors", "npz", "stablehlo"])
def test_an_exported_folder_is_a_source(tmp_path, form):
  run = runs.load("embedded")
  if form == "stablehlo":  # its program is tested elsewhere; the files beside it matter
    with Outputs(tmp_path, "export").adding() as made:
      weight_files.write(made / "parameters.npz", export.flatten(run.variables))
      card.write(run, made, card.Choice(form))
  else:
    export.export(run, tmp_path, card.Choice(form))
  again = sources.load_run(tmp_path)
  wanted, got = export.flatten(run.variables), export.flatten(again.variables)
  assert wanted.keys() == got.keys()
  assert all(np.array_equal(wanted[name], got[name]) for name in wanted)
  assert again.step == run.step and again.config == run.config


def test_weights_alone_ask_for_a_config(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(b"")
  with pytest.raises(FileNotFoundError, match="weights together with a config"):
    metro_jax.load(path)
