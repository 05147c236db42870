"""Readers of rows that end or hold up the process that reads them."""

import os
import pathlib
import runpy
import signal
import time

from metro_jax.data import schema

rows = runpy.run_path(str(pathlib.Path(__file__).with_name("tsv_rows.py")))


class OddReader:
  """Ten rows, of which some are odd."""

  name = "odd"
  labels = schema.BODY

  def __init__(self, deadly=(), endless=(), unknown=(), once: str = ""):
    self._deadly, self._endless, self._unknown = deadly, endless, unknown
    self._once = once  # a file that says that the process has died before

  def __len__(self) -> int:
    return 10

  def where(self, row: int) -> str:
    return f"odd row {row}"

  def read(self, row: int) -> schema.Example:
    if row in self._deadly and not (self._once and os.path.exists(self._once)):
      if self._once:
        pathlib.Path(self._once).touch()
      os.kill(os.getpid(), signal.SIGKILL)
    if row in self._endless:
      time.sleep(3600)
    if row in self._unknown:
      raise RuntimeError("never seen\nbefore")
    print("a library that prints to the pipe of answers")
    return schema.make_example(
      schema.BODY, f"odd/{row}", rows["picture"](row), [24, 24], 40
    )


class SlowToOpen(OddReader):
  """Hangs in the process that it is sent to, as at a disk that does not answer."""

  def __setstate__(self, state: dict[str, object]) -> None:
    time.sleep(3600)
