"""METRO for JAX: the 3D joints and mesh of a person from one image.

network = metro_jax.load()
people = network("photo.jpg")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from metro_jax.inference.people import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
  """Imports JAX and what needs it only when a network is asked for."""
  if name == "load":
    from metro_jax.inference.people import load

    return load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
