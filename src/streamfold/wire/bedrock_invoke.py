"""Amazon Bedrock's `InvokeModelWithResponseStream`: the stream of whichever model it is, inside AWS frames.

Source: the `ResponseStream` shape of the service model that AWS publishes (botocore's `bedrock-runtime`), and the
"inference parameters" pages of the Bedrock user guide. A `chunk` frame holds a payload of the model's own API, as
base64 in `bytes`, with random padding in `p`. So this fold unwraps, and gives what it finds to the fold of the model's
family (`bedrock_models.py`), which the first payload names. The folded response is what `InvokeModel` returns
unstreamed. Beside that:

* Bedrock puts fields of its own into the payloads: `amazon-bedrock-invocationMetrics` into the last (so the stream
  is over), `amazon-bedrock-guardrailAction` and `amazon-bedrock-trace` if there is a guardrail. They are kept at the
  top of the response. The metrics count tokens, and stand in where the model itself does not.
* Exceptions are frames of their own, as in `bedrock_converse.py`. Other frames (`initial-response`) say nothing.
* A payload of no known family is kept as it is, and no text is guessed from it.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import msgspec

from streamfold.growth import merged
from streamfold.types import JSON, AccumulatedData, StreamType, TokenUsage
from streamfold.wire.bedrock_blocks import PADDING
from streamfold.wire.bedrock_converse import INITIAL_RESPONSE
from streamfold.wire.bedrock_models import FORMAT, family_of, family_of_chunk
from streamfold.wire.bedrock_view import converse_usage, exception_details, is_exception, is_refusal, refusal_in
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, Fold, decode

__all__ = ["BedrockInvoke"]

BEDROCK: Final = "amazon-bedrock-"
METRICS: Final = "amazon-bedrock-invocationMetrics"
GUARDRAIL: Final = "amazon-bedrock-guardrailAction"
MARK: Final = BEDROCK.encode()

COUNTS: Final = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
"""HTTP headers of an unstreamed answer that count tokens."""


class Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A frame that holds a payload of the model and nothing else."""

    payload: bytes = msgspec.field(name="bytes")
    p: str = ""


_part = msgspec.json.Decoder(Part).decode


class BedrockInvoke(Fold):
    """Folds the chunks of `InvokeModelWithResponseStream` into the body that `InvokeModel` returns."""

    __slots__ = ("_bedrock", "_counted", "_failure", "_inner", "_refusal")

    format: ClassVar[str] = FORMAT
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION
    has_end_marker: ClassVar[bool] = False  # that is for the model's own format to say, see `finish_view`

    def __init__(self) -> None:
        super().__init__()
        self._inner: Fold | None = None
        self._bedrock: JSON | None = None
        """Bedrock's own fields."""
        self._failure: JSON | None = None
        self._refusal: str | None = None
        """The kind of failure that HTTP told."""
        self._counted: JSON | None = None
        """The tokens that HTTP counted, for a body that was not streamed."""

    def note_http(self, status_code: int | None, headers: Mapping[str, str] | None) -> None:
        self._refusal = refusal_in(headers)
        counts = {COUNTS[name.lower()]: value for name, value in (headers or {}).items() if name.lower() in COUNTS}
        self._counted = {key: int(value) for key, value in counts.items() if value.isdecimal()} or None

    def add_all(self, payloads: Sequence[bytes], names: Sequence[str | None] | None) -> int:
        """Opens the frames that hold nothing but a payload, and gives all payloads in a row to the inner fold."""
        flags = 0
        inside: list[bytes] = []
        for at, payload in enumerate(payloads):
            name = names[at] if names is not None else None
            part = _payload_of(payload) if self._inner is not None and name in (None, "chunk") else None
            if part is not None:
                inside.append(part)
                continue
            flags |= self._add_inside(inside)
            inside = []
            flags |= self.add(payload, name)
        return flags | self._add_inside(inside)

    def _add_inside(self, payloads: list[bytes]) -> int:
        inner = self._inner
        if inner is None or not payloads:
            return 0
        before = inner.chunks
        flags = self._follow(inner, inner.add_all, payloads, None)
        self._chunks += inner.chunks - before
        return flags

    def _follow(self, inner: Fold, add: Any, *frames: Any) -> int:
        """Lets the inner fold add, and takes over what it has come to know."""
        malformed = inner.malformed
        try:
            flags: int = add(*frames)
        finally:
            self.malformed += inner.malformed - malformed
            self.ended = self.ended or inner.ended
            self.finished = self.finished or inner.finished
            if inner.error is not None:
                self.error = inner.error
        return flags

    def add_event(self, event: JSON, name: str | None = None) -> int:
        chunk = event.get("chunk", event)
        if isinstance(chunk, dict) and "bytes" in chunk:
            return self._add_part(chunk["bytes"])
        rest = {key: value for key, value in event.items() if key != PADDING}
        for key in [key for key in rest if is_exception(key)]:
            self._fail(key, rest.pop(key))
            if not rest:
                return CHUNK
        if name is not None and (is_exception(name) or is_refusal(rest)):
            return self._fail(name, rest)
        if name is None:
            return self._add_native(rest)
        return 0 if name == INITIAL_RESPONSE else self.keep_unknown(event)

    def _add_part(self, part: Any) -> int:
        """What a chunk holds: base64, bytes that an SDK has decoded, or text that somebody else has."""
        if isinstance(part, str):
            part = part.encode("utf-8", "replace")
            if not part.lstrip().startswith(b"{"):
                try:
                    part = b64decode(b"".join(part.split()), validate=True)
                except (binascii.Error, ValueError):
                    self.malformed += 1
                    self.flag("malformed_base64")
                    return CHUNK
        if not isinstance(part, bytes):
            self.flag("unexpected_shape")
            return CHUNK
        try:
            payload = decode(part)
        except (ValueError, RecursionError) as error:
            return CHUNK | self._undecodable(part, None, error)
        if not isinstance(payload, dict):
            return CHUNK | self.add_value(payload, None)
        return self._add_native(payload, family_of_chunk)

    def _add_native(self, payload: JSON, families: Callable[[JSON], type[Fold] | None] = family_of) -> int:
        """A payload of the model's own API. `families` names the fold of the first."""
        told = {key: value for key, value in payload.items() if key.startswith(BEDROCK)}
        if told:
            self._bedrock = merged(self._bedrock, told)
            self.ended = self.ended or METRICS in told
            payload = {key: value for key, value in payload.items() if key not in told}
            if not payload:
                return CHUNK
        inner = self._inner
        if inner is None:
            family = families(payload)
            if family is None:
                return self._add_foreign(payload)
            inner = self._inner = family()
            inner.strict = self.strict
            if self.full:
                inner.close()
        return self._follow(inner, inner.add_decoded, payload)

    def _add_foreign(self, payload: JSON) -> int:
        """A payload of no family we know, or the body of a refused request."""
        if is_refusal(payload):
            return self._fail(None, payload)
        if (error := error_of(payload)) is not None:
            self.error = error_details(error)
            self._failure = payload
            return CHUNK
        return self.keep_unknown(payload)

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        chunk = event.get("chunk", event)
        if name not in (None, "chunk") or not isinstance(chunk, dict):
            return False
        part = chunk.get("bytes")
        if part is not None:
            return _is_json_inside(part)
        # Whole bodies and their chunks that nobody else sends.
        return METRICS in event or {"generation", "stop_reason"} <= event.keys() or _is_titan(event)

    def _undecodable(self, payload: bytes, name: str | None, error: Exception) -> int:
        if name is not None and is_exception(name):  # in plain words, or without any
            return self._fail(name, {"message": text} if (text := payload.decode("utf-8", "replace").strip()) else {})
        return super()._undecodable(payload, name, error)

    def _fail(self, name: str | None, said: Any) -> int:
        """An exception. The response keeps it under its name, as an SDK does."""
        if isinstance(said, dict):
            said = {key: value for key, value in said.items() if key != PADDING}
        self.error = exception_details(name or self._refusal, said)
        self._failure = {name: said} if name is not None else said
        return CHUNK

    @property
    def anomalies(self) -> list[str]:
        inner = self._inner.anomalies if self._inner is not None else []
        own = super().anomalies
        return own + [code for code in inner if code not in own]

    def close(self) -> None:
        super().close()
        if self._inner is not None:
            self._inner.close()

    def response(self) -> JSON | None:
        inside = (self._inner.response() if self._inner is not None else None) or {}
        out = {**inside, **(self._bedrock or {}), **(self._failure or {})}
        unknown = self.unknown_events.get("unknown_events", [])
        if unknown:
            out["unknown_events"] = [*unknown, *inside.get("unknown_events", [])]
        return out or None

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        family = family_of(response)
        if family is not None:
            family.view(response, data)
        _view_bedrock(response, data)
        for key, value in response.items():
            if data.error_details is None and is_exception(key):
                data.error_details = exception_details(key, value)

    def finish_view(self, data: AccumulatedData) -> None:
        """Reads with the eyes of the family that the stream was of, and lets it add what only the stream knew."""
        inner, response = self._inner, data.response
        if inner is None or response is None:
            return
        if self._counted is not None:
            response = {METRICS: self._counted, **response}
        if family_of(response) is not type(inner):
            inner.view(response, data)
        inner.finish_view(data)
        if inner.has_end_marker and not self.ended and data.status == "success":
            self.flag("missing_done")
        _view_bedrock(response, data)


def _payload_of(frame: bytes) -> bytes | None:
    """The payload in a frame, if the inner fold can take it as it is."""
    try:
        payload = _part(frame).payload
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return None if MARK in payload else payload


def _is_json_inside(part: Any) -> bool:
    """Whether a chunk holds a JSON object. Those of Bedrock's agents, which look the same, hold text."""
    try:
        return isinstance(decode(b64decode(part) if isinstance(part, str) else part), dict)
    except (ValueError, TypeError, RecursionError):
        return False


def _is_titan(event: JSON) -> bool:
    return "inputTextTokenCount" in event and ("outputText" in event or "results" in event)


def _view_bedrock(response: JSON, data: AccumulatedData) -> None:
    """Reads Bedrock's own fields, where the model's say nothing."""
    if data.raw_finish_reason is None and response.get(GUARDRAIL) == "INTERVENED":
        data.finish_reason, data.raw_finish_reason = "content_filter", "INTERVENED"
    usage = data.token_usage
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        counted = _metrics(response.get(METRICS))
        if counted.source != "missing" or usage is None:
            data.token_usage = counted


def _metrics(metrics: Any) -> TokenUsage:
    """What Bedrock counted, in its usual convention: the cache beside the input."""
    if not isinstance(metrics, dict):
        return TokenUsage(source="missing")
    return converse_usage(
        {
            "inputTokens": metrics.get("inputTokenCount"),
            "outputTokens": metrics.get("outputTokenCount"),
            "cacheReadInputTokens": metrics.get("cacheReadInputTokenCount"),
            "cacheWriteInputTokens": metrics.get("cacheWriteInputTokenCount"),
        }
    )[0]
