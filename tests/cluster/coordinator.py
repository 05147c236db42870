"""A stand-in for JAX's coordinator, for teams of threads; not a test itself."""

import threading
import time


class Coordinator:
  """Keys, values and barriers of `count` members, with the real one's errors."""

  def __init__(self, count: int):
    self._count, self._values, self._waiting = count, {}, {}
    self._changed = threading.Condition()

  def key_value_set(self, key, value, allow_overwrite=False):
    with self._changed:
      if key in self._values and not allow_overwrite:
        raise RuntimeError(f"ALREADY_EXISTS: {key}")
      self._values[key] = value

  def key_value_dir_get(self, prefix):
    with self._changed:
      return [(k, v) for k, v in self._values.items() if k.startswith(prefix)]

  def wait_at_barrier(self, name, timeout_in_ms):
    end = time.monotonic() + timeout_in_ms / 1000
    with self._changed:
      self._waiting[name] = self._waiting.get(name, 0) + 1
      self._changed.notify_all()
      while self._waiting[name] < self._count:
        if not self._changed.wait(max(end - time.monotonic(), 0)):
          raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out.")
