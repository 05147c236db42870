"""`metro-jax COMMAND ...` for those who installed with pip: the same commands.

`metro-jax predict photo.jpg` is `python -m metro_jax.predict photo.jpg`.
"""

import runpy
import sys

COMMANDS = (
  "predict", "train", "evaluate", "export", "convert", "prepare", "dryrun", "benchmark",
)  # fmt: skip


def main() -> None:
  """Runs the command that the first argument names."""
  name = sys.argv[1] if len(sys.argv) > 1 else ""
  if name not in COMMANDS:
    usage = f"metro-jax: expected one of {', '.join(COMMANDS)}, got {name or 'nothing'}"
    sys.exit(usage if name not in ("-h", "--help") else __doc__)
  sys.argv = [f"metro-jax {name}", *sys.argv[2:]]
  runpy.run_module(f"metro_jax.{name}", run_name="__main__", alter_sys=True)
