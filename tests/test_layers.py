"""The reading order is the import order, and the network needs no renderer."""

import ast
import pathlib
import subprocess
import sys

import metro_jax

ROOT = pathlib.Path(metro_jax.__file__).parent
ROOMS = (
  "files", "folders", "versions", "text_files", "outputs", "compiled", "untrusted",
  "body",
  "rendering", "data", "models", "config_checks", "config", "weights", "cluster",
  "checkpoints", "inference", "training", "evaluation", "exporting", "planning",
  "benchmarking", "asset_builds",
)  # fmt: skip
COMMANDS = len(ROOMS)


def room_rank(module: str) -> int:
  """Where a dotted module under metro_jax stands in the order; commands come last."""
  room = module.split(".")[0]
  return ROOMS.index(room) if room in ROOMS else COMMANDS


def imports(path: pathlib.Path) -> set[str]:
  """The dotted names under metro_jax that a file imports, anywhere in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  prefix = "metro_jax."
  return {name.removeprefix(prefix) for name in found if name.startswith(prefix)}


def test_a_module_imports_only_from_its_own_room_and_those_before_it():
  wrong = []
  for path in sorted(ROOT.rglob("*.py")):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    wrong += [
      f"{module} imports {name}"
      for name in imports(path)
      if room_rank(name) > room_rank(module)
    ]
  assert not wrong


def loaded_after(statement: str) -> set[str]:
  """The modules a fresh Python holds after running a statement."""
  code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
  done = subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  )
  return set(done.stdout.split())


def test_importing_the_package_loads_neither_tensorflow_nor_torch():
  loaded = loaded_after("import metro_jax, metro_jax.train, metro_jax.predict")
  assert "jax" in loaded
  assert not loaded & {"tensorflow", "torch"}


def test_prediction_loads_nothing_that_only_training_needs():
  loaded = loaded_after("import metro_jax.predict, metro_jax.inference.people")
  assert "flax" in loaded
  assert not loaded & {"optax", "tensorboardX", "grain", "orbax", "trimesh"}
  assert not {name for name in loaded if name.startswith("metro_jax.training")}


def test_export_loads_no_training():
  loaded = loaded_after("import metro_jax.export")
  assert not loaded & {"optax", "tensorboardX"}
  assert not {name for name in loaded if name.startswith("metro_jax.training")}


def test_processes_that_read_datasets_load_no_jax():
  readers = sorted(path.stem for path in (ROOT / "data" / "readers").glob("[a-z]*.py"))
  names = ["builders.shards", *(f"readers.{name}" for name in readers)]
  assert len(names) > 8
  loaded = loaded_after("import " + ", ".join(f"metro_jax.data.{n}" for n in names))
  assert not loaded & {"jax", "flax"}


def test_models_losses_and_the_train_step_load_no_renderer():
  loaded = loaded_after("import metro_jax.models.metro, metro_jax.training.step")
  assert "metro_jax.training.losses" in loaded
  assert not {name for name in loaded if name.startswith("metro_jax.rendering")}
  assert not loaded & {"cv2", "trimesh"}
