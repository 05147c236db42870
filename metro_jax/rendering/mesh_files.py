"""Meshes as files: GLB, OBJ and PLY for viewers, npz for programs; metres everywhere.

npz keeps the camera frame (x right, y down, z away from the camera). Viewers expect
y up, so GLB, OBJ and PLY hold the mesh turned by 180 degrees about x: (x, y, z) ->
(x, -y, -z). There x is still the picture's right, y is up and z points at the viewer;
a person who faced the camera faces the viewer.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt8

from metro_jax import files
from metro_jax.body import camera
from metro_jax.rendering import gltf

if TYPE_CHECKING:
  import trimesh

Colors: TypeAlias = UInt8[np.ndarray, "v 3"]


def write_glb(
  path: str | os.PathLike[str],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  colors: Colors | None = None,
) -> None:
  """Writes a binary glTF file with smooth normals; y up, metres.

  Args:
    path: Ends in .glb; its folder must exist.
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, counter-clockwise seen from outside.
    colors: sRGB of each vertex; by default all have one colour.
  """
  gltf.write_mesh(path, camera.to_y_up(vertices_m), faces, colors)


def write_obj(
  path: str | os.PathLike[str],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  colors: Colors | None = None,
) -> None:
  """Writes a Wavefront file that keeps the order of the vertices; y up, metres.

  Args:
    path: Ends in .obj; its folder must exist.
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, counter-clockwise seen from outside.
    colors: sRGB of each vertex, behind its coordinates; by default none is written.
  """
  mesh = _mesh(vertices_m, faces, colors)
  header = "metro_jax mesh; metres, y up, z towards the viewer"
  _export(path, mesh, "obj", include_normals=False, header=header, digits=6)


def write_ply(
  path: str | os.PathLike[str],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  colors: Colors | None = None,
) -> None:
  """Writes a binary Stanford file; as `write_obj`.

  Args:
    path: Ends in .ply; its folder must exist.
    vertices_m: Camera frame, metres.
    faces: Vertex numbers, counter-clockwise seen from outside.
    colors: sRGB of each vertex; by default none is written.
  """
  _export(path, _mesh(vertices_m, faces, colors), "ply")


def write_npz(
  path: str | os.PathLike[str],
  vertices_m: Float[np.ndarray, "v 3"],
  joints_m: Float[np.ndarray, "j 3"],
  joint_names: Sequence[str],
  camera: Float[np.ndarray, "3"],
  faces: Int[np.ndarray, "f 3"],
  extra: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Writes everything a program needs, readable without pickles.

  Args:
    path: Ends in .npz; its folder must exist.
    vertices_m: Camera frame, metres.
    joints_m: Camera frame, metres.
    joint_names: One a joint.
    camera: s, tx, ty in the box's [-1, 1].
    faces: Vertex numbers, three a face.
    extra: Further arrays by name.

  Raises:
    ValueError: If the names are not as many as the joints, or an extra array has
      the name of one of these.
  """
  if len(joint_names) != len(joints_m):
    raise ValueError(
      f"write_npz: expected {len(joints_m)} joint names, got {len(joint_names)}"
    )
  arrays = {
    "vertices_m": vertices_m,
    "joints_m": joints_m,
    "joint_names": np.array(list(joint_names)),
    "camera": camera,
    "faces": faces.astype(np.int32),
  }
  taken = sorted(arrays.keys() & (extra or {}).keys())
  if taken:
    raise ValueError(f"write_npz: extra arrays must have other names than {taken}")
  with files.replacing(path) as partial, partial.open("wb") as file:
    np.savez_compressed(file, allow_pickle=False, **arrays, **(extra or {}))


def _mesh(
  vertices_m: np.ndarray, faces: np.ndarray, colors: np.ndarray | None
) -> "trimesh.Trimesh":
  import trimesh  # slow to import, and the Python API may never write a file

  points = camera.to_y_up(vertices_m)
  return trimesh.Trimesh(points, faces, vertex_colors=colors, process=False)


def _export(path, mesh: Any, kind: str, **options) -> None:
  """Writes a scene in one of trimesh's formats."""
  data = mesh.export(file_type=kind, **options)
  if isinstance(data, dict):
    raise TypeError(f"{path}: expected {kind} as text or bytes, got a dictionary")
  with files.replacing(path) as partial:
    partial.write_bytes(data.encode() if isinstance(data, str) else bytes(data))
