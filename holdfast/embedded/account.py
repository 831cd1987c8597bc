"""The account that embedded servers run as when we are root: Postgres refuses root, and Valkey has no need of it.

No account is ever created, and no directory is opened up to others. A server enters its directory before it drops its
privileges, and reaches it as its working directory from then on, so the way there may stay closed (``/root`` is 0700).
"""

import os
import pwd
import sys
from pathlib import Path

import msgspec

from holdfast.embedded.errors import DataDirUnusable

# ``holdfast`` first, so that an operator who wants a dedicated account only has to create it.
CANDIDATES = ("holdfast", "postgres", "nobody")


class Account(msgspec.Struct, frozen=True):
    """An unprivileged account of this machine."""

    uid: int
    gid: int


def choose_account(cluster: Path) -> Account | None:
    """Return the account to drop to, or ``None`` when we are not root. An existing *cluster* keeps its owner.

    Raises:
        DataDirUnusable: We are root and there is nobody to become.
    """
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        raise DataDirUnusable("Postgres refuses to run as root: start holdfast as an ordinary user")
    if cluster.exists():
        owner = cluster.stat()
        if owner.st_uid == 0:
            raise DataDirUnusable(f"{cluster} belongs to root, which Postgres refuses to run as: chown -R it")
        return Account(uid=owner.st_uid, gid=owner.st_gid)
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise DataDirUnusable(f"Postgres refuses to run as root, and there is none of the accounts {', '.join(CANDIDATES)}")


def make_directory(path: Path, account: Account | None) -> None:
    """Make *path* for the account (or us) alone. Its parent must be ours: else a link in its place could lead us off.

    Raises:
        DataDirUnusable: It is there, and someone else's.
    """
    owner = os.geteuid() if account is None else account.uid
    try:
        path.mkdir(mode=0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid)
    except FileExistsError:
        found = path.lstat()
        if not path.is_dir() or path.is_symlink() or found.st_uid != owner:
            raise DataDirUnusable(
                f"{path} must be a directory of uid {owner}, not of uid {found.st_uid}: change its owner, or start"
                " holdfast as the account it was made by"
            ) from None
