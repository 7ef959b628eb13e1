"""Folders and files that are this person's alone: what another account made, may write or has linked is not believed.

A state folder says which jobs run, and with which environment. So each folder of it has to belong to this account, and
nobody else may write to it; each file is opened without following a link, and has to belong to this account as well.
The folders above are not looked at: whoever may write there can put another folder in this one's place, but not one
that belongs to this account. Standard library only.

`geozarr_runner.trust.folders` asks less of what a run leaves beside an output. Nothing there is run, so it takes a
volume that gives all files to one user, and mends a mode itself. Here neither would be safe.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import shlex
import stat
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from geozarr_nb.errors import StateUnusable, StorageFailed

LOCKS_UNKNOWN = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
ANOTHER = "set GEOZARR_STATE_DIR to a folder of your own"
LOCAL = "set GEOZARR_STATE_DIR to a folder on a local disk"


def check_folder(path: Path) -> bool:
    """Return whether a folder is there; it is this account's alone then.

    Raises
    ------
    StateUnusable
        It belongs to another account, others may write to it, or another account has linked it here; or this account
        has no home, and it would lie wherever this runs.
    """
    if not path.is_absolute():
        raise StateUnusable(
            "this account has no home folder, so the folder of jobs has no place",
            given=path,
            remedy=f"set HOME, or {ANOTHER}",
        )
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            # Whoever owns a link says where it leads.
            if found.st_uid not in (os.geteuid(), 0):
                raise StateUnusable(
                    "the folder of jobs is a link that another account has made", given=path, remedy=ANOTHER
                )
            found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    if found.st_uid != os.geteuid():
        raise StateUnusable(
            f"the folder of jobs belongs to another account (uid {found.st_uid})", given=path, remedy=ANOTHER
        )
    if others_may_write(path, found):
        raise StateUnusable(
            f"others may write to the folder of jobs (mode {stat.S_IMODE(found.st_mode):o}), and could have "
            "commands run from it",
            given=path,
            remedy=f"chmod go-w {shlex.quote(str(path))}, after a look at what is in it; or {ANOTHER}",
        )
    return True


def others_may_write(place: Path | int, found: os.stat_result) -> bool:
    """Return whether somebody else may write to a file or folder of this account.

    Its group is nobody else where it has no other member: the group of one's own, say, that many systems give everybody
    together with a umask of 002; or the `fsGroup` of a pod, which Kubernetes lets write at each start.

    Parameters
    ----------
    place
        Its path, or the open file.
    found
        What `stat` says of it.
    """
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and (_has_others(found.st_gid, os.geteuid()) or _has_acl(place))


@lru_cache(maxsize=64)
def _has_others(gid: int, uid: int) -> bool:
    """Return whether a group has, or may have, a member beside an account and root."""
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        group = None
    try:
        own = pwd.getpwuid(uid)
    except KeyError:
        own = None
    if group is not None and (own is None or set(group.gr_mem) - {own.pw_name, "root"}):
        return True
    accounts = {account.pw_uid: account.pw_gid for account in pwd.getpwall()}
    if own is not None and uid not in accounts:
        # A directory of accounts that does not list them all: only a group that has one's own name is one's own.
        return group is None or (group.gr_name, gid) != (own.pw_name, own.pw_gid)
    return any(theirs == gid for other, theirs in accounts.items() if other not in (0, uid))


def _has_acl(place: Path | int) -> bool:
    """Return whether more accounts than mode and group name may have rights; the group's mode is the most of theirs."""
    if sys.platform != "linux":
        return False
    try:
        return bool(os.getxattr(place, "system.posix_acl_access"))
    except OSError:  # there is none, or the file system knows none
        return False


def open_own(path: Path, flags: int, *, alone: bool = False) -> int:
    """Open a regular file of this account, without following a link; one that is made is readable by its owner only.

    Parameters
    ----------
    alone
        Others may not be allowed to write to it either.

    Raises
    ------
    StateUnusable
        It is a link or a special file, or another account's.
    OSError
        And its kinds: it is not there, say.
    """
    try:
        # A FIFO would have us wait for whoever writes to it.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link; a FIFO or a socket
            raise _not_ours(path, "it is a link or no regular file") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise  # it is not there, or cannot be written: a storage error
        raise _not_ours(path, f"it cannot be read ({os.strerror(error.errno or 0).lower()})") from error
    found = os.fstat(descriptor)
    why = None
    if not stat.S_ISREG(found.st_mode):
        why = "it is no regular file"
    elif found.st_uid != os.geteuid():
        why = f"it belongs to another account (uid {found.st_uid})"
    elif alone and others_may_write(descriptor, found):
        why = f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})"
    if why is not None:
        os.close(descriptor)
        raise _not_ours(path, why)
    return descriptor


def read_own(path: Path, *, alone: bool = False) -> bytes:
    """Return the content of a file, as `open_own` opens it."""
    with os.fdopen(open_own(path, os.O_RDONLY, alone=alone), "rb") as file:
        return file.read()


def lock(descriptor: int, operation: int, path: Path) -> None:
    """Take or look at a lock of an open file, as `fcntl.flock` does.

    Raises
    ------
    BlockingIOError
        Somebody else has it, where the operation does not wait.
    StorageFailed
        The file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in LOCKS_UNKNOWN:
            raise
        raise StorageFailed(
            "the file system of the folder of jobs knows no locks, without which two could run one job",
            given=path,
            remedy=LOCAL,
        ) from error


def unlock(descriptor: int) -> None:
    """Close an open file that has a lock, or looked at one, and let it go.

    A process that was forked meanwhile has the open file too, and would keep the lock for as long as it lives.
    """
    with suppress(OSError):  # it never had one
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _not_ours(path: Path, why: str) -> StateUnusable:
    return StateUnusable(
        f"a file of the folder of jobs is not believed: {why}",
        given=path,
        remedy=f"remove it if you did not make it: rm -r {shlex.quote(str(path.parent))}; or {ANOTHER}",
    )
