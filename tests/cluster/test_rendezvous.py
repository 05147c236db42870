"""Before JAX connects the processes, those that are missing are named."""

import contextlib
import socket
import struct
import time
from concurrent import futures

import pytest

from metro_jax.cluster import rendezvous


def free_port() -> int:
  with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    return found.getsockname()[1]


def hold(indices, count, limit_s):
  """What every process that came found out: None or its error."""
  coordinator = f"127.0.0.1:{free_port()}"
  with futures.ThreadPoolExecutor(len(indices)) as pool:
    begun = [
      pool.submit(rendezvous.hold, coordinator, count, index, limit_s)
      for index in indices
    ]
    return [future.exception(timeout=60) for future in begun]


def test_when_all_come_nobody_waits_in_vain():
  assert hold(range(5), 5, 30.0) == [None] * 5


def test_every_process_that_came_names_those_that_did_not():
  errors = hold((0, 1, 3), 5, 1.0)
  for index, error in zip((0, 1, 3), errors, strict=True):
    assert isinstance(error, rendezvous.AbsentError)
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
    with pytest.raises(rendezvous.AbsentError, match=f"cannot listen at port {port}"):
      rendezvous.hold(f"127.0.0.1:{port}", 2, 0, 1.0)


def call(port) -> socket.socket:
  """A connection to a process that is about to listen."""
  while True:
    try:
      return socket.create_connection(("127.0.0.1", port), 10)
    except ConnectionRefusedError:
      continue


def reset(connection) -> None:
  """Closes it as a machine that has lost it does."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
  connection.close()


def test_a_connection_that_is_reset_ends_nothing():
  port = free_port()
  with futures.ThreadPoolExecutor(3) as pool:
    begun = [pool.submit(rendezvous.hold, f"127.0.0.1:{port}", 3, 0, 30.0)]
    reset(call(port))  # before it said anything
    lost = call(port)
    lost.sendall(b"metro_jax 1\n")
    reset(lost)  # after it was counted: it must call again before all can go on
    time.sleep(0.2)
    begun += [
      pool.submit(rendezvous.hold, f"127.0.0.1:{port}", 3, index, 30.0)
      for index in (2, 1)
    ]
    assert [future.exception(timeout=60) for future in begun] == [None] * 3


def test_an_answer_of_another_program_is_no_answer():
  with socket.create_server(("127.0.0.1", 0)) as other:
    port = other.getsockname()[1]
    with futures.ThreadPoolExecutor(1) as pool:
      caller = pool.submit(rendezvous.hold, f"127.0.0.1:{port}", 2, 1, 0.2)
      while not caller.done():
        other.settimeout(0.1)
        with contextlib.suppress(OSError):
          connection, _ = other.accept()
          connection.sendall(b"220 mail.example ESMTP\n")
          connection.close()
      assert "missing process 0 at" in str(caller.exception())


def test_strangers_are_not_counted():
  coordinator = f"127.0.0.1:{(port := free_port())}"
  with futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(rendezvous.hold, coordinator, 2, 0, 1.5)
    for text in (b"GET / HTTP/1.1\r\n", b"7", b"1", b"\xff\xfe\n", b""):
      with call(port) as stranger:
        stranger.sendall(text)
    assert "missing process 1" in str(first.exception(timeout=30))
