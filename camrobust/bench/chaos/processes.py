"""Real processes to kill: what runs below a process, by /proc; only what this program has started is ever signalled."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def descendants(root: int) -> set[int]:
    """Processes below a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    fresh = {root}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def title(pid: int) -> str:
    """What a process calls itself; Ray titles a worker after what it runs. Empty where it is no more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def kill(pids: set[int], number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that has ended is no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
