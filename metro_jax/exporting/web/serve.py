"""Shows this folder's page: `python serve.py [PORT]`, on this machine alone."""

import contextlib
import functools
import http.server
import pathlib
import sys

ADDRESS = "127.0.0.1"


class Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files in the isolation that lets the browser use all cores."""

  extensions_map = {  # noqa: RUF012, as its base class has it
    **http.server.SimpleHTTPRequestHandler.extensions_map,
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
  }

  def end_headers(self) -> None:
    self.send_header("Cross-Origin-Opener-Policy", "same-origin")
    self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
    self.send_header("Cache-Control", "no-cache")
    super().end_headers()

  def log_message(self, *_: object) -> None:
    """Says nothing of requests."""


def main() -> None:
  port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
  folder = str(pathlib.Path(__file__).resolve().parent)
  handler = functools.partial(Handler, directory=folder)
  with http.server.ThreadingHTTPServer((ADDRESS, port), handler) as server:
    print(f"http://{ADDRESS}:{server.server_port}/ (Ctrl-C ends)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
      server.serve_forever()


if __name__ == "__main__":
  main()
