"""A run's network as a graph of ONNX operators."""

from typing import NamedTuple

from metro_jax.checkpoints import runs
from metro_jax.exporting.onnx import folding, rules, tracing
from metro_jax.exporting.onnx.graph import Graph, Node, Shape
from metro_jax.inference import forward_pass
from metro_jax.models import setup

INPUT = "images"


class Described(NamedTuple):
  """A graph and what goes in and comes out, as `model_file.make` takes them."""

  graph: Graph
  inputs: dict[str, tuple[Shape, str]]
  outputs: dict[str, Shape]


def describe(run: runs.Run, image_type: str) -> Described:
  """Translates a run's network, for crops of any batch size.

  Args:
    run: With arithmetic in single precision, see `in_single_precision`.
    image_type: Of the crops, which hold 0 to 255: "uint8" or "float32".
  """
  px = run.config.data.image_px
  program = tracing.trace(run.network, run.variables, px, image_type)
  graph = Graph()
  (crops,) = program.in_avals
  images = graph.input(INPUT, crops.shape)
  results = rules.translate(graph, program, [images])
  outputs = {}
  for name, result in zip(forward_pass.OUTPUTS, results, strict=True):
    graph.scope = ""
    value = graph.stored(result)
    graph.nodes.append(Node("Identity", (value,), name, {}))
    outputs[name] = result.shape
  folding.fold(graph, set(outputs))
  return Described(graph, {INPUT: (crops.shape, image_type)}, outputs)


def in_single_precision(run: runs.Run) -> runs.Run:
  """The run with a network that computes in float32, whatever it was trained in."""
  if run.config.model.compute_dtype == "float32":
    return run
  config = run.config.copy_and_resolve_references()
  config.model.compute_dtype = "float32"
  return run._replace(network=setup.build(config))
