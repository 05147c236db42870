"""Whether all processes came, asked before JAX connects them.

JAX ends a process that waits in vain without saying for whom. So the first process
listens at the coordinator's address until every other has told it its number, answers
all, and leaves the port to JAX. Connections break and strangers call; neither counts.
"""

import contextlib
import json
import socket
import time

POLL_S = 0.5
GREETING = b"metro_jax "
STRANGERS = 64  # that may call at once without keeping a process out


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
  others, told = set(range(1, count)), set[int]()
  here: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(_listen(port, count))
    server.settimeout(POLL_S)
    while True:
      while not others <= here.keys() | told and time.monotonic() < deadline:
        caller, number = _hear(server)
        if caller is not None:
          stack.enter_context(caller)
          here[number] = caller  # a process that lost its connection calls again
      missing = sorted(others - here.keys() - told)
      told |= {number for number, caller in here.items() if _tell(caller, missing)}
      here.clear()
      if missing or others <= told:
        return missing


def _hear(server: socket.socket) -> tuple[socket.socket | None, int]:
  """A caller and its number; None for nobody, or a stranger, who is not answered."""
  try:
    caller, _ = server.accept()
  except OSError:  # nobody called, or hung up
    return None, 0
  try:
    caller.settimeout(POLL_S)
    with caller.makefile("rb") as heard:
      said = heard.readline(len(GREETING) + 16)
    if said.startswith(GREETING) and said.endswith(b"\n"):
      return caller, int(said.removeprefix(GREETING))
  except (OSError, ValueError):
    pass
  caller.close()
  return None, 0


def _tell(caller: socket.socket, missing: list[int]) -> bool:
  """Answers a process; whether it heard."""
  try:
    caller.sendall(json.dumps(missing).encode() + b"\n")
    caller.settimeout(5)
    # The caller closes first, which leaves the port free.
    return caller.recv(1) == b""
  except OSError:
    return False


def _listen(port: int, count: int) -> socket.socket:
  """On all of the machine's addresses, of both families where there are both."""
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  try:
    return socket.create_server(
      ("", port), family=family, backlog=count + STRANGERS, dualstack_ipv6=both
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
      contextlib.suppress(OSError, ValueError),  # lost, or of another program
      socket.create_connection(address, timeout=5) as caller,
    ):
      caller.sendall(GREETING + b"%d\n" % index)
      caller.settimeout(max(deadline - time.monotonic(), 0) + 6 * POLL_S)
      answer = caller.makefile().readline()
      if answer.endswith("\n"):
        return [int(number) for number in json.loads(answer)]
    time.sleep(POLL_S)
  return [0]
