"""A line to a server that can be made slow while it is in use."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

PIECE = 4096
PATIENCE_S = 60.0


class Throttle:
    """Forwards connections from a port of its own. Each piece of an answer waits `pause_s` before it goes on."""

    def __init__(self, server: str) -> None:
        to = urlsplit(server)
        assert to.hostname is not None
        assert to.port is not None
        self.pause_s = 0.0
        self._to = to.hostname, to.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in tuple(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._open):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(self._to, PATIENCE_S)
            server.settimeout(None)
            self._open |= {client, server}
            for source, sink, is_answer in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._forward, args=(source, sink, is_answer))
                self._threads.append(thread)
                thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):  # an end was closed
            while data := source.recv(PIECE):
                if is_answer and self.pause_s:
                    time.sleep(self.pause_s)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def throttle(server: str) -> Iterator[Throttle]:
    """A line to the server for as long as the block lasts."""
    line = Throttle(server)
    try:
        yield line
    finally:
        line.close()
