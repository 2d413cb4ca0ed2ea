"""The ustar header of a member: the only one our writer makes, so the only one our reader takes (ADR 2)."""

from __future__ import annotations

BLOCK_BYTES = 512
END_BYTES = 2 * BLOCK_BYTES
_MODE = b"0000644\0"
_OWNER = b"0000000\0"
_TIME = b"00000000000\0"
_MAX_OCTAL_BYTES = (8 << 30) - 1


def member_header(path: str, size: int) -> bytes:
    """Return the 512 bytes before a regular file of `size` bytes: mode 0644, owner 0, time 0."""
    name = path.encode("ascii")
    if len(name) > 100:
        raise ValueError(f"{path} has no place in a ustar header")
    before = name.ljust(100, b"\0") + _MODE + 2 * _OWNER + _size_field(size) + _TIME
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
    checksum = sum(before) + 8 * ord(" ") + sum(after)
    return before + b"%06o\0 " % checksum + after


def _size_field(size: int) -> bytes:
    """Octal as POSIX has it; base-256 (GNU) from 8 GiB, where eleven octal digits end."""
    return b"%011o\0" % size if size <= _MAX_OCTAL_BYTES else b"\x80" + size.to_bytes(11, "big")


def padding(size: int) -> int:
    """Return how many zero bytes follow a member of `size` bytes."""
    return -size % BLOCK_BYTES


def padded(size: int) -> int:
    """Return `size` with its padding."""
    return size + padding(size)
