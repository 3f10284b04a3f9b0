"""Logged streams once more: their tapes folded with today's code, or played back at their pace.

A tape is the frames of a stream as they came, and it lies in the row's record beside what was made of them then. To
replay a row is to fold its frames again and to compare. What differs, differs because the code does: so a new version
can be held against yesterday's traffic before it sees today's.

That is only true of what the frames decide. How the connection ended is no frame: that a client hung up, that the
upstream broke off, that a plugin closed the stream. All this is taken from the row, as it was told to the fold then.
So is an error of which no frame has a word. Times, costs, and what was odd about the bytes around the frames are not
compared. And a tape from which something is missing (it was too long, its binary became digests) says nothing about
the code; such a row is not replayed, and told why.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from streamfold.errors import UsageError
from streamfold.store.row import LogRow
from streamfold.stream import StreamAccumulator
from streamfold.types import AccumulatedData, ErrorDetails, Outcome

__all__ = ["Recording", "Replayed", "UnreplayableError", "as_sse", "offsets", "paced", "recording", "replayed"]

TOLD_BESIDE: Final = (Outcome.CANCELLED.value, Outcome.TIMEOUT.value, Outcome.ABANDONED.value)
"""Outcomes that no frame tells."""
OF_THE_BYTES: Final = frozenset(
    (
        *("unterminated_event", "unterminated_array", "truncated_frame", "corrupt_frame", "oversized_event"),
        *("junk_line", "corrupt_encoding", "drained", "gate_exceeded"),
    )
)
"""Anomalies that were found around the frames, not in them (docs/anomalies.md)."""
NAMED_BY_TYPE: Final = frozenset(("anthropic-messages", "openai-responses"))
"""Formats whose events are named in the body as well as by SSE; clients of the first read nothing without the name."""

LONGEST_WAIT: Final = 86_400.0
"""Seconds; a row may hold any number, and no clock waits for all of them."""
CUT_FIELDS: Final = "…"
"""The field that the logging plugin puts in the place of those that it left out."""

_LEFT_OUT: Final = re.compile(r"\[… \d+ (?:bytes|items) left out\]")
_DIGEST: Final = re.compile(
    r'\{\\?"size\\?":\d+,\\?"sha256\\?":\\?"[0-9a-f]{64}\\?"|, \d+ bytes, sha256 [0-9a-f]{64}\]'
    r"|\[\d+ characters of base64\]"
)
"""What the logging plugin puts in the place of binary; in a record, or in the tape in it, which is JSON in JSON."""
_WORD: Final = re.compile(r"[a-z_.]+")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")


class UnreplayableError(UsageError):
    """A row that cannot be replayed; the message is the reason, in a few words."""


class Recording(msgspec.Struct):
    """The frames of a logged stream, in order; `dropped` more came when the tape was full."""

    frames: list[bytes]
    dropped: int = 0
    has_digests: bool = False
    """Whether binary was stored as digests: then frames are not all as they came."""


class Replayed(msgspec.Struct, kw_only=True):
    """What became of one row. `differs` gives what was logged and what comes out now, by field."""

    id: str
    created: str
    format: str | None
    model: str | None
    result: str
    """`same`, `differs` or `not replayed`."""
    differs: dict[str, tuple[Any, Any]] = {}
    why: str | None = None
    """Why it was not replayed."""


class _Dropped(msgspec.Struct):
    truncated: bool
    dropped_frames: int


class _Mark(msgspec.Struct):
    """The last item of a tape that was full."""

    streamfold: _Dropped


class _Said(msgspec.Struct):
    """An event that names itself."""

    type: str


# ---------------------------------------------------------------------- the tape of a row


def recording(row: LogRow) -> Recording:
    """The frames of a row, as many as are stored. Raises `UnreplayableError` if it has no tape."""
    return _recording(_record(row), row)


def _record(row: LogRow) -> dict[str, Any]:
    if row.record is None:
        raise UnreplayableError("content not stored")
    record = _decoded(row.record, "record")
    if not isinstance(record, dict):
        raise UnreplayableError("unreadable record")
    return record


def _recording(record: dict[str, Any], row: LogRow) -> Recording:
    tape = record.get("raw_response")
    if not isinstance(tape, str):
        raise UnreplayableError(_why_no_tape(record, row))
    if _LEFT_OUT.search(tape):
        raise UnreplayableError("tape cut to fit its column")
    try:
        items = msgspec.json.decode(tape, type=list[msgspec.Raw])
        dropped = _dropped(items[-1]) if items else 0
        frames = [_frame(bytes(item)) for item in items[: -1 if dropped else None]]
    except (msgspec.DecodeError, RecursionError):
        raise UnreplayableError("unreadable tape") from None
    return Recording(frames, dropped, _DIGEST.search(tape) is not None)


def _why_no_tape(record: dict[str, Any], row: LogRow) -> str:
    if CUT_FIELDS in record:
        return "record cut to fit its column"
    if not row.stream:
        return "not a stream"
    if record.get("response") is None and record.get("chunks"):
        return "content not stored"
    return "no tape"


def _dropped(item: msgspec.Raw) -> int:
    try:
        mark = msgspec.json.decode(item, type=_Mark).streamfold
    except (msgspec.DecodeError, RecursionError):  # a frame like any other
        return 0
    return mark.dropped_frames


def _frame(item: bytes) -> bytes:
    """A payload as it came: what is a string on the tape was no JSON."""
    return msgspec.json.decode(item, type=str).encode() if item.startswith(b'"') else item


# ---------------------------------------------------------------------- folding again


def replayed(row: LogRow) -> Replayed:
    """Folds the tape of a row again, and says what differs from its record."""
    done = Replayed(
        id=row.id, created=row.created, format=row.format, model=row.response_model or row.model, result="same"
    )
    try:
        done.differs = _differing(row)
    except UnreplayableError as reason:
        done.result, done.why = "not replayed", str(reason)
    except RecursionError:
        done.result, done.why = "not replayed", "nested too deeply"
    else:
        done.result = "differs" if done.differs else "same"
    return done


def _differing(row: LogRow) -> dict[str, tuple[Any, Any]]:
    record = _record(row)
    frames = _whole(record, row)
    data = _folded(frames, record, row)
    logged = _compared(record, row)
    now = _compared(_decoded(msgspec.json.encode(data, enc_hook=str), "response"), row)
    return {name: (logged[name], now[name]) for name in logged if logged[name] != now[name]}


def _whole(record: dict[str, Any], row: LogRow) -> list[bytes]:
    """The frames, if nothing that decides the response is missing."""
    if row.status == "processing":
        raise UnreplayableError("still under way")
    found = _recording(record, row)
    if found.dropped:
        raise UnreplayableError(f"truncated tape, {found.dropped} frames are missing")
    integrity = _object(record, "integrity")
    if _LEFT_OUT.search(row.record or ""):
        raise UnreplayableError("record cut to fit its column")
    if found.has_digests or _DIGEST.search(row.record or ""):
        raise UnreplayableError("binary stored as digests")
    if integrity.get("missing"):
        raise UnreplayableError("chunks were missing")
    if "size_limit" in (integrity.get("anomalies") or ()):
        raise UnreplayableError("folded only up to the size limit")
    return found.frames


def _folded(frames: Sequence[bytes], record: dict[str, Any], row: LogRow) -> AccumulatedData:
    try:
        stream = StreamAccumulator(str(record.get("format")), request_id=row.id)
    except UsageError:
        raise UnreplayableError("unknown format") from None
    stream.note_http(row.http_status)
    for frame in frames:
        stream.add(frame)
    outcome, error = _told_beside(frames, record, row)
    data = stream.finish(outcome, error, status_code=row.http_status).data
    assert data is not None
    if outcome is Outcome.CANCELLED and data.status == Outcome.SUCCESS.value:
        data.status = Outcome.CANCELLED.value  # it is whole, but the client did not get all of it
    return data


def _told_beside(
    frames: Sequence[bytes], record: dict[str, Any], row: LogRow
) -> tuple[Outcome | None, ErrorDetails | None]:
    """How the stream ended, as far as that was told by somebody else than the stream itself."""
    status = _status(record, row)
    try:
        error = msgspec.convert(record.get("error_details"), ErrorDetails | None)
    except msgspec.ValidationError:
        error = None
    if error is not None and any(_says(frame, error) for frame in frames):
        error = None
    if status in TOLD_BESIDE or (error is not None and status in (Outcome.ERROR, Outcome.TRUNCATED)):
        return Outcome(status), error
    return None, None


def _says(frame: bytes, error: ErrorDetails) -> bool:
    """Whether an error was told in this frame: its message, or its type and code where it has none."""
    words = [error.message] if error.message else [word for word in (error.type, error.code) if word]
    written = [msgspec.json.encode(word)[1:-1] for word in words]
    if any(word in frame for word in written):
        return True
    if b"\\" not in frame:
        return False
    try:  # JSON may spell the same characters in other ways
        plain = msgspec.json.encode(msgspec.json.decode(frame))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return any(word in plain for word in written)


def _compared(record: dict[str, Any], row: LogRow) -> dict[str, Any]:
    """What the frames decide, out of a record."""
    anomalies = _object(record, "integrity").get("anomalies") or ()
    return {
        "response": record.get("response"),
        "status": _status(record, row),
        "finish_reason": record.get("finish_reason"),
        "tool_calls": _without_nulls(record.get("tool_calls")),
        "token_usage": _without_nulls(record.get("token_usage")),
        "error_type": _object(record, "error_details").get("type"),
        "anomalies": sorted({str(code) for code in anomalies} - OF_THE_BYTES),
    }


def _status(record: dict[str, Any], row: LogRow) -> Any:
    """The outcome. Of a stream whose process died, the record is that of a checkpoint, and only the row knows it."""
    status = record.get("status")
    return row.status if status == "processing" else status


def _without_nulls(value: Any) -> Any:
    """A field of ours without its nulls: an older record has none where the field was not there yet."""
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return value


def _object(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _decoded(text: str | bytes, what: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise UnreplayableError(f"unreadable {what}") from None


# ---------------------------------------------------------------------- playing back


def as_sse(frame: bytes, format: str | None = None) -> bytes:
    """A frame as an event of an SSE body, with the name that clients of its format look for."""
    name = b""
    if format in NAMED_BY_TYPE:
        try:
            said = msgspec.json.decode(frame, type=_Said).type
            name = b"event: %b\n" % said.encode() if _WORD.fullmatch(said) else b""
        except (msgspec.DecodeError, RecursionError):
            pass
    lines = _LINE_END.split(frame)
    return name + b"".join(b"data: %b\n" % line for line in lines) + b"\n"


def offsets(row: LogRow, count: int) -> list[float]:
    """When each of `count` frames came, in milliseconds since the start; empty if nothing is known of it.

    The log has the times of reads (some of them, if there were many), not of frames: as many as there are frames, one
    is taken for each; else the frames are spread over them in proportion, the first at the first, the last at the last.
    """
    try:
        times = msgspec.json.decode(row.arrivals or "[]", type=list[float])
    except msgspec.DecodeError:
        return []
    if not times or count < 2:
        return times[:count]
    return [times[round(place * (len(times) - 1) / (count - 1))] for place in range(count)]


def paced(
    frames: Sequence[bytes],
    offsets: Sequence[float],
    speed: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[bytes]:
    """Yields each frame when it is due, `speed` times as fast as it came.

    At once where `speed` is 0 or no time is known. `clock` and `wait` are in seconds.
    """
    began = clock()
    for place, frame in enumerate(frames):
        if speed and place < len(offsets):
            due = began + offsets[place] / 1000 / speed
            if (left := due - clock()) > 0:
                wait(min(left, LONGEST_WAIT))
        yield frame
