"""A `vllm-patcher` for scripts to call: each call is a process, forked as in `tests.commands`.

The file that a script starts tells a socket of the tests what it was called with, and its own
streams; it ends as the fork does.
"""

from __future__ import annotations

import ast
import atexit
import functools
import json
import os
import socketserver
import sys
import threading
from pathlib import Path

from tests.commands import fork

# Without `json` and `socket`, which take as long to come as all the rest.
_CALLER = """\
#!/bin/sh
exec "{python}" -IS -c '
import _socket, os, sys
there = _socket.socket(_socket.AF_UNIX)
there.connect({address})
call = (os.getpid(), {checkout} or os.getcwd(), sys.argv[1:], os.getcwd(), dict(os.environ))
there.sendall(ascii(call).encode())
there.shutdown(_socket.SHUT_WR)
sys.exit(int(there.recv(9)))
' "$@"
"""


def install(program: Path, checkout: Path | None = None) -> None:
    """Write the file to call. Its patches are a checkout's, or those of the caller's folder."""
    text = _CALLER.format(
        python=sys.executable,
        address=json.dumps(_address()),
        checkout=json.dumps(str(checkout or "")),
    )
    program.write_text(text)
    program.chmod(0o755)


class _Call(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        caller, checkout, call, folder, environment = ast.literal_eval(self.rfile.read().decode())
        out, err = (Path(f"/proc/{caller}/fd/{number}") for number in (1, 2))
        process = fork(call, Path(folder), environment, out, err, Path(checkout))
        process.join()
        self.wfile.write(str(process.exitcode).encode())
        process.close()


@functools.cache
def _address() -> str:
    """Where this process hears of calls, from the first on: a name of Linux's, and no file."""
    name = f"\0vllm-patcher-{os.getpid()}"
    server = socketserver.ThreadingUnixStreamServer(name, _Call)
    atexit.register(server.server_close)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return name
