"""Versions of what a result depends on."""

import importlib.metadata

PACKAGES = ("metro_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def installed() -> dict[str, str]:
  """Returns those of the packages that a result depends on, by name."""
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed"
  return found
