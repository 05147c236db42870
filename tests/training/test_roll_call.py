"""Before JAX connects the processes, those that are missing are named."""

import socket
from concurrent import futures

import pytest

from metro_jax.training import roll_call


def free_port() -> int:
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def hold(indices, count, limit_s):
  """What every process that came found out: None or its error."""
  coordinator = f"127.0.0.1:{free_port()}"
  with futures.ThreadPoolExecutor(len(indices)) as pool:
    begun = [
      pool.submit(roll_call.hold, coordinator, count, index, limit_s)
      for index in indices
    ]
    return [future.exception(timeout=60) for future in begun]


def test_when_all_come_nobody_waits_in_vain():
  assert hold(range(5), 5, 30.0) == [None] * 5


def test_every_process_that_came_names_those_that_did_not():
  errors = hold((0, 1, 3), 5, 1.0)
  for index, error in zip((0, 1, 3), errors, strict=True):
    assert isinstance(error, roll_call.AbsentError)
    assert str(error) == (
      f"start of process {index} on {socket.gethostname()}: expected all 5 processes "
      "within 1 s, missing process 2, process 4"
    )


def test_without_the_first_process_its_address_is_named():
  (error,) = hold((1,), 2, 0.1)
  assert "missing process 0 at 127.0.0.1:" in str(error)


def test_a_taken_port_is_said_to_be_taken():
  with socket.create_server(("", 0)) as other:
    port = other.getsockname()[1]
    with pytest.raises(roll_call.AbsentError, match=f"cannot listen at port {port}"):
      roll_call.hold(f"127.0.0.1:{port}", 2, 0, 1.0)


def test_strangers_are_not_counted():
  coordinator = f"127.0.0.1:{(port := free_port())}"
  with futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(roll_call.hold, coordinator, 2, 0, 1.5)
    for text in (b"GET / HTTP/1.1\r\n", b"7", b""):
      while True:
        try:
          with socket.create_connection(("127.0.0.1", port), 1) as stranger:
            stranger.sendall(text)
          break
        except ConnectionRefusedError:
          continue
    assert "missing process 1" in str(first.exception(timeout=30))
