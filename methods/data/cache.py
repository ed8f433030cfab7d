"""The one folder eelit writes to on a user's machine, and how files are kept there so that a damaged one is noticed.

`EELIT_CACHE` names another folder; otherwise it is the platform's cache folder for `eelit`. Inside, `data` holds what
was fetched (see `eelit.methods.data.fetch`), `derived` what was made from it, and `weights`, `trees` and `smoke` what
was computed. What was fetched is checked against the manifest; whatever else is read again has a line before its
content that tells the digest of that content, of the file's name and of its folder's, so that it is taken for nothing
else: `keep` writes such files and `kept` reads them. Both cost what a BLAKE2b hash of the content costs, about a second
for a gigabyte.
"""

import contextlib
import errno
import hashlib
import os
import uuid
from pathlib import Path

import platformdirs

from eelit.methods.data.progress import say

FORMAT = b"eelit keeps, blake2b "
"""How the first line of a kept file begins; the digest follows."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the system says when a disk has no room left, gives this user no more of it, or fails."""


def cache_root() -> Path:
    """The cache folder; it need not exist yet."""
    chosen = os.environ.get("EELIT_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("eelit", appauthor=False))


def without_room(error: object) -> bool:
    """Tell whether a disk is full: that is no fault of whoever met it, and the next would meet it, too."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def write(target: Path, *parts: bytes) -> None:
    """Write a file whole or not at all, making its folder: aside, then renamed. Raises `OSError`."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def keep(target: Path, content: bytes) -> None:
    """Write a file that `kept` reads, whole or not at all, making its folder. Raises `OSError`."""
    write(target, FORMAT, _digest(target, content), b"\n", content)


def kept(target: Path) -> bytes | None:
    """The content of a file that `keep` wrote; None if there is none, or if its digest is another's.

    The latter is told in one sentence, and the file removed: whoever asked makes it anew.
    """
    if target.exists() and not target.is_file():  # a pipe would be waited for without end
        say(f"{target} is no file but a folder, a pipe, a socket or a device; what it should hold is made anew")
        return None
    try:
        with target.open("rb") as file:
            head, content = file.readline(len(FORMAT) + 200), file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        say(f"{target} cannot be read ({error.strerror or error}); what it held is made anew")
        return None
    if head != FORMAT + _digest(target, content) + b"\n":
        say(f"{target} is damaged (its digest is not that of its name and content); what it held is made anew")
        with contextlib.suppress(OSError):
            target.unlink()
        return None
    return content


def _digest(target: Path, content: bytes) -> bytes:
    """The cache may be moved, so no more than the last folder counts."""
    name = os.fsencode(os.path.join(target.absolute().parent.name, target.name))
    digest = hashlib.blake2b(name + b"\0", digest_size=16)
    digest.update(content)
    return digest.hexdigest().encode()
