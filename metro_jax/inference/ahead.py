"""Runs one stage of the work in a thread, a little ahead of the next."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
_WAIT_S = 0.1


class _End:
  """Stands behind the last item; an error is raised there."""

  def __init__(self, error: BaseException | None = None):
    self.error = error


@contextlib.contextmanager
def ahead(items: Iterable[T], depth: int = 2) -> Generator[Generator[T]]:
  """Takes items from an iterable in a thread of its own.

  Args:
    items: What to go through; its errors are raised where they would come.
    depth: How many items wait at most.

  Yields:
    The items. When the block is left the thread takes no further ones and has ended.
  """
  waiting: queue.Queue[T | _End] = queue.Queue(depth)
  stop = threading.Event()

  def put(item: T | _End) -> None:
    while not stop.is_set():
      with contextlib.suppress(queue.Full):
        waiting.put(item, timeout=_WAIT_S)
        return

  def work() -> None:
    try:
      for item in items:
        put(item)
        if stop.is_set():
          return
    except BaseException as error:
      put(_End(error))
    else:
      put(_End())

  def taken() -> Generator[T]:
    while not isinstance(item := waiting.get(), _End):
      yield item
    if item.error is not None:
      raise item.error

  thread = threading.Thread(target=work, name="ahead", daemon=True)
  thread.start()
  try:
    yield taken()
  finally:
    stop.set()
    thread.join()
