"""Nothing public is there for tests alone: the package uses it, or it is for users."""

import ast
import fnmatch
import pathlib
from collections.abc import Iterator

import metro_jax

ROOT = pathlib.Path(metro_jax.__file__).parent
# What is there for those who use the package from Python, beside its commands.
API = {
  "metro_jax.body.humanoid.load_parts",  # of the embedded body, as targets
  "metro_jax.console.main",  # the installed command
  "metro_jax.rendering.bvh.write_bvh",  # motion of a person, for animators
  "metro_jax.inference.video_batch.in_turn",  # boxes of one's own, frame by frame
  "metro_jax.config.apply_variants",  # configs/*.py
  "metro_jax.models.metro.parameter_counts",  # the sizes that papers give
}
# What is called through a variable that holds the module.
BY_MODULE = (
  "metro_jax.data.readers.*.open_reader",
  "metro_jax.exporting.*.file_names",
  "metro_jax.exporting.*.write",
  "metro_jax.rendering.mesh_files.write_*",
  "metro_jax.weights.*.load",
)


def modules() -> dict[str, ast.Module]:
  found = {}
  for path in sorted(ROOT.rglob("*.py")):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    found[".".join(parts)] = ast.parse(path.read_text())
  return {name.removesuffix(".__init__"): tree for name, tree in found.items()}


def defined(trees: dict[str, ast.Module]) -> set[str]:
  """The public functions and classes, by their dotted names."""
  kinds = (ast.FunctionDef, ast.ClassDef)
  return {
    f"{module}.{node.name}"
    for module, tree in trees.items()
    for node in tree.body
    if isinstance(node, kinds) and not node.name.startswith("_")
  }


def imported(tree: ast.Module) -> dict[str, str]:
  """What a module imports from others, by the name that it has there."""
  return {
    alias.asname or alias.name: f"{node.module}.{alias.name}"
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }


def used(module: str, tree: ast.Module) -> Iterator[str]:
  """The dotted names that a module uses; what defines a name does not use it."""
  names = imported(tree)
  for top in tree.body:
    own = getattr(top, "name", None)
    for node in ast.walk(top):
      if isinstance(node, ast.Name) and node.id != own:
        yield names.get(node.id, f"{module}.{node.id}")
      elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield f"{names.get(node.value.id, node.value.id)}.{node.attr}"


def unused(trees: dict[str, ast.Module]) -> set[str]:
  """The public names that nothing else in the modules uses."""
  passed_on = {
    f"{module}.{name}": target
    for module, tree in trees.items()
    for name, target in imported(tree).items()
  }
  uses = {name for module, tree in trees.items() for name in used(module, tree)}
  return defined(trees) - {passed_on.get(name, name) for name in uses}


def test_every_public_name_is_used_by_the_package_or_is_its_interface():
  found = {
    name
    for name in unused(modules()) - API
    if not any(fnmatch.fnmatch(name, pattern) for pattern in BY_MODULE)
  }
  assert not found, "\n".join(sorted(found))


def test_what_uses_only_itself_is_found():
  trees = {
    "p.a": "def one():\n  return one()\ndef two(): ...\nclass Three: ...",
    "p.b": "from p.a import two\nfrom p import a\ndef _f(): return a.Three",
    "p.c": "from p import b\nx = b.two()\ndef other(): ...\ny = lambda one: one",
  }
  parsed = {name: ast.parse(text) for name, text in trees.items()}
  assert unused(parsed) == {"p.a.one", "p.c.other"}
