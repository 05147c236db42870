"""Checks every shape in every signature while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("metro_jax", "beartype.beartype")
