"""The host benchmark measures the right processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.host import find_hosts, private_host_folder, read_memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_hosts_are_read_from_the_system() -> None:
    """Shared pages count in part; hosts are found by their socket's folder, and ended."""
    assert 0 < read_memory(os.getpid(), "pss") <= read_memory(os.getpid(), "rss")
    with pytest.raises(ValueError, match="no xss"):
        read_memory(os.getpid(), "xss")
    with private_host_folder() as hosts:
        folder = os.environ["XDG_RUNTIME_DIR"]
        code = "import time; print('up', flush=True); time.sleep(60)"
        stand_in = subprocess.Popen([sys.executable, "-c", code, f"--at={folder}/x"], stdout=subprocess.PIPE)
        assert stand_in.stdout is not None and stand_in.stdout.readline() == b"up\n"
        assert find_hosts(folder) == [stand_in.pid] and not hosts
    assert stand_in.wait(60) != 0 and os.environ.get("XDG_RUNTIME_DIR") != folder
