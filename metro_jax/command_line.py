"""How every command starts and fails: flags, then work, or one line and exit code 1."""

import codecs
import ctypes
import io
import locale
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from metro_jax import compiled

# glibc, malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD (-1: never), M_TOP_PAD (bytes).
_MALLOPT = {-4: 0, -1: -1, -2: 64 << 20}
USER_ERRORS = (ValueError, OSError, FloatingPointError)


def run(name: str, main: Callable[[list[str]], int | None]) -> None:
  """Parses the flags, runs a command and exits with its code.

  What its user can mend (a wrong value, a missing or damaged file, a full disk) is
  said in one line; anything else is a defect and keeps its traceback.

  Args:
    name: What the line begins with.
    main: Takes the arguments that are not flags; returns the exit code.
  """
  _print_everything()
  compiled.keep()

  def parse(argv: Sequence[str]) -> list[str]:
    try:
      arguments = flags.FLAGS(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, *USER_ERRORS) as error:
      sys.exit(f"{name}: {_one_line(error)}")
    if flags.FLAGS["verbosity"].using_default_value:
      logging.set_verbosity(logging.WARNING)  # libraries narrate at INFO
    return arguments

  def guarded(arguments: list[str]) -> int:
    try:
      return main(arguments) or 0
    except USER_ERRORS as error:
      tell(name, error)
      return 1

  app.run(guarded, flags_parser=parse)


def _print_everything() -> None:
  """Sees to it that no letter can end a command at its last line.

  Where the locale's encoding is not UTF-8, files and other processes would have it:
  the command starts again in Python's UTF-8 mode. What the terminal cannot show is
  printed as an escape sequence.
  """
  shown = sys.stdout.encoding if sys.stdout else "utf-8"
  if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", shown)
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")


def tell(name: str, error: BaseException) -> None:
  """Prints what a user can mend in one line, a defect with its traceback."""
  if not isinstance(error, USER_ERRORS):
    traceback.print_exception(error)
    return
  text = _one_line(error) if isinstance(error, OSError) else error
  print(f"{name}: {text}", file=sys.stderr, flush=True)


def keep_memory() -> None:
  """Has glibc keep the memory that CPU steps free and need again.

  Giving it back to the system and getting it anew costs about a tenth of a training
  step. Does nothing where the C library has no such settings.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  for setting, value in _MALLOPT.items():
    mallopt(setting, value)


def expect_no_arguments(arguments: Sequence[str]) -> None:
  """Refuses what is not a flag.

  Raises:
    ValueError: Naming the first argument.
  """
  if arguments:
    raise ValueError(f"expected flags only, got {arguments[0]!r}")


def _one_line(error: BaseException) -> str:
  """The last line of a text with a traceback in it, otherwise all of it."""
  text = str(error)
  if text[:1] == text[-1:] == "'":  # a message that was turned into code
    text = text[1:-1]
  text = text.replace("\\n", "\n").replace("\\'", "'").strip()
  if "Traceback" in text:
    text = text.splitlines()[-1]
  return " ".join(text.split())
