"""A guess at the tokens of a response that never said how many it used.

A stream that was cancelled, cut off or abandoned has no usage, and yet it was paid for. The guess is made from its
text, without a tokenizer: those are large, differ from model to model, and are secret for half of the providers. What
byte-pair encodings have in common is enough for a figure of the right size: a short word with its leading space is
one token, a long one more; three digits are one; marks and line ends count; scripts with many letters take fewer
characters a token. `docs/prices.md` says how near this comes.

The guess is kept apart (`AccumulatedData.estimated_usage`) and labelled; no cost is computed from it. It is bounded:
never more tokens than bytes of text, nor more than the request allowed or the model can give. What it cannot see it
leaves out: hidden reasoning and sound. Pictures count by their size (`pictures.py`); with one whose size is not known,
the prompt is not guessed at all. It reads the whole text once, so it is no work for the hot path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from streamfold.catalog.pictures import picture_tokens
from streamfold.catalog.rates import Limits
from streamfold.types import AccumulatedData, ChatMessage, StreamType, TokenUsage

__all__ = ["estimate_tokens", "estimate_usage"]

PIECES: Final = re.compile(
    "(?P<word>[A-Za-z]+)|(?P<digits>[0-9]+)|(?P<space>[ \t]+)|(?P<lines>[\r\n]+)|(?P<marks>[!-/:-@\\[-`{-~]+)"
    "|(?P<accented>[\u00c0-\u024f\u1e00-\u1eff]+)"  # Latin letters beyond ASCII
    "|(?P<letters>[\u0370-\u06ff]+)"  # Greek, Cyrillic, Armenian, Hebrew, Arabic
    "|(?P<signs>[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+)"  # Chinese, Japanese, Korean
    "|(?P<other>.)",
    re.DOTALL,
)
WORD: Final = 6
"""Letters of the longest word that is usually one token."""

PER_CALL: Final = 8
"""Tokens around the name and arguments of a tool call."""
PER_MESSAGE: Final = 4
"""Tokens around a message of a prompt."""

SCHEMA: Final = 0.5
"""The share of a tool's JSON that the model reads: providers write schemas anew, without most of the marks."""

SILENT: Final = frozenset({StreamType.AUDIO_SPEECH, StreamType.IMAGE_GENERATION, StreamType.PASSTHROUGH})
"""Kinds whose output is no text."""

PROMPT_FIELDS: Final = (
    "system", "instructions", "systemInstruction", "system_instruction", "preamble",
    "messages", "contents", "input", "prompt", "message", "chat_history", "documents", "inputText",
)  # fmt: skip
SCHEMA_FIELDS: Final = ("tools", "functions", "toolConfig", "response_format")
NOT_TEXT: Final = frozenset({
    "type", "role", "id", "tool_call_id", "call_id", "tool_use_id", "toolUseId", "model", "url", "data", "bytes",
    "format", "mimeType", "mime_type", "media_type", "file_data", "file_id", "fileUri", "fileData", "inlineData",
    "inline_data", "image_url", "input_audio", "source", "cache_control", "signature", "thoughtSignature",
    "thought_signature", "encrypted_content", "status", "detail",
})  # fmt: skip
"""Keys of a message below which there is no text for the model, or none that is counted by its letters."""

OUTPUT_LIMITS: Final = (
    ("max_tokens",), ("max_completion_tokens",), ("max_output_tokens",), ("max_tokens_to_sample",), ("max_gen_len",),
    ("generationConfig", "maxOutputTokens"), ("generation_config", "max_output_tokens"),
    ("inferenceConfig", "maxTokens"), ("options", "num_predict"),
)  # fmt: skip


def estimate_usage(
    data: AccumulatedData, request: Mapping[str, Any] | None = None, limits: Limits | None = None
) -> TokenUsage | None:
    """The tokens that a response without (final) usage probably used, or None if it needs no guess or allows none.

    `request` is the JSON body that was sent: without it the prompt cannot be guessed. `limits` are those of the model
    (`ModelCatalog.limits`). What the provider did say before the stream broke off is kept. `source` is `estimated`.
    """
    if not _is_wanted(data):
        return None
    said = data.token_usage if data.token_usage is not None and data.token_usage.source != "missing" else TokenUsage()
    prompt = said.prompt_tokens
    if prompt is None and request is not None:
        prompt = _prompt_tokens(request, limits)
    completion = said.completion_tokens
    guess = _completion_tokens(data, request or {}, limits)
    if guess is not None:
        completion = max(guess, completion or 0)
    if (prompt, completion) == (said.prompt_tokens, said.completion_tokens):
        return None
    return TokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if prompt is not None and completion is not None else None,
        source="estimated",
    )


def estimate_tokens(text: str) -> int:
    """How many tokens a text probably has: none if it is empty, never more than it has bytes in UTF-8."""
    tokens = 0.0
    for match in PIECES.finditer(text):
        length = match.end() - match.start()
        kind = match.lastgroup
        if kind == "word":
            tokens += 1 if length <= WORD else 1 + (length - WORD) / 4
        elif kind == "space":
            tokens += length > 1  # a single space belongs to the word after it
        elif kind == "marks":
            tokens += 0.6 * length + 0.2
        elif kind == "digits":
            tokens += (length + 2) // 3
        elif kind == "accented":
            tokens += 0.45 * length
        elif kind == "letters":
            tokens += length / 2.7
        elif kind == "signs":
            tokens += 0.8 * length
        else:
            tokens += 1
    return min(math.ceil(tokens), len(text.encode("utf-8", "surrogatepass")))


def _is_wanted(data: AccumulatedData) -> bool:
    """Whether nobody said the usage, or the stream broke off before its last word on it."""
    usage = data.token_usage
    if data.status == "processing":
        return False
    if usage is None or usage.source == "missing":
        return True
    return data.status != "success" and data.raw_finish_reason is None


# ---------------------------------------------------------------------- output


def _completion_tokens(data: AccumulatedData, request: Mapping[str, Any], limits: Limits | None) -> int | None:
    if data.stream_type in SILENT:
        return None
    messages = [choice.message for choice in data.choices] if data.choices else [data.output_message]
    said = [tokens for message in messages if message is not None and (tokens := _message_tokens(message))]
    transcript = (data.transcription_output or {}).get("text")
    if isinstance(transcript, str) and transcript:
        said.append(estimate_tokens(transcript))
    if tools := _server_tool_tokens(data):
        said.append(tools)
    if not said:
        return None
    bounds = [_asked_limit(request)]
    if limits is not None:
        bounds.append(limits.max_output_tokens or limits.context_window)  # an answer is part of its context
    return min(sum(said), *(bound * len(messages) for bound in bounds if bound), 10**15)


def _message_tokens(message: ChatMessage) -> int:
    texts = [message.content, message.reasoning, message.refusal]
    if message.audio is not None:
        texts.append(message.audio.transcript)
    calls = [(call.function, call.custom) for call in message.tool_calls or ()]
    calls += [(message.function_call, None)] if message.function_call is not None else []
    tokens = sum(estimate_tokens(text) for text in texts if text)
    for function, custom in calls:
        body = (function.name, function.arguments) if function is not None else ((custom or {}).get("input"),)
        written = "".join(text for text in body if isinstance(text, str))
        tokens += min(estimate_tokens(written) + PER_CALL, len(written.encode("utf-8", "surrogatepass")))
    return tokens


def _server_tool_tokens(data: AccumulatedData) -> int:
    """What the model wrote to tools that the provider runs itself, which are no tool calls of the record."""
    blocks = (data.response or {}).get("content")
    found = 0
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, Mapping) and block.get("type") in ("server_tool_use", "mcp_tool_use"):
            found += estimate_tokens(_json(block.get("input")))
    return found


def _asked_limit(request: Mapping[str, Any]) -> int | None:
    """The tokens that the request allowed for one answer."""
    found = []
    for path in OUTPUT_LIMITS:
        value: Any = request
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            found.append(value)
    return min(found, default=None)


# ---------------------------------------------------------------------- prompt


def _prompt_tokens(request: Mapping[str, Any], limits: Limits | None) -> int | None:
    pictures = picture_tokens({field: request.get(field) for field in (*PROMPT_FIELDS, "images")})
    if pictures is None:
        return None
    texts = [text for field in PROMPT_FIELDS for text in _texts(request.get(field))]
    schemas = [_json(request[field]) for field in SCHEMA_FIELDS if request.get(field)]
    if not texts and not schemas and not pictures:
        return None
    messages = next((len(said) for field in PROMPT_FIELDS if isinstance(said := request.get(field), list)), 1)
    tokens = sum(estimate_tokens(text) for text in texts) + PER_MESSAGE * messages
    tokens += sum(math.ceil(SCHEMA * estimate_tokens(text)) for text in schemas)
    most = sum(len(text.encode("utf-8", "surrogatepass")) for text in (*texts, *schemas))
    guess = min(tokens, most) + pictures
    window = limits.context_window if limits is not None else None
    return min(guess, window or guess)


def _texts(value: Any) -> Iterator[str]:
    """The texts in a part of a request, without names, ids and what is no text."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if not each.startswith("data:"):
                yield each
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, Mapping):
            waiting += [below for key, below in each.items() if key not in NOT_TEXT]


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return ""
