"""A folder that one process works in: made by this program, locked while it is used, cleared of its own files only.

Two files tell. ``.mild_ext`` marks a folder that this program made, and says for what; without it nothing is ever
deleted. ``.lock`` names the process that works in it now. The lock itself is the operating system's (``flock``), so
that it ends with the process however that ends, and a process id that is given out anew means nothing. For other
machines on a shared disk, where such a lock may not be seen, its owner touches the file every `BEAT` seconds; an owner
on another machine that has not done so for `SILENCE` seconds is taken for dead.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mild_ext.files import PARTIAL, as_text, remove_partial, write_text, writing
from mild_ext.reading import UnreadableFile, read_json
from mild_ext.sealed import SEAL

try:
    import fcntl
except ImportError:  # no POSIX: there the beat alone tells
    fcntl = None  # type: ignore[assignment]

MARKER = ".mild_ext"
LOCK = ".lock"
#: Seconds between two signs of life, and without one after which an owner elsewhere is taken for dead.
BEAT, SILENCE = 15.0, 90.0


class FolderInUse(ValueError):
    """Another process works in the folder; the message says which."""


class OwnedFolder:
    """A folder of one kind of work.

    Args:
        path: the folder; `claim` makes it.
        kind: what is in it, one word: ``"run"``, ``"comparison"``.
        known: patterns of the files that this kind of work writes, relative to the folder; ``*`` stays within a name.
        spare: names of files that may be there before the work begins, and say themselves what they are of.
    """

    def __init__(
        self, path: str | Path, kind: str, known: Sequence[str], spare: Sequence[str] = ()
    ) -> None:
        self.path, self.kind, self.known, self.spare = Path(path), kind, known, spare
        self._release: weakref.finalize[Any, Any] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this program made the folder, for this kind of work."""
        return self._marked_kind() == self.kind

    def require_ours(self, config: str | None = None) -> None:
        """Raise a ValueError unless this program made the folder, for this kind of work.

        Args:
            config: a JSON file that must not have become somebody else's meanwhile, by its seal.
        """
        if not self.is_ours:
            raise ValueError(
                f"{as_text(str(self.path))} was not made by mild_ext as the folder of a {self.kind} (it has no "
                f"{MARKER} that says so), so --overwrite will not delete anything in it; use another --out"
            )
        if config is not None and (self.path / config).is_file():
            with contextlib.suppress(UnreadableFile):  # damaged: what the marker says counts
                content = read_json(self.path / config)
                if not isinstance(content, dict) or SEAL not in content:
                    raise ValueError(
                        f"{as_text(str(self.path / config))} was not written by this version of mild_ext, so "
                        "--overwrite will not delete anything beside it; use another --out"
                    )

    def _marked_kind(self) -> str | None:
        try:
            text = (self.path / MARKER).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return text.partition("\n")[0].removeprefix("mild_ext ")

    @property
    def is_untouched(self) -> bool:
        """Whether there is nothing in it that a kill before the first file would not leave as well."""
        return not self.path.exists() or all(
            self._is_bookkeeping(p.name) or (self.is_ours and p.name in self.spare)
            for p in self.path.iterdir()
        )

    @staticmethod
    def _is_bookkeeping(name: str) -> bool:
        return name in (MARKER, LOCK) or (name.startswith(".") and name.endswith(PARTIAL))

    def claim(self) -> None:
        """Make the folder where there is none, lock it, mark it if it is new, and clear up after killed processes.

        Raises:
            FolderInUse: another process works in it.
            CannotWrite: it cannot be made or written to.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        if self.is_untouched and not self.is_ours:
            write_text(
                self.path / MARKER,
                f"mild_ext {self.kind}\nmild_ext made this folder. --overwrite deletes the files it knows in it.\n",
            )
        remove_partial(self.path)

    def clear(self) -> list[str]:
        """Delete what this kind of work writes; whatever else is in the folder stays.

        Returns:
            The files that stayed, relative to the folder, sorted.

        Raises:
            ValueError: this program did not make the folder, or not for this kind of work.
        """
        self.require_ours()
        stayed, folders = [], []
        for parent, names, files in os.walk(self.path):  # follows no link out of the folder
            folders += [os.path.join(parent, name) for name in names]
            for name in files:
                relative = os.path.relpath(os.path.join(parent, name), self.path)
                if _matches(relative, self.known):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(parent, name))
                elif relative not in (MARKER, LOCK):
                    stayed.append(as_text(relative))
        for folder in reversed(folders):
            relative = os.path.relpath(folder, self.path)
            if any(
                _matches(relative + "/x", (p.rpartition("/")[0] + "/x",))
                for p in self.known
                if "/" in p
            ):
                with contextlib.suppress(OSError):  # not empty, or a link: not ours to delete
                    os.rmdir(folder)
        return sorted(stayed)

    # ------------------------------------------------------------------------------------ the lock

    def lock(self) -> None:
        """Take the lock, for as long as this object lives or until `release`; again does nothing.

        Raises:
            FolderInUse: another process has it.
            CannotWrite: the file cannot be written.
        """
        if self._release is not None and self._release.alive:
            return
        path = self.path / LOCK
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            owner = _read_owner(descriptor)
            if not _take(descriptor) or _lives_elsewhere(owner, descriptor):
                raise FolderInUse(self._in_use(owner, descriptor))
            with writing(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        stop = threading.Event()
        threading.Thread(target=_beat, args=(descriptor, stop), daemon=True).start()
        self._release = weakref.finalize(self, _let_go, descriptor, stop)
        _HELD.add(descriptor)

    def release(self) -> None:
        """Give the lock back, where this object has it."""
        if self._release is not None:
            self._release()

    def _in_use(self, owner: dict[str, Any], descriptor: int) -> str:
        silent = max(0.0, time.time() - os.fstat(descriptor).st_mtime)
        who = "another process"
        if owner:
            who = (
                f"process {owner.get('pid')} on {owner.get('host')}, started {owner.get('started')}"
            )
        return (
            f"{as_text(str(self.path))} is in use by {who} (last sign of life {silent:.0f} s ago): wait for its end, "
            f"or stop it; if it is dead, its claim ends {SILENCE:.0f} s after its last sign of life"
        )


#: Descriptors of the locks held, which a forked process must not keep.
_HELD: set[int] = set()


def _forget_locks() -> None:
    """In a forked process: a lock would outlive its owner in the workers that read data."""
    for descriptor in _HELD:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def _let_go(descriptor: int, stop: threading.Event) -> None:
    stop.set()
    if descriptor in _HELD:  # not in a forked process
        _HELD.discard(descriptor)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)  # nobody's
        os.close(descriptor)


def _beat(descriptor: int, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(descriptor)


def _myself() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": [as_text(word) for word in sys.argv],
    }


def _boot() -> str:
    """Identifies this machine since it was started last."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


def _read_owner(descriptor: int) -> dict[str, Any]:
    """Who wrote the lock file; nothing where it was given back, or is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        owner = json.loads(os.read(descriptor, 1 << 16))
        if isinstance(owner, dict):
            return owner
    return {}


def _take(descriptor: int) -> bool:
    """Try to lock; True also where the system has no such locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
    return True


def _lives_elsewhere(owner: dict[str, Any], descriptor: int) -> bool:
    """Whether the owner is on another machine, and has given a sign of life lately."""
    if not owner or (fcntl is not None and owner.get("boot") == _boot()):
        return False  # given back, or dead: of this machine's, the system's lock has told
    last = os.fstat(descriptor).st_mtime
    os.utime(descriptor)  # what the disk's own clock says now
    now = os.fstat(descriptor).st_mtime
    if now - last < SILENCE:
        os.utime(descriptor, (last, last))
        return True
    return False


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches a pattern part by part: ``*`` stays within a name."""
    parts = PurePosixPath(Path(relative).as_posix()).parts
    for pattern in patterns:
        wanted = PurePosixPath(pattern).parts
        if len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            return True
    return False


@contextlib.contextmanager
def released_at_end(folder: OwnedFolder) -> Iterator[None]:
    """Give the folder's lock back when the work is done, or has failed."""
    try:
        yield
    finally:
        folder.release()
