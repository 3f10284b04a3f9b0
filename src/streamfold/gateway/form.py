"""The short fields of a form (`multipart/form-data`, RFC 7578), as far as its first bytes show them.

Uploads of sound and pictures name their model so. The form itself passes on as it comes; nothing is parsed but this.
"""

from __future__ import annotations

import re

__all__ = ["form_field"]

LONGEST = 200


def form_field(form: bytes, name: str) -> str | None:
    """The value of a field, or None if it is not there, not whole, or too long to be a name or a flag."""
    head = rb'[; ]name="?' + re.escape(name.encode()) + rb'"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n'
    found = re.search(head + rb"([^\r\n]{1,%d})\r\n" % LONGEST, form)
    return found[1].decode("utf-8", "replace") if found is not None else None
