"""The wire formats: one file each, with how its frames fold and how its response is read.

A new format is a `Fold` subclass in a file of its own and a line in `FORMATS`. A format of somebody else's registers
the same class under the entry point group `streamfold.wire`, named as its `format`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from streamfold.errors import UsageError
from streamfold.types import JSON
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold

__all__ = ["CHUNK", "CONTENT", "FORMATS", "OUTPUT", "Fold", "fold_class", "format_names", "recognise"]

FORMATS: dict[str, str] = {
    "openai-chat": "streamfold.wire.openai_chat:OpenAIChat",
    "openai-completions": "streamfold.wire.openai_completions:OpenAICompletions",
    "openai-responses": "streamfold.wire.openai_responses:OpenAIResponses",
    "anthropic-messages": "streamfold.wire.anthropic_messages:AnthropicMessages",
    "gemini": "streamfold.wire.gemini:Gemini",
    "bedrock-converse": "streamfold.wire.bedrock_converse:BedrockConverse",
    "bedrock-invoke": "streamfold.wire.bedrock_invoke:BedrockInvoke",
    "openai-speech": "streamfold.wire.openai_speech:OpenAISpeech",
    "openai-transcription": "streamfold.wire.openai_transcription:OpenAITranscription",
    "openai-images": "streamfold.wire.openai_images:OpenAIImages",
    "cohere": "streamfold.wire.cohere_chat:CohereChat",
    "mistral": "streamfold.wire.mistral_chat:MistralChat",
    "ollama": "streamfold.wire.ollama_chat:OllamaChat",
    "passthrough": "streamfold.wire.passthrough:Passthrough",
}
"""Format name -> where its fold is. Loaded when first asked for, so that importing the library stays quick."""


@cache
def _third_party() -> dict[str, EntryPoint]:
    """The formats that installed packages register. Looked up once: it reads the file system."""
    return {entry.name: entry for entry in entry_points(group="streamfold.wire") if entry.name not in FORMATS}


def format_names() -> list[str]:
    """The names of all formats that can be folded here, our own first."""
    return [*FORMATS, *sorted(_third_party())]


@cache
def fold_class(name: str) -> type[Fold]:
    """The fold of a wire format. Raises `UsageError` for a name that nobody registered."""
    path = FORMATS.get(name)
    if path is not None:
        module, _, attribute = path.partition(":")
        found: type[Fold] = getattr(import_module(module), attribute)
        return found
    entry = _third_party().get(name)
    if entry is not None:
        loaded: type[Fold] = entry.load()
        return loaded
    raise UsageError(f"unknown format {name!r}; known are {', '.join(format_names())} and auto")


def recognise(event: JSON, name: str | None = None) -> type[Fold] | None:
    """The format that a first frame (or a whole response) can only be of; None while it could be several or none.

    Formats of third parties are asked after our own.
    """
    for format_name in format_names():
        kind = fold_class(format_name)
        if kind.recognises(event, name):
            return kind
    return None
