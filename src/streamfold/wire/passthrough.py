"""Passthrough: a body of a format that nobody told us.

Two readers share the bytes. One keeps the body as it came, up to `MAX_BODY`, and what HTTP said of it. The other
cuts it into frames and asks `recognise`; if it is one of the known formats in disguise, that format's fold takes over
from the first frame on, and the stream ends, counts and is viewed as one of that format, with the body beside it.

The native response says both: `status_code`, `headers`, `body` (text, or base64 with `encoding`), `bytes` (its full
length), `truncated`, and `format` with the `response` of the inner fold if there is one. A JSON body of no known format
may still say its `usage`, which is taken.

A body that is not recognised has no end of its own, so the end of its bytes is one; and it counts as one chunk, since
where its reads were cut says nothing about it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from streamfold.errors import UsageError
from streamfold.framing import AutoFramer, Framer, Raw
from streamfold.growth import json_text, merged
from streamfold.types import JSON, AccumulatedData, PassthroughOutput, StreamType
from streamfold.wire import fold_class, recognise
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, Fold, decode
from streamfold.wire.joined import documents
from streamfold.wire.usage import openai_usage

__all__ = ["MAX_BODY", "Passthrough"]

MAX_BODY: Final = 1024 * 1024
"""Bytes of a body that are kept. Reading it for a known format goes on beyond them."""

MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes that are looked at before a body is taken to be of no known format, and the longest frame of them all."""

MAX_UNRECOGNISED: Final = 32
"""Frames of which the same holds."""


class Passthrough(Fold):
    """Keeps a body, and folds it if it turns out to be of a known format."""

    __slots__ = (
        "_body",
        "_framer",
        "_headers",
        "_inner",
        "_pending",
        "_pending_bytes",
        "_size",
        "_status",
        "_told_error",
        "_usage",
    )

    format: ClassVar[str] = "passthrough"
    stream_type: ClassVar[StreamType] = StreamType.PASSTHROUGH

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()
        self._size = 0
        self._status: int | None = None
        self._headers: dict[str, str] | None = None
        self._framer: AutoFramer | None = AutoFramer(max_frame_bytes=MAX_FRAME)
        self._inner: Fold | None = None
        self._pending: list[tuple[bytes, str | None]] = []
        self._pending_bytes = 0
        self._usage: Any = None
        self._told_error: Any = None

    @classmethod
    def framer(cls) -> Framer:
        return Raw()

    @property
    def has_end_marker(self) -> bool:  # type: ignore[override]  # told by the stream, not by the format
        return self._inner is not None and self._inner.has_end_marker

    @property
    def end_required(self) -> bool:  # type: ignore[override]
        return self._inner is not None and self._inner.end_required

    @property
    def ends_with_finish(self) -> bool:  # type: ignore[override]
        return self._inner is not None and self._inner.ends_with_finish

    @property
    def chunks(self) -> int:
        return self._inner.chunks if self._inner is not None else min(self._size, 1)

    @property
    def anomalies(self) -> list[str]:
        said = super().anomalies
        if self._inner is not None:
            said += [code for code in self._inner.anomalies if code not in said]
            said += sorted(self._framer.anomalies - set(said)) if self._framer is not None else []
        return said

    def note_http(self, status_code: int | None, headers: Mapping[str, str] | None) -> None:
        if status_code is not None:
            self._status = status_code
        if headers is not None:
            self._headers = {str(name): str(value) for name, value in headers.items()}

    # ------------------------------------------------------------------ the body

    def add_all(self, payloads: Sequence[bytes], names: Sequence[str | None] | None) -> int:
        flags = 0
        for payload in payloads:
            flags |= self.add(payload)
        return flags

    def add(self, payload: bytes, name: str | None = None) -> int:
        if not payload:
            return 0
        self._keep(payload)
        return CHUNK if self._framer is None else self._take(*self._framer.feed(payload))

    def add_event(self, event: JSON, name: str | None = None) -> int:
        """A frame that somebody else decoded: a line of the body."""
        line = json_text(event).encode("utf-8", "replace") + b"\n"
        self._keep(line)
        return self._take([line], [name])

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if not self.full:
            self._body += data[: MAX_BODY - len(self._body)]
        if self._inner is None:
            self.finished = True  # the end of such a body is the end of its bytes

    def end_of_body(self) -> int:
        payloads, names = self._framer.close() if self._framer is not None else ([], None)
        flags = self._take(payloads, names) if payloads else 0
        # Only now: an error ends a stream, and the body of this one was still to come.
        if self.error is None and self._status is not None and self._status >= 400:
            self.error = error_details(self._told_error or {}, status=self._status)
        return flags

    # ------------------------------------------------------------------ the format in disguise

    def _take(self, payloads: list[bytes], names: list[str | None] | None) -> int:
        """Takes frames of the body. Before the format is known any byte is a chunk, afterwards what its fold says."""
        inner = self._inner
        if inner is not None:
            flags = inner.add_all(payloads, names)
            self._follow(inner)
            return flags
        for at, payload in enumerate(payloads):
            name = names[at] if names is not None else None
            self._pending.append((payload, name))
            self._pending_bytes += len(payload)
            inner = self._recognised(payload, name)
            if inner is not None:
                return CHUNK | self._begin(inner, payloads[at + 1 :], names[at + 1 :] if names is not None else None)
            if self._is_foreign():  # asked for each frame: where reads were cut must not matter
                self._framer = None
                self._pending.clear()
                break
        return CHUNK

    def _begin(self, inner: Fold, payloads: list[bytes], names: list[str | None] | None) -> int:
        """Hands what waited, and the rest of this read, to the fold that knows it."""
        self._inner = inner
        flags = inner.add_all([payload for payload, _ in self._pending], [name for _, name in self._pending])
        flags |= inner.add_all(payloads, names)
        self._pending.clear()
        self._follow(inner)
        return flags

    def _is_foreign(self) -> bool:
        binary = self._framer is not None and self._framer.framing == "raw"
        return binary or len(self._pending) >= MAX_UNRECOGNISED or self._pending_bytes > MAX_FRAME

    def _recognised(self, payload: bytes, name: str | None) -> Fold | None:
        """The fold of the format that this frame can only be of."""
        for event in _objects_in(payload):
            kind = recognise(event, name)
            if kind is not None and kind is not type(self):
                inner = kind()
                if self.full:
                    inner.close()
                return inner
            if isinstance(event.get("usage"), dict):
                self._usage = merged(self._usage, event["usage"])
            self._told_error = error_of(event, name) or self._told_error
        return None

    def _follow(self, inner: Fold) -> None:
        """Ends as the inner fold does."""
        self.ended = inner.ended
        self.finished = inner.finished
        self.malformed = inner.malformed
        if inner.error is not None:
            self.error = error_details(inner.error)

    def close(self) -> None:
        super().close()
        if self._inner is not None:
            self._inner.close()

    # ------------------------------------------------------------------ reading

    def response(self) -> JSON | None:
        out: JSON = {}
        if self._status is not None:
            out["status_code"] = self._status
        if self._headers is not None:
            out["headers"] = dict(self._headers)
        if self._inner is not None:
            out["format"] = self._inner.format
            out["response"] = self._inner.response()
        elif self._usage is not None:
            out["usage"] = self._usage
        if self._size:
            out.update(_spelled(bytes(self._body)), bytes=self._size, truncated=self._size > len(self._body))
        return out or None

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        inner = response.get("response")
        if isinstance(inner, dict):
            _view_inner(response.get("format"), inner, data)
        else:
            data.token_usage = openai_usage(response.get("usage"))
        status, headers = response.get("status_code"), response.get("headers")
        data.passthrough_output = PassthroughOutput(
            status_code=status if isinstance(status, int) else None,
            headers=headers if isinstance(headers, dict) else None,
            body=_body_of(response),
            truncated=bool(response.get("truncated")),
        )

    def finish_view(self, data: AccumulatedData) -> None:
        inner = self._inner
        if inner is None or data.response is None:
            return
        # The inner fold finds its own response where it would be without us.
        envelope, data.response = data.response, data.response.get("response")
        inner.finish_view(data)
        data.response, data.stream_type = envelope, self.stream_type


def _objects_in(payload: bytes) -> list[JSON]:
    """The objects of a frame: mostly one; several of a list, or of events that run into each other."""
    try:
        found = decode(payload)
    except (ValueError, RecursionError):
        found = documents(payload)[0]
    return [event for event in (found if isinstance(found, list) else [found]) if isinstance(event, dict)]


def _view_inner(format: Any, inner: JSON, data: AccumulatedData) -> None:
    try:
        kind = fold_class(str(format))
    except UsageError:  # a format that is not installed here
        return
    kind.view(inner, data)
    data.stream_type = Passthrough.stream_type


def _spelled(body: bytes) -> JSON:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode("ascii"), "encoding": "base64"}


def _body_of(response: JSON) -> bytes | None:
    body = response.get("body")
    if not isinstance(body, str):
        return None
    if response.get("encoding") != "base64":
        return body.encode("utf-8", "replace")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
