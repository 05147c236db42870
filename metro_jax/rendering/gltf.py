"""Binary glTF: a mesh alone, or with joints, skin weights and motion.

Source: Khronos Group, "glTF 2.0 Specification", 2021; the numbers of component types
  and buffer targets are its.
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from metro_jax import files
from metro_jax.body import rotations
from metro_jax.rendering import rasterizer
from metro_jax.rendering.rig import Motion, Rig

SKIN_RGBA = (168, 196, 235, 255)
_COMPONENTS = {"u1": 5121, "u2": 5123, "u4": 5125, "f4": 5126}
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_VERTEX_DATA, _INDICES = 34962, 34963
_JSON, _BIN = 0x4E4F534A, 0x004E4942


class _Arrays:
  """The file's arrays: what is added gets a number by which the rest names it."""

  def __init__(self) -> None:
    self.data = bytearray()
    self.views: list[dict[str, Any]] = []
    self.accessors: list[dict[str, Any]] = []

  def add(
    self, values: np.ndarray, dtype: str, target: int | None = None, **more: Any
  ) -> int:
    """Adds an array, one element a row, and returns its number."""
    values = np.ascontiguousarray(values, f"<{dtype}")
    width = values[0].size
    view = {
      "buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes
    }  # fmt: skip
    self.views.append(view if target is None else {**view, "target": target})
    self.data += values.tobytes()
    self.data += bytes(-len(self.data) % 4)
    accessor = {
      "bufferView": len(self.views) - 1,
      "componentType": _COMPONENTS[dtype],
      "count": len(values),
      "type": _KINDS[width],
    }
    self.accessors.append({**accessor, **more})
    return len(self.accessors) - 1


def write_mesh(
  path: str | os.PathLike[str],
  vertices_m: Float[np.ndarray, "v 3"],
  faces: Int[np.ndarray, "f 3"],
  colors: UInt8[np.ndarray, "v 3"] | None = None,
) -> None:
  """Writes a mesh with smooth normals.

  Args:
    path: Ends in .glb; its folder must exist.
    vertices_m: Metres, y up.
    faces: Vertex numbers, counter-clockwise seen from outside.
    colors: sRGB of each vertex; by default all have one colour.
  """
  arrays = _Arrays()
  mesh = _mesh(arrays, vertices_m, faces, colors)
  _write(path, arrays, {"meshes": [mesh], "nodes": [{"mesh": 0}]}, [0])


def write_rigged(
  path: str | os.PathLike[str],
  rig: Rig,
  motion: Motion,
  fps: float = 30.0,
  colors: UInt8[np.ndarray, "v 3"] | None = None,
  times_s: Float[np.ndarray, " t"] | None = None,
) -> None:
  """Writes a mesh with joints as nodes, its skin and, of several frames, a motion.

  Args:
    path: Ends in .glb; its folder must exist.
    rig: The body at rest.
    motion: The nodes stand as in the first frame; more than one frame make an
      animation.
    fps: Frames a second.
    colors: sRGB of each vertex; by default all have one colour.
    times_s: Of the frames, from 0, where they are not evenly spaced.
  """
  arrays = _Arrays()
  skin = {
    "JOINTS_0": arrays.add(rig.skin_joints, "u1", _VERTEX_DATA),
    "WEIGHTS_0": arrays.add(rig.skin_weights, "f4", _VERTEX_DATA),
  }
  mesh = _mesh(arrays, rig.vertices_m, rig.faces, colors, skin)
  quaternions = _xyzw(motion.turns)
  nodes = _nodes(rig, quaternions[0], motion.root_m[0])
  skeleton = list(range(len(rig.parents)))
  bind = np.tile(np.eye(4), (len(skeleton), 1, 1))
  bind[:, 3, :3] = -rig.joints_m  # column by column, as glTF has matrices
  content: dict[str, Any] = {
    "meshes": [mesh],
    "nodes": [*nodes, {"name": "body", "mesh": 0, "skin": 0}],
    "skins": [
      {
        "joints": skeleton,
        "skeleton": 0,
        "inverseBindMatrices": arrays.add(bind, "f4"),
      }
    ],
  }
  if len(quaternions) > 1:
    clock = np.arange(len(quaternions)) / fps if times_s is None else times_s
    content["animations"] = [_animation(arrays, quaternions, motion.root_m, clock)]
  _write(path, arrays, content, [0, len(nodes)])


def _mesh(
  arrays: _Arrays,
  vertices: np.ndarray,
  faces: np.ndarray,
  colors: np.ndarray | None,
  skin: Mapping[str, int] | None = None,
) -> dict[str, Any]:
  low, high = vertices.min(axis=0).tolist(), vertices.max(axis=0).tolist()
  normals = rasterizer.vertex_normals(vertices, faces)
  lost = ~normals.any(axis=1)  # of vertices without a face; glTF wants unit length
  normals[lost] = (0, 0, 1)
  attributes = {
    "POSITION": arrays.add(vertices, "f4", _VERTEX_DATA, min=low, max=high),
    "NORMAL": arrays.add(normals, "f4", _VERTEX_DATA),
    "COLOR_0": _add_colors(arrays, len(vertices), colors),
    **(skin or {}),
  }
  indices = arrays.add(faces.reshape(-1, 1), "u4", _INDICES)
  return {"primitives": [{"attributes": attributes, "indices": indices}]}


def _add_colors(arrays: _Arrays, count: int, colors: np.ndarray | None) -> int:
  """Adds vertex colours; glTF's are linear, 16 bits keep the dark ones apart."""
  if colors is None:
    rgba = np.tile(np.array(SKIN_RGBA), (count, 1))
    return arrays.add(rgba, "u1", _VERTEX_DATA, normalized=True)
  srgb = colors / 255
  linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
  rgba = np.column_stack([linear, np.ones(count)])
  return arrays.add(np.rint(rgba * 65535), "u2", _VERTEX_DATA, normalized=True)


def _nodes(
  rig: Rig, quaternions: np.ndarray, root_m: np.ndarray
) -> list[dict[str, Any]]:
  """Makes a node for each joint, placed from its parent."""
  nodes: list[dict[str, Any]] = []
  for joint, (name, parent) in enumerate(zip(rig.names, rig.parents, strict=True)):
    bone_m = root_m if parent < 0 else rig.joints_m[joint] - rig.joints_m[parent]
    node = {
      "name": name,
      "translation": bone_m.tolist(),
      "rotation": quaternions[joint].tolist(),
    }
    children = [n for n, other in enumerate(rig.parents) if other == joint]
    nodes.append({**node, "children": children} if children else node)
  return nodes


def _animation(
  arrays: _Arrays, quaternions: np.ndarray, root_m: np.ndarray, times_s: np.ndarray
) -> dict[str, Any]:
  """Moves the root and turns every joint; between frames viewers take the short way."""
  last = float(np.float32(times_s[-1]))
  ends: dict[str, Any] = {"min": [0.0], "max": [last]}
  clock = arrays.add(times_s[:, None], "f4", **ends)
  tracks = [("translation", 0, root_m)]
  tracks += [
    ("rotation", n, track) for n, track in enumerate(quaternions.swapaxes(0, 1))
  ]
  samplers = [
    {"input": clock, "output": arrays.add(values, "f4"), "interpolation": "LINEAR"}
    for _, _, values in tracks
  ]
  channels = [
    {"sampler": n, "target": {"node": joint, "path": path}}
    for n, (path, joint, _) in enumerate(tracks)
  ]
  return {"name": "motion", "samplers": samplers, "channels": channels}


def _xyzw(turns: Float[np.ndarray, "t k 3 3"]) -> Float[np.ndarray, "t k 4"]:
  """Returns unit quaternions in glTF's order, none far from the one before."""
  wxyz = rotations.matrix_to_quaternion(turns.astype(np.float64))
  # q and -q are one rotation; from frame to frame the nearer one is meant.
  same = (wxyz[1:] * wxyz[:-1]).sum(axis=-1, keepdims=True) >= 0
  wxyz[1:] *= np.cumprod(np.where(same, 1, -1), axis=0)
  return np.roll(wxyz, -1, axis=-1)


def _write(
  path: str | os.PathLike[str],
  arrays: _Arrays,
  content: Mapping[str, Any],
  roots: Sequence[int],
) -> None:
  """Writes the file: a header, the JSON chunk and the binary chunk."""
  document = {
    "asset": {"version": "2.0", "generator": "metro_jax"},
    "scene": 0,
    "scenes": [{"nodes": list(roots)}],
    **content,
    "accessors": arrays.accessors,
    "bufferViews": arrays.views,
    "buffers": [{"byteLength": len(arrays.data)}],
  }
  text = json.dumps(document, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 4)
  size = 12 + 8 + len(text) + 8 + len(arrays.data)
  with files.replacing(path) as partial, partial.open("wb") as file:
    file.write(b"glTF" + struct.pack("<II", 2, size))
    file.write(struct.pack("<II", len(text), _JSON) + text)
    file.write(struct.pack("<II", len(arrays.data), _BIN) + arrays.data)
