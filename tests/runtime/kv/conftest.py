"""The kernels' own source, compiled for the CPU and run lane by lane."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from dynamoc.runtime.kv.cuda.copier import SOURCES

COMPILER = shutil.which("g++")
SHIM = Path(__file__).with_name("kernel_on_host.cpp")


@pytest.fixture(scope="session")
def kernels_on_host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """What launches them."""
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels for the CPU")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cu").write_text("\n".join(source.read_text() for source in SOURCES))
    library = folder / "kernels.so"
    words = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", f'-DKERNEL="{folder / "kernels.cu"}"', str(SHIM)]
    subprocess.run([*words, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))
