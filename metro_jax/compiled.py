"""Where compiled programs are kept, so that the next start need not compile again.

JAX's own variables move the folder (JAX_COMPILATION_CACHE_DIR; empty: nothing is kept)
or turn it off (JAX_ENABLE_COMPILATION_CACHE=0).
"""

import hashlib
import os
import pathlib
import sys
import warnings

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def keep() -> None:
  """Has JAX keep what it compiles, by default in the user's cache folder.

  A folder that cannot be written is not used. An entry that cannot be read, such as one
  cut off by a kill, is compiled again.
  """
  warnings.filterwarnings(
    "ignore", message="Error (reading|writing) persistent compilation cache"
  )
  if VARIABLE in os.environ:
    return
  try:
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # RuntimeError: there is no home
    return
  if not os.access(folder, os.W_OK | os.X_OK):
    return
  os.environ[VARIABLE] = str(folder)
  if "jax" in sys.modules:  # it has read its variables
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))


def default_folder() -> pathlib.Path:
  """Returns the folder of this kind of processor in the user's cache folder.

  A home may serve several machines, and a program for one processor can end with an
  illegal instruction on another.
  """
  cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  root = pathlib.Path(cache).expanduser() / "metro_jax" / "compiled"
  return root / hashlib.sha256(_processor()).hexdigest()[:12]


def _processor() -> bytes:
  """Returns what Linux says that the processor can do; b"" elsewhere."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_bytes().splitlines()
  except OSError:
    return b""
  return next((x for x in lines if x.startswith((b"flags", b"Features"))), b"")
