"""A real OpenStack Swift with its S3 API on loopback: four processes, rings and all, on disk.

It lives in a virtual environment of its own (`make .swift`), because its dependencies are not ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from free_ports import free_ports

VENV = Path(os.environ.get("DYNAMOC_TEST_SWIFT_VENV", Path(__file__).parents[3] / ".swift"))
USER, SECRET = "kv:kv", "kv-test-secret"
READY_S = 60.0

SWIFT = """\
[swift-hash]
swift_hash_path_suffix = test
[storage-policy:0]
name = default
default = yes
"""
SERVER = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
devices = {folder}/data
mount_check = false
swift_dir = {folder}/etc
user = {user}
workers = {workers}
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
FILTERS = {
    "catch_errors": "",
    "cache": "memcache_servers = 127.0.0.1:1\n",
    "listing_formats": "",
    "bulk": "",
    "s3api": "location = us-east-1\n",
    "tempauth": f"user_kv_kv = {SECRET} .admin\n",
    "slo": "",
    "dlo": "",
}
PROXY = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}/etc
user = {user}
workers = {workers}
[pipeline:main]
pipeline = {pipeline} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


def is_installed() -> bool:
    """Whether there is a Swift to start."""
    return (VENV / "bin" / "swift-proxy-server").exists()


class Swift:
    """The running servers; `environment` is what an S3 client of them needs."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder = folder
        self._workers = workers
        self._ports = dict(zip(("account", "container", "object", "proxy"), free_ports(4), strict=True))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._configure()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['proxy']}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        for kind in self._ports:
            command = [VENV / "bin" / f"swift-{kind}-server", self.folder / "etc" / f"{kind}-server.conf"]
            with (self.folder / f"{kind}.log").open("ab") as log:
                self._processes.append(
                    subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
                )
        deadline = time.monotonic() + READY_S
        for port in self._ports.values():
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < deadline, f"swift does not start: see {self.folder}"
                time.sleep(0.05)

    def signal(self, what: signal.Signals) -> None:
        """To every process of every server."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, what)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        for process in self._processes:
            process.wait(10)
        self._processes.clear()

    def _configure(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir(parents=True)
        (self.folder / "data" / "d1").mkdir(parents=True)
        (etc / "swift.conf").write_text(SWIFT)
        import pwd

        facts = {"folder": self.folder, "user": pwd.getpwuid(os.getuid()).pw_name, "workers": self._workers}
        for kind, port in self._ports.items():
            if kind == "proxy":
                text = PROXY.format(port=port, pipeline=" ".join(FILTERS), **facts)
                text += "".join(
                    f"[filter:{name}]\nuse = egg:swift#{_egg(name)}\n{more}" for name, more in FILTERS.items()
                )
            else:
                text = SERVER.format(kind=kind, port=port, **facts)
                self._ring(kind, port)
            (etc / f"{kind}-server.conf").write_text(text)

    def _ring(self, kind: str, port: int) -> None:
        builder = self.folder / "etc" / f"{kind}.builder"
        for words in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
            subprocess.run([VENV / "bin" / "swift-ring-builder", builder, *words], check=True, capture_output=True)


@contextlib.contextmanager
def swift(folder: Path, workers: int = 1) -> Iterator[Swift]:
    """Servers for as long as the block lasts."""
    server = Swift(folder, workers)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _egg(name: str) -> str:
    return "memcache" if name == "cache" else name
