"""How every command starts and fails: flags, then work, or one line and exit code 1."""

import codecs
import ctypes
import dis
import io
import locale
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from metro_jax import compiled

# glibc, malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD (-1: never), M_TOP_PAD (bytes).
_MALLOPT = {-4: 0, -1: -1, -2: 64 << 20}
USER_ERRORS = (ValueError, OSError, FloatingPointError)
ERROR_FILE = "error.txt"


def run(name: str, main: Callable[[list[str]], int | None]) -> None:
  """Parses the flags, runs a command and exits with its code.

  What its user can mend (a wrong value, a missing or damaged file, a full disk) is
  said in one line. So is a defect, whose traceback is kept in WORKDIR/error.txt, or
  printed where there is no such folder. --debug prints the traceback of any error.

  Args:
    name: What the line begins with.
    main: Takes the arguments that are not flags; returns the exit code.
  """
  _print_everything()
  flags.DEFINE_bool("debug", False, "Print the traceback of any error.")
  compiled.keep()

  def parse(argv: Sequence[str]) -> list[str]:
    try:
      arguments = flags.FLAGS(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, *USER_ERRORS) as error:
      if flags.FLAGS["debug"].value or "--debug" in argv:
        traceback.print_exception(error)
      sys.exit(f"{name}: {_one_line(error)}")
    if flags.FLAGS["verbosity"].using_default_value:
      logging.set_verbosity(logging.WARNING)  # libraries narrate at INFO
    return arguments

  def guarded(arguments: list[str]) -> int:
    try:
      return main(arguments) or 0
    except Exception as error:
      if flags.FLAGS.pdb_post_mortem:
        raise
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
  """Prints an error in one line, and keeps or prints the traceback of a defect."""
  text, place = str(error), None
  if isinstance(error, OSError):
    text = _one_line(error)
  shown = bool(_flag("debug"))
  if not is_users(error):
    place = _keep(error)
    shown = shown or place is None
    text = (
      f"a defect in the program: {type(error).__name__}: {_one_line(error)}; "
      f"its traceback is {f'in {place}' if place else 'above'}"
    )
  if shown:
    traceback.print_exception(error)
  print(f"{name}: {text}", file=sys.stderr, flush=True)


def is_users(error: BaseException) -> bool:
  """Returns whether an error is one that a user can mend, and no defect.

  What the system refuses is. Of other errors those are that this program raised itself:
  a `raise` of its own, where the traceback ends. The same kinds of error from within a
  library, or of an operation on arrays, nobody meant for a user.
  """
  if isinstance(error, OSError) or not isinstance(error, USER_ERRORS):
    return isinstance(error, OSError)
  trace = error.__traceback__
  while trace and trace.tb_next:
    trace = trace.tb_next
  if trace is None:
    return True
  code, module = trace.tb_frame.f_code, trace.tb_frame.f_globals["__name__"]
  raised = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
  return raised and module.split(".")[0] in ("__main__", "metro_jax")


def _keep(error: BaseException) -> pathlib.Path | None:
  """Writes a traceback into the run's folder, if there is one on this machine."""
  if not _flag("workdir"):
    return None
  path = pathlib.Path(str(_flag("workdir"))) / ERROR_FILE
  try:
    path.write_text("".join(traceback.format_exception(error)))
  except OSError:
    return None
  return path


def _flag(name: str) -> object:
  return flags.FLAGS[name].value if name in flags.FLAGS else None


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
