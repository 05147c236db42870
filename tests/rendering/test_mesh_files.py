import numpy as np
import pytest
import trimesh

from metro_jax.rendering import gltf, mesh_files

# A tetrahedron in the camera frame; face 0 looks away from its last corner.
VERTICES_M = np.array([[0, 0, 0], [1, 0, 0], [0, 0.5, 0], [0, 0, 0.25]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], np.int32)
TURNED_M = np.array([[0, 0, 0], [1, 0, 0], [0, -0.5, 0], [0, 0, -0.25]], np.float32)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_viewer_files_hold_the_mesh_y_up_in_metres_and_in_order(tmp_path, kind):
  path = tmp_path / f"mesh.{kind}"
  write = getattr(mesh_files, f"write_{kind}")
  write(path, VERTICES_M, FACES)
  mesh = trimesh.load(path, force="mesh", process=False)
  np.testing.assert_allclose(mesh.vertices, TURNED_M, atol=1e-6)
  np.testing.assert_array_equal(mesh.faces, FACES)
  assert mesh.volume == pytest.approx(1 * 0.5 * 0.25 / 6)  # still wound outwards
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_glb_carries_a_color_and_smooth_normals(tmp_path):
  path = tmp_path / "mesh.glb"
  mesh_files.write_glb(path, VERTICES_M, FACES)
  mesh = trimesh.load(path, force="mesh", process=False)
  assert tuple(mesh.visual.vertex_colors[0]) == gltf.SKIN_RGBA
  header = path.read_bytes()[:2000]
  assert header[:4] == b"glTF" and b'"NORMAL"' in header


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_given_colors_are_written_and_no_others(tmp_path, kind):
  write, path = getattr(mesh_files, f"write_{kind}"), tmp_path / f"mesh.{kind}"
  colors = np.uint8([[200, 100, 50], [0, 0, 0], [255, 255, 255], [1, 2, 3]])
  write(path, VERTICES_M, FACES, colors)
  mesh = trimesh.load(path, force="mesh", process=False)
  np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3], colors, atol=1)
  write(path, VERTICES_M, FACES)
  assert not trimesh.load(path, force="mesh", process=False).visual.defined


def test_npz_reads_back_without_pickle(tmp_path):
  path = tmp_path / "person.npz"
  camera = np.array([0.9, 0.1, -0.2], np.float32)
  mesh_files.write_npz(
    path,
    VERTICES_M,
    VERTICES_M[:2],
    ("Neck", "Head"),
    camera,
    FACES,
    extra={"box_px": np.array([1.0, 2.0, 3.0])},
  )
  with np.load(path, allow_pickle=False) as stored:
    assert list(stored["joint_names"]) == ["Neck", "Head"]
    np.testing.assert_array_equal(stored["vertices_m"], VERTICES_M)
    np.testing.assert_array_equal(stored["joints_m"], VERTICES_M[:2])
    np.testing.assert_array_equal(stored["camera"], camera)
    np.testing.assert_array_equal(stored["faces"], FACES)
    np.testing.assert_array_equal(stored["box_px"], [1.0, 2.0, 3.0])


def test_npz_refuses_joints_without_names_and_names_taken_twice(tmp_path):
  def write(names, extra):
    mesh_files.write_npz(
      tmp_path / "x.npz", VERTICES_M, VERTICES_M, names, np.ones(3), FACES, extra
    )

  with pytest.raises(ValueError, match="expected 4 joint names, got 1"):
    write(["Neck"], None)
  with pytest.raises(ValueError, match="camera"):
    write(list("abcd"), {"camera": np.zeros(3)})
