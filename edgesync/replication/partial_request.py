"""A request that comes in several frames, while they come."""

from __future__ import annotations


class PartialRequest:
    """A request of which not all frames have come."""

    __slots__ = ("_is_rev", "_parts", "is_oversized", "size")

    def __init__(self, *, is_rev: bool) -> None:
        """Begin with nothing; `is_rev`: what is too long is not kept, and refused as such."""
        self._is_rev = is_rev
        self._parts: list[bytes] = []
        self.size = 0
        self.is_oversized = False

    def append(self, data: bytes, max_document_bytes: int) -> int:
        """Keep a piece; return by how many bytes more is held now."""
        if self.is_oversized:
            return 0
        before = self.size
        self.size += len(data)
        if self._is_rev and self.size > max_document_bytes:
            self.is_oversized = True
            self._parts.clear()
            self.size = 0
        else:
            self._parts.append(data)
        return self.size - before

    def join(self) -> bytes:
        """Return its body; empty if it was too long."""
        return b"".join(self._parts)
