"""Checks every shape in every signature while the tests run.

Programs that one test compiled are there for the others and for what they start.
"""

import atexit
import os
import shutil
import tempfile

from jaxtyping import install_import_hook

from metro_jax import compiled

install_import_hook("metro_jax", "beartype.beartype")

if compiled.VARIABLE not in os.environ:  # the first of several processes made it
  folder = tempfile.mkdtemp(prefix="metro_jax_compiled_")
  os.environ[compiled.VARIABLE] = folder
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
