"""A daemon of a test that listens at a socket, and answers one client."""

from __future__ import annotations

import socket
import threading
from pathlib import Path


class Listening(threading.Thread):
    """The daemon. A test says in `serve` what it does with its client."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.asked = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self.start()

    def run(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            self.serve(connection)
        self._socket.close()

    def serve(self, connection: socket.socket) -> None:
        """Hear what the client asks, and answer."""
        raise NotImplementedError
