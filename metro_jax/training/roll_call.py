"""Whether all processes came, asked before JAX connects them.

JAX ends a process that waits in vain without saying for whom. So the first process
listens at the coordinator's address until every other has told it its number, answers
all, and leaves the port to JAX.
"""

import contextlib
import json
import socket
import time

POLL_S = 0.5


class AbsentError(OSError):
  """Processes did not come in time."""


def hold(coordinator: str, count: int, index: int, limit_s: float) -> None:
  """Returns when all processes have come.

  Args:
    coordinator: "host:port" of the first process.
    count: How many processes there are.
    index: Which one this is.
    limit_s: How long to wait.

  Raises:
    AbsentError: On every process that came, naming those that did not, or the first
      one if it cannot be reached.
  """
  host, port = coordinator.rsplit(":", 1)
  deadline = time.monotonic() + limit_s
  if index == 0:
    missing = _answer_all(int(port), count, deadline)
  else:
    missing = _report((host.strip("[]"), int(port)), index, deadline)
  if missing:
    names = ", ".join(f"process {number}" for number in missing)
    if missing == [0]:
      names += f" at {coordinator}"
    raise AbsentError(
      f"start of process {index} on {socket.gethostname()}: expected all {count} "
      f"processes within {limit_s:.0f} s, missing {names}"
    )


def _answer_all(port: int, count: int, deadline: float) -> list[int]:
  """The first process: hears all, then tells them who is missing."""
  here: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port, count))
    while len(here) < count - 1 and time.monotonic() < deadline:
      server.settimeout(POLL_S)
      with contextlib.suppress(TimeoutError, ValueError):
        caller, _ = server.accept()
        stack.enter_context(caller)
        caller.settimeout(POLL_S)
        number = int(caller.recv(16).decode())
        if number in range(1, count):
          here[number] = caller  # a process that lost its connection calls again
    missing = [number for number in range(1, count) if number not in here]
    for caller in here.values():
      with contextlib.suppress(OSError):
        caller.sendall(json.dumps(missing).encode() + b"\n")
        caller.settimeout(5)
        caller.recv(1)  # the caller closes first, which leaves the port free
  return missing


def _listen(port: int, count: int) -> socket.socket:
  """On all of the machine's addresses, of both families where there are both."""
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    return socket.create_server(
      ("", port), family=family, backlog=count, dualstack_ipv6=both
    )
  except OSError as error:
    raise AbsentError(
      f"start of process 0 on {socket.gethostname()}: cannot listen at port {port} "
      f"({error.strerror}); is another run there?"
    ) from error


def _report(address: tuple[str, int], index: int, deadline: float) -> list[int]:
  """Another process: tells its number, and hears who is missing."""
  while time.monotonic() < deadline + 4 * POLL_S:
    with (
      contextlib.suppress(OSError),
      socket.create_connection(address, timeout=5) as caller,
    ):
      caller.sendall(str(index).encode())
      caller.settimeout(max(deadline - time.monotonic(), 0) + 6 * POLL_S)
      answer = caller.makefile().readline()
      if answer:
        return json.loads(answer)
    time.sleep(POLL_S)
  return [0]
