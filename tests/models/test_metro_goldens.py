"""The networks against the released code's numbers, tensor by tensor.

The comparison goes in the network's order, so the first name it reports is the layer
that is wrong. The weights are made by a rule from their PyTorch names.
"""

import json
import pathlib
import re
import runpy
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from metro_jax.body.mesh_levels import MeshLevels
from metro_jax.body.template import Template
from metro_jax.models import metro
from metro_jax.weights import torch_metro
from tests.fixtures.calls import Calls

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
fill_value = runpy.run_path(str(GOLDENS / "fill_rule.py"))["fill_value"]
COUNTS = {"body": (6890, 1723, 431), "hand": (778, 195)}
JOINTS = {"body": 14, "hand": 21}
# The goldens' names of what our modules give.
HRNET_OUTPUTS = {
  "backbone.bn1": "stem1",
  "backbone.bn2": "stem2",
  "backbone.layer1": "stage1_3",
  "backbone.final_layer": "final_layer",
  **{f"backbone.incre_modules.{n}": f"incre_modules_{n}_0" for n in range(4)},
  **{f"backbone.downsamp_modules.{n}": f"downsamp_modules_{n}" for n in range(3)},
}
HRNET_STAGES = {2: "stage2_0", 3: "stage3_3", 4: "stage4_2"}  # their last exchanges
RESNET_OUTPUTS = {
  "backbone.0": "conv1",
  **{f"backbone.{n + 3}": f"layer{n}_{last}" for n, last in enumerate((2, 3, 5, 2), 1)},
}
LAYER_OUTPUTS = {"ctx": "attention", "attn": "attention_norm", "": "output_norm"}
RELATIVE_F64 = 1e-9
NOISE_FACTOR_F32 = 10


def build(network: str) -> metro.METRO:
  """The paper's body network, or its hand network: the same class."""
  kind, backbone = network.split("_")
  preset = {"body": "h36m.py", "hand": "freihand.py"}[kind]
  config = runpy.run_path(str(CONFIGS / preset))["get_config"]()
  assert tuple(config.body.levels) == COUNTS[kind]
  config.model.backbone = backbone.replace("-", "_")
  config.model.dropout = 0.0  # the goldens are without
  levels = MeshLevels(COUNTS[kind], (), (), (), ())
  return metro.build(config, levels, axis_name=None)


def read(name: str) -> dict[str, np.ndarray]:
  with np.load(GOLDENS / f"{name}.npz") as file:
    return dict(file)


def golden_template(kind: str, goldens: dict[str, np.ndarray]) -> Template:
  reference = goldens["f64/template.ref_vertices"]
  return Template(reference[: JOINTS[kind]], reference[JOINTS[kind] :])


def golden_images() -> np.ndarray:
  images = np.random.default_rng(0).standard_normal((2, 3, 224, 224))
  return images.astype(np.float32).transpose(0, 2, 3, 1)


def golden_variables(model: metro.METRO, kind: str) -> dict[str, Any]:
  """Float32 variables, filled by the rule under the state dict's keys."""
  counts = (JOINTS[kind], 3), (COUNTS[kind][-1], 3)
  template = Template(*(np.zeros(shape, np.float32) for shape in counts))
  shapes = jax.eval_shape(model.init, jax.random.key(0), golden_images()[:1], template)
  entries = torch_metro.entries(shapes)
  filled = {entry.key: fill_value(entry.key, entry.shape) for entry in entries}
  return torch_metro.from_state_dict(filled, shapes)


def run(network: str, dtype: Any, **call: Any) -> dict[str, np.ndarray]:
  """All outputs and inner tensors in one type of arithmetic, under goldens' names."""
  model, kind = build(network), network.split("_")[0]
  variables = golden_variables(model, kind)
  template = golden_template(kind, read(f"eval_{network}"))
  inputs = jax.tree.map(
    lambda x: np.asarray(x, dtype), (variables, golden_images(), template)
  )

  @jax.jit
  def forward(variables: Any, images: Any, template: Any) -> Any:
    calls = Calls()
    with nn.intercept_methods(calls):
      made = model.apply(variables, images, template, mutable=["batch_stats"], **call)
    return *made, inner_tensors(calls, model.token_source)

  with jax.enable_x64(dtype == np.float64):
    prediction, state, inner = jax.device_get(forward(*inputs))
  assert prediction.camera.dtype == dtype
  return {
    **{k: np.moveaxis(v, -1, 1) if v.ndim == 4 else v for k, v in inner.items()},
    **outputs(prediction),
    **running_statistics(state["batch_stats"]),
  }


def inner_tensors(calls: Calls, token_source: str) -> dict[str, Any]:
  """What the modules take and give, by the goldens' names."""
  features, given = calls.outputs["backbone"], calls.outputs
  found = {
    "features_in": calls.inputs["encoder"],
    "feat": features.mean((1, 2)) if token_source == "pooled" else features,
    **backbone_tensors(calls),
  }
  if token_source == "grid":
    found["tokens"] = given["token_mixing"]
  for block in [path for path in given if re.fullmatch(r"encoder/block\d", path)]:
    name = block.removeprefix("encoder/")
    found |= {name: given[block], f"{name}.embed": given[f"{block}/Dropout_0"]}
    for layer in [path for path in given if re.fullmatch(rf"{block}/layer\d", path)]:
      name = layer.removeprefix("encoder/").replace("/", ".")
      for inner, module in LAYER_OUTPUTS.items():
        found[f"{name}.{inner}".removesuffix(".")] = given[f"{layer}/{module}"]
      widened = given[f"{layer}/feedforward_inner"]
      found[f"{name}.inter"] = nn.gelu(widened, approximate=False)
  return found


def backbone_tensors(calls: Calls) -> dict[str, Any]:
  """Those of the backbone."""
  given = calls.outputs
  if "backbone/final_layer" not in given:
    normal = nn.relu(given["backbone/bn1"])
    return {
      **{"backbone.1": normal, "backbone.2": normal},
      "backbone.3": calls.inputs["backbone/layer1_0"],
      **{name: given[f"backbone/{module}"] for name, module in RESNET_OUTPUTS.items()},
    }
  stages = {
    f"backbone.stage{stage}.{n}": x
    for stage, module in HRNET_STAGES.items()
    for n, x in enumerate(given[f"backbone/{module}"])
  }
  outputs = {
    name: given[f"backbone/{module}"] for name, module in HRNET_OUTPUTS.items()
  }
  return {**outputs, **stages}


def outputs(prediction: metro.Prediction) -> dict[str, np.ndarray]:
  names = ("out.vertices", "out.vertices_sub", "out.vertices_sub2")
  return {
    "out.camera": prediction.camera,
    "out.joints3d": prediction.query_joints,
    **dict(zip(names, reversed(prediction.vertices), strict=False)),
  }


def running_statistics(batch_stats: Any) -> dict[str, np.ndarray]:
  variables = {"params": {}, "batch_stats": batch_stats}
  return torch_metro.to_state_dict(variables)


def golden_names(goldens: dict[str, np.ndarray]) -> list[str]:
  """What is compared, from the image to the outputs.

  backbone.8 is the hand's pooled map, stored as feat too.
  """
  inner = [name.removeprefix("shape.") for name in goldens if name.startswith("shape.")]
  out = [name.removeprefix("f64/") for name in goldens if name.startswith("f64/out.")]
  return [name for name in inner + out if name != "backbone.8"]


def largest_error(name: str, got: np.ndarray, goldens: dict[str, np.ndarray]) -> float:
  """The largest difference to what is stored of a tensor."""
  if name.startswith("out."):
    return float(np.abs(got - goldens[f"f64/{name}"]).max())
  assert got.size == goldens[f"shape.{name}"].prod(), name
  flat = got.reshape(-1).astype(np.float64)
  stored = {
    "head": flat[:64],
    "sub": flat[:: goldens[f"step.{name}"]],
    "stat": np.array([flat.mean(), flat.std(), flat.min(), flat.max()]),
  }
  return max(
    float(np.abs(value - goldens[f"f64/{part}.{name}"]).max())
    for part, value in stored.items()
  )


def noise(network: str) -> dict[str, dict[str, float]]:
  return json.loads((GOLDENS / f"noise_eval_{network}.json").read_text())


def assert_like_goldens(network: str, dtype: Any) -> None:
  """Every stored tensor of the evaluation forward agrees; names those that do not."""
  got, goldens = run(network, dtype), read(f"eval_{network}")
  stored, wrong = noise(network), []
  for name in golden_names(goldens):
    if dtype == np.float64:
      allowed = RELATIVE_F64 * stored[name]["max_abs"]
    else:
      allowed = NOISE_FACTOR_F32 * stored[name]["max"]
    error = largest_error(name, got[name], goldens)
    if not error <= allowed:
      wrong.append(f"{name}: {error:.2g} > {allowed:.2g}")
  assert not wrong, "; ".join(wrong)


def test_body_forward_is_the_released_codes_in_float64():
  assert_like_goldens("body_resnet50", np.float64)


@pytest.mark.slow
def test_body_forward_is_within_float32_noise():
  assert_like_goldens("body_resnet50", np.float32)


@pytest.mark.slow
def test_body_forward_with_hrnet_is_the_released_codes_in_float64():
  assert_like_goldens("body_hrnet-w40", np.float64)


@pytest.mark.slow
def test_body_forward_with_hrnet_is_within_float32_noise():
  assert_like_goldens("body_hrnet-w40", np.float32)


@pytest.mark.slow
def test_hand_forward_is_the_released_codes_in_float64():
  assert_like_goldens("hand_resnet50", np.float64)


def test_hand_forward_is_within_float32_noise():
  assert_like_goldens("hand_resnet50", np.float32)


def golden_mask(goldens: dict[str, np.ndarray]) -> np.ndarray:
  """The stored masks keep where they are 1 and hide where they are 0."""
  kept = np.concatenate([goldens["in/mjm_mask"], goldens["in/mvm_mask"]], axis=1)
  return kept[..., 0] == 0


@pytest.mark.slow
def test_training_forward_with_masked_tokens_is_the_released_codes():
  goldens = read("train_body_resnet50")
  mask = golden_mask(goldens)

  got = run("body_resnet50", np.float64, token_mask=mask, train=True)
  stored = {
    "train.camera": got["out.camera"],
    "train.joints3d": got["out.joints3d"],
    "train.vertices_sub2": got["out.vertices_sub2"],
    "train.vertices_sub": got["out.vertices_sub"],
    "train.vertices": got["out.vertices"][:, ::4],
  }
  for name, value in stored.items():
    np.testing.assert_allclose(value, goldens[f"f64/{name}"], rtol=0, atol=1e-8)
  keys = json.loads((GOLDENS / "train_body_resnet50.json").read_text())["bn_keys"]
  sums = [got[key].sum() for key in keys]
  norms = [np.linalg.norm(got[key]) for key in keys]
  np.testing.assert_allclose(sums, goldens["f64/bn_sum"], rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(norms, goldens["f64/bn_norm"], rtol=1e-9)
