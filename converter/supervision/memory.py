"""Memory of processes and of the machine, as Linux tells it in /proc and in control groups.

What counts of a process is resident anonymous and shared memory (`RssAnon`, `RssShmem` of
`/proc/PID/status`, see proc(5)): pages of mapped files, such as weights that are read in place, can be
dropped at any time. Elsewhere than on Linux nothing is known.
"""

from __future__ import annotations

import os

__all__ = ["Family", "available", "can_measure", "margin", "oom_kills", "proportional", "resident"]

_GROUPS = "/sys/fs/cgroup"
# What is left to the machine: the child may take some between two looks at it.
_LEAST_MARGIN, _LARGEST_MARGIN, _SHARE = 64 * 2**20, 512 * 2**20, 20
_UNLIMITED = 2**60  # version 1 writes about 2^63 where there is no limit


def can_measure() -> bool:
    """Whether the memory of processes can be told here."""
    return resident([os.getpid()]) > 0


def _read(path: str) -> bytes:
    """A small file; nothing where there is none, as of a process that has just ended."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(file)


def _field(text: bytes, name: bytes) -> int | None:
    """The number after `name` at the start of a line, in its file's own unit."""
    start = (b"\n" + text).find(b"\n" + name)
    if start < 0:
        return None
    words = text[start + len(name) :].split(maxsplit=1)
    return int(words[0]) if words and words[0].isdigit() else None


def resident(processes: list[int]) -> int:
    """Bytes of anonymous and shared memory that processes hold; pages that they share count once for each."""
    total = 0
    for process in processes:
        status = _read(f"/proc/{process}/status")
        total += sum(_field(status, name) or 0 for name in (b"RssAnon:", b"RssShmem:"))
    return total * 1024


def proportional(processes: list[int]) -> int:
    """The same with shared pages parted among those that share them: exact, but slow for large processes."""
    total = 0
    for process in processes:
        rollup = _read(f"/proc/{process}/smaps_rollup")
        parts = [_field(rollup, name) for name in (b"Pss_Anon:", b"Pss_Shmem:")]
        if None in parts:  # kernels before 5.4
            total += resident([process]) // 1024
        total += sum(part or 0 for part in parts)
    return total * 1024


class Family:
    """This process's descendants: those of ended children, too, where the kernel hands them to this one.

    A process is asked for its parent once: whoever is no descendant when it appears never becomes one.
    """

    def __init__(self) -> None:
        self._strangers: set[int] = set()
        self._members: set[int] = set()

    def members(self) -> list[int]:
        """The processes that are alive."""
        own = os.getpid()
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208
        self._strangers &= alive
        self._members &= alive
        parents = {process: _parent(process) for process in alive - self._strangers - self._members - {own}}
        found = True
        while found:  # numbers are handed out in order, but start again some day
            found = False
            for process, parent in list(parents.items()):
                if parent == own or parent in self._members:
                    self._members.add(process)
                    del parents[process]
                    found = True
        self._strangers.update(parents)
        return sorted(self._members)

    def memory(self, bound: int) -> int:
        """Bytes that they hold; above `bound` it is told exactly."""
        members = self.members()
        size = resident(members)
        return size if size <= bound or len(members) < 2 else proportional(members)


def _parent(process: int) -> int:
    stat = _read(f"/proc/{process}/stat")
    words = stat[stat.rfind(b")") + 1 :].split()
    return int(words[1]) if len(words) > 1 else 0


def _groups() -> list[tuple[str, bool]]:
    """Folders of the control groups that may bound this process's memory, and whether of version 2."""
    found = []
    for line in _read("/proc/self/cgroup").decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory") or "memory" in controllers.split(","):
            root = _GROUPS if not controllers else f"{_GROUPS}/memory"
            parts = [part for part in path.split("/") if part not in ("", "..")]
            # Inside of a container the path may be the host's, and its root the container's own group.
            places = ["/".join([root, *parts[:count]]) for count in range(len(parts) + 1)]
            found += [(place, not controllers) for place in places]
    return found


def _left_in(folder: str, second: bool) -> tuple[int, int] | None:
    """Limit of a group and what of it is left, caches of files not counted as taken; None without a limit."""
    names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, usage = (_read(f"{folder}/{name}").strip() for name in names)
    if not (limit.isdigit() and usage.isdigit()) or int(limit) >= _UNLIMITED:
        return None
    stat = _read(f"{folder}/memory.stat")
    prefix = b"" if second else b"total_"
    cached = sum(_field(stat, prefix + name) or 0 for name in (b"inactive_file ", b"active_file "))
    return int(limit), int(limit) - int(usage) + cached


def _bounds() -> list[tuple[int, int]]:
    """Size and what is left, in bytes: of the machine, and of each control group that has a limit."""
    info = _read("/proc/meminfo")
    total, left = _field(info, b"MemTotal:"), _field(info, b"MemAvailable:")
    found = [group for folder, second in _groups() if (group := _left_in(folder, second)) is not None]
    if total is not None and left is not None:
        found.append((total * 1024, (left + (_field(info, b"SwapFree:") or 0)) * 1024))
    return found


def available() -> int | None:
    """Bytes that can be taken before the kernel ends a process; None where that cannot be told."""
    return min((left for _, left in _bounds()), default=None)


def margin() -> int:
    """Bytes to leave alone: a twentieth of the memory that there is, 64 to 512 MiB."""
    size = min((size for size, _ in _bounds()), default=0)
    return min(max(size // _SHARE, _LEAST_MARGIN), _LARGEST_MARGIN)


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started."""
    return _field(_read("/proc/vmstat"), b"oom_kill ") or 0
