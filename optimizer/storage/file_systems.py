"""Keeps SQLite files off network file systems: its locks do not hold there, and a study would be damaged."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from optimizer.errors import ConfigError

MOUNTS = Path("/proc/mounts")
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph"}
    | {"gfs2", "ocfs2", "orangefs", "pvfs2", "panfs", "wekafs", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph"}
    | {"fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.seaweedfs", "fuse.davfs2"}
)


def file_of(url: str) -> Path | None:
    """Return the file of an SQLite database, None for any other."""
    path = sa.engine.make_url(url).database if url.startswith("sqlite") else None
    return Path(path) if path and path != ":memory:" else None


def require_local_disk(url: str) -> None:
    """Refuse an SQLite file on a network file system, where the machine tells which those are.

    Raises:
        ConfigError: it is on one.
    """
    path = file_of(url)
    if path is None or not MOUNTS.is_file():
        return
    kind = file_system_of(path.resolve(), MOUNTS.read_text(encoding="utf-8", errors="replace"))
    if kind in NETWORK:
        raise ConfigError(
            f"storage: {str(path)!r} is on a network file system ({kind}), where SQLite's locks do not hold; use a "
            "local disk (--runs-dir), or for several machines storage: postgresql+psycopg://USER@HOST/NAME"
        )


def file_system_of(path: Path, mounts: str) -> str:
    """Return the kind of file system that a path is on.

    Args:
        mounts: lines as in /proc/mounts; of two for one place the later one counts.
    """
    found, depth = "", -1
    for line in mounts.splitlines():
        _, place, kind, *_ = [*line.split(" "), "", ""]
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place))
        if path.is_relative_to(mounted) and len(mounted.parts) >= depth:
            found, depth = kind, len(mounted.parts)
    return found
