"""Run an untrusted Python program in a process of its own and report how it ended.

The program runs in an isolated interpreter (no site packages, no environment) in an empty temporary folder, with an
empty stdin and discarded output. There are two layers of limits:

- the kernel's: CPU seconds, address space, file size, no core dump, no new process or thread (root is exempt from that
  limit, so root becomes nobody if `setpriv` is installed), no network (a network namespace, if allowed);
- the interpreter's, an audit hook that cannot be removed: no sockets, processes, foreign functions or signals to other
  processes, and no file opened for writing, renamed or removed outside the folder.

After the time limit the whole process group is killed. This stops the accidents of a small model; it does not hold back
a program that was written to escape. It needs a POSIX system.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

NOBODY = "65534"


@dataclass(frozen=True, slots=True)
class Limits:
    """The resources that a program may use."""

    seconds: float = 6.0  # wall-clock time
    cpu_seconds: int = 2
    memory: int = 512 << 20
    file_size: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a program: `passed`, the name of an exception, `time`, `left early` or `signal n`."""

    status: str

    @property
    def passed(self) -> bool:
        """True if the program ran to its last line."""
        return self.status == "passed"


# Runs in the child process. It reads the secret word that means success from stdin before the program starts, and
# writes it to a descriptor that the program does not know: neither `exit()` nor printing counts as success.
LAUNCHER = """
import os, resource, sys
word = sys.stdin.readline().strip()
folder, cpu, memory, size = os.path.realpath(os.getcwd()), *map(int, sys.argv[1:])
answer = os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # SIGXCPU comes first, to distinguish it from other ends
for kind, maximum in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size),
                   (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 64)):
    try:
        resource.setrlimit(kind, (maximum, maximum))
    except (ValueError, OSError):  # not every system has every limit
        pass
source = open("program.py", encoding="utf-8").read()
os.unlink("program.py")

def hook(inside=folder + os.sep, no=PermissionError, split=str.split, real=os.path.realpath, fsdecode=os.fsdecode,
         fspath=os.fspath, kind=isinstance, writing=os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
    rooms = {"socket", "subprocess", "ctypes", "pty", "fcntl", "syslog", "signal", "webbrowser", "resource", "mmap"}
    calls = {"os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.killpg",
             "os.setuid", "os.chroot", "os.putenv", "os.chmod", "os.chown", "os.mknod", "_thread.start_new_thread",
             "sys.addaudithook", "gc.get_objects", "gc.get_referrers", "code.__new__"}
    moves = {"os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate", "os.utime",
             "os.chdir", "os.setxattr", "os.removexattr", "shutil.rmtree", "shutil.move"}

    def judge(event, given):
        if event in calls or split(event, ".")[0] in rooms:
            raise no(event)
        if event == "open":
            path, mode, flags = given
            if not (flags & writing or kind(mode, str) and not {"w", "a", "x", "+"}.isdisjoint(mode)):
                return
            paths = (path,)
        elif event in moves:
            paths = given[:2]
        else:
            return
        for path in paths:
            if path is not None and not kind(path, int) and not (real(fsdecode(fspath(path))) + "/").startswith(inside):
                raise no(f"{event} {path!r}")
    return judge

del sys.argv[1:]
sys.addaudithook(hook())

def run(source, word, answer, write=os.write, leave=os._exit):
    try:
        exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
        write(answer, word.encode())
    except BaseException as error:
        write(answer, type(error).__name__.encode())
    leave(0)

run(source, word, answer)
"""


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run a program until it ends or reaches a limit."""
    limits = limits or Limits()
    if not hasattr(os, "killpg"):
        raise NotImplementedError("programs are run only on POSIX systems: their limits do not exist elsewhere")
    with tempfile.TemporaryDirectory(prefix="sandbox-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)  # the user that runs the program owns nothing
        (Path(folder) / "program.py").write_text(program, encoding="utf-8", errors="replace")
        return _run_in(folder, limits)


def _run_in(folder: str, limits: Limits) -> Outcome:
    numbers = [str(int(n)) for n in (limits.cpu_seconds, limits.memory, limits.file_size)]
    word = secrets.token_hex(8)
    child = subprocess.Popen(
        [*find_isolation_command(), *get_interpreter_command(), LAUNCHER, *numbers],
        cwd=folder,
        env={},
        close_fds=True,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        answer, _ = child.communicate(word + "\n", timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        answer = "time"
    finally:
        _kill_group(child.pid)
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None and not stream.closed:
                stream.close()
    if answer == "time" or child.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        return Outcome("time")
    if answer == word:
        return Outcome("passed")
    return Outcome(answer or (f"signal {-child.returncode}" if child.returncode else "left early"))


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has ended, perhaps as another user
        pass


def get_interpreter_command() -> tuple[str, ...]:
    """Return the command of the interpreter without packages, environment and user folder."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    return (str(Path(executable).resolve()), "-I", "-S", "-B", "-X", "utf8", "-c")


@lru_cache
def find_isolation_command() -> tuple[str, ...]:
    """Find the first command prefix that works to remove the network and, from root, its privileges.

    Root keeps the right to read, for an interpreter in a folder that only root can read.
    """
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    keep = "-all,+dac_read_search"
    as_nobody = (
        setpriv or "",
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps",
        keep,
        "--ambient-caps",
        keep,
        "--bounding-set",
        keep,
    )
    prefixes: list[tuple[str, ...]] = []
    if os.geteuid() == 0 and setpriv:
        prefixes += [(unshare, "--net", *as_nobody)] if unshare else []
        prefixes.append(as_nobody)
    elif unshare:
        prefixes.append((unshare, "--user", "--net"))
    return next((prefix for prefix in prefixes if _works(prefix)), ())


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        result = subprocess.run(
            [*prefix, *get_interpreter_command(), "import json"], capture_output=True, timeout=20, env={}, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def describe_isolation() -> str:
    """Describe the isolation of programs on this machine."""
    prefix = find_isolation_command()
    network = "no network (namespace)" if "--net" in prefix else "sockets refused by the interpreter"
    rights = (
        "as nobody"
        if "--reuid" in prefix
        else "as root: processes refused by the interpreter alone"
        if os.geteuid() == 0
        else "as this user"
    )
    return f"{network}, {rights}"
