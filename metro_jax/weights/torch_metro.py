"""METRO's PyTorch state dict and our variables: one table of names, both ways.

The table follows from the variables' own paths, so it fits every width and depth.

Source: released code, metro/modeling/bert; its ResNet sits in a Sequential, whose
  entries 0, 1 and 4 to 7 are torchvision's conv1, bn1 and layer1 to layer4, and its
  HRNet keeps its own names.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np

Path = tuple[str, ...]
Shape = tuple[int, ...]
Variables = Mapping[str, Any]

_HEADS = {
  "token_mixing": "conv_learn_tokens",
  "camera_coordinates": "cam_param_fc",
  "camera_hidden": "cam_param_fc2",
  "camera_output": "cam_param_fc3",
}
_RESIDUAL_BLOCK = {
  **{f"conv{n}": f"conv{n}" for n in (1, 2, 3)},
  **{f"bn{n}": f"bn{n}" for n in (1, 2, 3)},
  "downsample_conv": "downsample.0",
  "downsample_bn": "downsample.1",
}
_HRNET_PARTS = {**_RESIDUAL_BLOCK, "conv": "0", "bn": "1"}
_HRNET_MODULE = re.compile(
  r"(stem|stage|transition|incre_modules|downsamp_modules|final_layer)[0-9_]*"
)
_ENCODER_BLOCK = {
  "embedding": "bert.img_embedding",
  "head": "cls_head",
  "residual": "residual",
}
_ENCODER_LAYER = {
  ("attention", "query"): "attention.self.query",
  ("attention", "key"): "attention.self.key",
  ("attention", "value"): "attention.self.value",
  ("attention_output",): "attention.output.dense",
  ("attention_norm",): "attention.output.LayerNorm",
  ("feedforward_inner",): "intermediate.dense",
  ("feedforward_output",): "output.dense",
  ("output_norm",): "output.LayerNorm",
}
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
  "position_embedding": "position_embeddings.weight",
}
# Rows of BERT's word and token type embeddings, which nothing uses.
_WORDS, _TOKEN_TYPES = 30522, 2
_CLASSES = 1000  # of ImageNet, in the classifier that HRNet keeps
_BATCHES = "num_batches_tracked"
MOST_SAID = 3  # keys of a kind that do not fit


class Entry(NamedTuple):
  """One array under its two names.

  Attributes:
    key: In the state dict.
    path: In the variables, the collection first.
    shape: In the state dict.
    axes: The state dict's axes as ours; -1 is an axis of length 1 that we lack.
  """

  key: str
  path: Path
  shape: Shape
  axes: tuple[int, ...]

  def to_torch(self, value: np.ndarray) -> np.ndarray:
    value = value.transpose([axis for axis in self.axes if axis >= 0])
    return np.ascontiguousarray(value.reshape(self.shape))

  def from_torch(self, value: np.ndarray) -> np.ndarray:
    ours = [axis for axis in self.axes if axis >= 0]
    value = value.reshape(value.shape[: len(ours)])
    return np.ascontiguousarray(value.transpose(np.argsort(ours)))


class Fit(NamedTuple):
  """How a state dict's keys fit a network.

  Attributes:
    missing: Keys that the network needs.
    unexpected: Keys that METRO does not have.
    misshaped: Key, expected shape, shape that came.
    ignored: Keys that METRO stores and never uses.
  """

  missing: tuple[str, ...]
  unexpected: tuple[str, ...]
  misshaped: tuple[tuple[str, Shape, Shape], ...]
  ignored: tuple[str, ...]


def entries(variables: Variables) -> tuple[Entry, ...]:
  """The table of names.

  Args:
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Returns:
    An entry for every array of "params" and "batch_stats".

  Raises:
    ValueError: If METRO has no such module.
  """
  kept = {name: variables[name] for name in ("params", "batch_stats")}
  flat = flax.traverse_util.flatten_dict(kept)
  return tuple(_entry(path, tuple(leaf.shape)) for path, leaf in flat.items())


def _entry(path: Path, shape: Shape) -> Entry:
  axes = tuple(range(len(shape)))
  if path[-1] == "kernel":
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}[len(shape)]
  if path[-2] == "token_mixing" and path[-1] == "kernel":
    axes = (1, 0, -1)  # a convolution of width 1
  key = f"{_module(path[1:-1])}.{_LEAVES[path[-1]]}"
  return Entry(key, path, tuple(1 if axis < 0 else shape[axis] for axis in axes), axes)


def _module(path: Path) -> str:
  """The PyTorch name of the module at a path below the collection."""
  match path:
    case ("backbone", ("conv1" | "bn1") as name):
      return {"conv1": "backbone.0", "bn1": "backbone.1"}[name]
    case ("backbone", first, *inner, part) if _HRNET_MODULE.fullmatch(first):
      return f"backbone.{_hrnet_module([first, *inner], part)}"
    case ("backbone", block, part) if part in _RESIDUAL_BLOCK:
      stage, number = block.removeprefix("layer").split("_")
      return f"backbone.{int(stage) + 3}.{number}.{_RESIDUAL_BLOCK[part]}"
    case ("encoder", block):
      return f"{_encoder_block(block)}.bert"
    case ("encoder", block, part) if part in _ENCODER_BLOCK:
      return f"{_encoder_block(block)}.{_ENCODER_BLOCK[part]}"
    case ("encoder", block, layer, *part) if tuple(part) in _ENCODER_LAYER:
      number = layer.removeprefix("layer")
      name = _ENCODER_LAYER[tuple(part)]
      return f"{_encoder_block(block)}.bert.encoder.layer.{number}.{name}"
    case (name,) if name in _HEADS:
      return _HEADS[name]
    case (name,) if name.startswith("upsampling"):
      step = int(name.removeprefix("upsampling"))
      return f"upsampling{step + 1}" if step else "upsampling"
  raise ValueError(f"torch names: METRO has no module for {'/'.join(path)}")


def _hrnet_module(modules: Sequence[str], part: str) -> str:
  """HRNet's own name of a convolution or normalisation."""
  if modules[0] in ("stem1", "stem2"):
    return f"{part}{modules[0][-1]}"
  names = [re.sub(r"_(?=\d)", ".", name) for name in (*modules, _HRNET_PARTS[part])]
  return ".".join(names).replace("stage1.", "layer1.")


def _encoder_block(block: str) -> str:
  return f"trans_encoder.{block.removeprefix('block')}"


def ignored_shapes(variables: Variables) -> dict[str, Shape]:
  """What METRO's state dict also holds and never uses, by key.

  These are BERT's embeddings and poolers, HRNet's classifier, and BatchNorm's counters
  of batches.
  """
  shapes: dict[str, Shape] = {}
  for entry in entries(variables):
    module, leaf = entry.key.rsplit(".", 1)
    if leaf == "running_mean":
      shapes[f"{module}.{_BATCHES}"] = ()
    if entry.path[-1] == "position_embedding":
      shapes |= _unused_bert(module.rsplit(".", 1)[0], *entry.shape)
    if entry.key == "backbone.final_layer.0.bias":
      shapes["backbone.classifier.weight"] = (_CLASSES, *entry.shape)
      shapes["backbone.classifier.bias"] = (_CLASSES,)
  return shapes


def _unused_bert(
  prefix: str, positions: int, width: int
) -> Iterator[tuple[str, Shape]]:
  embeddings = f"{prefix}.embeddings"
  yield f"{embeddings}.word_embeddings.weight", (_WORDS, width)
  yield f"{embeddings}.position_embeddings.weight", (positions, width)
  yield f"{embeddings}.token_type_embeddings.weight", (_TOKEN_TYPES, width)
  yield f"{embeddings}.LayerNorm.weight", (width,)
  yield f"{embeddings}.LayerNorm.bias", (width,)
  yield f"{prefix}.pooler.dense.weight", (width, width)
  yield f"{prefix}.pooler.dense.bias", (width,)


def fit(shapes: Mapping[str, Shape], variables: Variables) -> Fit:
  """Compares a state dict's shapes with a network's.

  Args:
    shapes: By key of the state dict.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.
  """
  return compare(shapes, entries(variables), ignored_shapes(variables))


def compare(
  shapes: Mapping[str, Shape], table: Iterable[Entry], unused: Container[str]
) -> Fit:
  """Compares a state dict's shapes with those of a table of names.

  Args:
    shapes: By key of the state dict.
    table: What the network needs.
    unused: Keys that may be there and count as ignored.
  """
  wanted = {entry.key: entry.shape for entry in table}
  return Fit(
    missing=tuple(key for key in wanted if key not in shapes),
    unexpected=tuple(key for key in shapes if key not in wanted and key not in unused),
    misshaped=tuple(
      (key, shape, tuple(shapes[key]))
      for key, shape in wanted.items()
      if key in shapes and tuple(shapes[key]) != shape
    ),
    ignored=tuple(key for key in shapes if key in unused),
  )


def from_state_dict(
  state_dict: Mapping[str, np.ndarray], variables: Variables
) -> dict[str, Any]:
  """Puts a state dict's arrays into the shape of our variables, all or nothing.

  Args:
    state_dict: NumPy arrays under METRO's keys.
    variables: The network's collections: arrays, or shapes from `jax.eval_shape`.

  Returns:
    The collections "params" and "batch_stats" with NumPy arrays of their types.

  Raises:
    ValueError: Counting and naming missing, unexpected and mis-shaped keys.
  """
  found = fit({key: value.shape for key, value in state_dict.items()}, variables)
  raise_unless_fitting(found)
  return converted(state_dict, entries(variables), variables)


def converted(
  state_dict: Mapping[str, np.ndarray], table: Iterable[Entry], variables: Variables
) -> dict[str, Any]:
  """The arrays that a table names, in our layout and of the variables' types."""
  like = flax.traverse_util.flatten_dict(dict(variables))
  flat = {
    entry.path: entry.from_torch(np.asarray(state_dict[entry.key])).astype(
      like[entry.path].dtype, copy=False
    )
    for entry in table
  }
  return flax.traverse_util.unflatten_dict(flat)


def raise_unless_fitting(found: Fit) -> None:
  """Refuses what is missing, unexpected or mis-shaped.

  Raises:
    ValueError: If there is any, with `misfit`'s text.
  """
  if found.missing or found.unexpected or found.misshaped:
    raise ValueError(misfit(found))


def misfit(found: Fit, most: int | None = MOST_SAID) -> str:
  """Says how many keys are missing, unexpected and mis-shaped, and the first of them.

  Args:
    found: What `fit` or `compare` found.
    most: Keys of each kind to name; None names all, a line each.
  """
  problems = {
    "missing": found.missing,
    "unexpected": found.unexpected,
    "mis-shaped": [
      f"{key} (expected {expected}, got {got})"
      for key, expected, got in found.misshaped
    ],
  }
  if most is None:
    return "".join(
      f"{name}: {key}\n" for name, keys in problems.items() for key in keys
    )
  said = []
  for name, keys in problems.items():
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    if keys:
      said.append(f"{len(keys)} {name}: {', '.join(keys[:most])}{more}")
  return "state dict does not fit the network; " + "; ".join(said)


def to_state_dict(variables: Variables) -> dict[str, np.ndarray]:
  """Our variables under METRO's keys; what METRO never uses is zeros.

  Args:
    variables: The network's collections of arrays.

  Returns:
    Arrays of the variables' types; BatchNorm's counters are int64.
  """
  flat = flax.traverse_util.flatten_dict(dict(variables))
  state_dict = {
    entry.key: entry.to_torch(np.asarray(flat[entry.path]))
    for entry in entries(variables)
  }
  for key, shape in ignored_shapes(variables).items():
    dtype = np.int64 if key.endswith(_BATCHES) else np.float32
    state_dict[key] = np.zeros(shape, dtype)
  return state_dict
