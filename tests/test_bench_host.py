"""The host's bench measures the processes it says it does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.host import hosts_of, memory, own_hosts


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_hosts_are_those_of_the_system() -> None:
    """Shared pages count in part; hosts are found by the folder of their socket, and ended."""
    assert 0 < memory(os.getpid(), "pss") <= memory(os.getpid(), "rss")
    with pytest.raises(ValueError, match="no xss"):
        memory(os.getpid(), "xss")
    with own_hosts() as found:
        folder = os.environ["XDG_RUNTIME_DIR"]
        code = "import time; print('up', flush=True); time.sleep(60)"
        stands_in = subprocess.Popen([sys.executable, "-c", code, f"--at={folder}/x"], stdout=subprocess.PIPE)
        assert stands_in.stdout is not None and stands_in.stdout.readline() == b"up\n"
        assert hosts_of(folder) == [stands_in.pid] and not found
    assert stands_in.wait(60) != 0 and os.environ.get("XDG_RUNTIME_DIR") != folder
