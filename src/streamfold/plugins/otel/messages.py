"""Requests and responses of all formats in the message schema of the GenAI conventions.

A message is `{"role": …, "parts": […]}`, a part an object with a `type`: text, reasoning, tool_call,
tool_call_response, server_tool_call(_response), blob, uri, file. What has no type there keeps its own (the schema
allows any), so nothing is lost and nothing is called what it is not.

Where a request keeps its conversation is told by `request_messages`; what is said in it is read by shape too. Parts say
what they are by `type` (OpenAI, Anthropic, Cohere, Mistral) or by their only key (Gemini, Bedrock). Binary data are
left out and measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from streamfold.plugins.request_messages import content_of, instructions_in, role_of, turns_in
from streamfold.types import JSON, AccumulatedData, ChatMessage

__all__ = ["Asked", "asked", "outputs"]


class Asked(NamedTuple):
    """What a request said: instructions that stand apart from the messages (parts), the messages, and the tools."""

    instructions: list[JSON]
    messages: list[JSON]
    tools: list[JSON]


def asked(request: Any) -> Asked:
    """What the body of a request says. Empty lists for what is not there, or not in a shape known here."""
    if not isinstance(request, dict):
        return Asked([], [], [])
    instructions = [part for said in instructions_in(request) for part in _parts(_unwrapped(said))]
    return Asked(instructions, [_message(*turn) for turn in turns_in(request)], _tools(request))


def outputs(data: AccumulatedData, *, with_finish_reason: bool) -> list[JSON]:
    """One message for each answer."""
    if data.choices:
        said = [(choice.message, choice.finish_reason) for choice in data.choices]
    elif data.output_message is not None:
        said = [(data.output_message, data.finish_reason)]
    else:
        parts = _other_output(data)
        return [{"role": "assistant", "parts": parts}] if parts else []
    messages = []
    for message, finish_reason in said:
        out: JSON = {"role": message.role or "assistant", "parts": _answer_parts(message)}
        if with_finish_reason:
            out["finish_reason"] = finish_reason or ("error" if data.status != "success" else "stop")
        messages.append(out)
    return messages


# ---------------------------------------------------------------------- requests


def _message(key: str, turn: str | JSON) -> JSON:
    if isinstance(turn, str):
        return {"role": "user", "parts": [_text(turn)]}
    if key in _OF_ITEMS and turn.get("type", "message") != "message":
        return _responses_item(turn)
    return _chat_message(turn)


_OF_ITEMS: Final = ("input", "inputs")
"""Where entries may be calls and results as well as messages, and say so by `type`."""


def _chat_message(message: JSON) -> JSON:
    """A message of any chat API."""
    role = role_of(message) or "user"
    content = content_of(message)
    parts = []
    for key in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(key), str):
            parts.append(_reasoning(message[key]))
    if role == "tool" and "content" in message:
        parts.append(_tool_response(message.get("tool_call_id") or message.get("name"), content))
    else:
        parts += _parts(content)
    parts += [_blob("image", None, each) for each in message.get("images") or () if isinstance(each, str)]
    parts += [_chat_tool_call(call) for call in message.get("tool_calls") or () if isinstance(call, dict)]
    return {"role": role, "parts": parts}


def _chat_tool_call(call: JSON) -> JSON:
    function = call.get("function") or call.get("custom") or {}
    given = _first(function, "arguments", "input")
    return _tool_call(call.get("id"), function.get("name"), given)


def _responses_item(item: JSON) -> JSON:
    """An input item of the Responses API that is no message."""
    kind = str(item["type"])
    if kind in ("function_call", "custom_tool_call"):
        part = _tool_call(item.get("call_id"), item.get("name"), _first(item, "arguments", "input"))
        return {"role": "assistant", "parts": [part]}
    if kind in ("function_call_output", "custom_tool_call_output"):
        return {"role": "tool", "parts": [_tool_response(item.get("call_id"), item.get("output"))]}
    if kind == "reasoning":
        said = [each.get("text") for each in item.get("summary") or () if isinstance(each, dict)]
        return {"role": "assistant", "parts": [_reasoning(text) for text in said if isinstance(text, str)]}
    return {"role": "assistant", "parts": [_generic(item)]}


def _tools(request: JSON) -> list[JSON]:
    config = request.get("toolConfig")
    tools = request.get("tools") or (config.get("tools") if isinstance(config, dict) else None) or ()
    return [each for tool in tools if isinstance(tool, dict) for each in _tool(tool)] if isinstance(tools, list) else []


def _tool(tool: JSON) -> list[JSON]:
    declared = _first(tool, "functionDeclarations", "function_declarations")
    if isinstance(declared, list):
        return [_function(each) for each in declared if isinstance(each, dict)]
    for key in ("function", "toolSpec"):
        if isinstance(tool.get(key), dict):
            return [_function(tool[key])]
    kind = tool.get("type")
    if "name" in tool and kind in (None, "function", "custom"):
        return [_function(tool)]
    if not isinstance(kind, str):  # Gemini's own tools: {"googleSearch": {}}
        kind = next(iter(tool), "unknown")
    return [{"type": kind, "name": str(tool.get("name", kind))}]


def _function(function: JSON) -> JSON:
    schema = _first(function, "parameters", "input_schema", "inputSchema", "parametersJsonSchema")
    if isinstance(schema, dict) and set(schema) == {"json"}:  # Bedrock
        schema = schema["json"]
    out: JSON = {"type": "function", "name": str(function.get("name", ""))}
    if isinstance(function.get("description"), str):
        out["description"] = function["description"]
    if schema is not None:
        out["parameters"] = schema
    return out


# ---------------------------------------------------------------------- parts


def _parts(content: Any) -> list[JSON]:
    if content is None:
        return []
    if isinstance(content, list):
        return [_part(each) for each in content]
    return [_part(content)]


def _part(block: Any) -> JSON:
    if isinstance(block, str):
        return _text(block)
    if not isinstance(block, dict):
        return {"type": "unknown", "content": block}
    kind = block.get("type")
    if isinstance(kind, str):
        read = _BY_TYPE.get(kind)
        if read is None and kind.endswith("_tool_result"):
            read = _server_tool_response
    else:
        read = next((reader for key, reader in _BY_KEY.items() if key in block), None)
    return read(block) if read is not None else _generic(block)


def _text(text: Any) -> JSON:
    return {"type": "text", "content": text if isinstance(text, str) else str(text)}


def _reasoning(text: Any) -> JSON:
    if isinstance(text, list):  # Mistral has chunks of text here
        text = "".join(str(each.get("text", "")) for each in text if isinstance(each, dict))
    return {"type": "reasoning", "content": text if isinstance(text, str) else ""}


def _tool_call(id: Any, name: Any, given: Any) -> JSON:
    out: JSON = {"type": "tool_call", "name": str(name or "")}
    if id is not None:
        out["id"] = str(id)
    if given is not None:
        out["arguments"] = _decoded(given)
    return out


def _tool_response(id: Any, response: Any) -> JSON:
    out: JSON = {"type": "tool_call_response"}
    if id is not None:
        out["id"] = str(id)
    out["response"] = _parts(response) if isinstance(response, list) else response
    return out


def _server_tool_call(block: JSON) -> JSON:
    name = str(block.get("name", ""))
    call = {"type": name, "input": block.get("input")}
    return {"type": "server_tool_call", "id": block.get("id"), "name": name, "server_tool_call": call}


def _server_tool_response(block: JSON) -> JSON:
    response = {"type": block["type"], "content": block.get("content")}
    return {
        "type": "server_tool_call_response",
        "id": block.get("tool_use_id"),
        "server_tool_call_response": response,
    }


def _blob(modality: str, mime_type: Any, base64: Any) -> JSON:
    """Binary data. They are not sent; `omitted_bytes` says how many there were."""
    size = len(base64) * 3 // 4 if isinstance(base64, str) else len(base64) if isinstance(base64, bytes) else 0
    out: JSON = {"type": "blob", "modality": modality, "content": "", "omitted_bytes": size}
    if isinstance(mime_type, str):
        out["mime_type"] = mime_type
    return out


def _uri(modality: str, uri: Any) -> JSON:
    uri = str(uri)
    if not uri.startswith("data:"):
        return {"type": "uri", "modality": modality, "uri": uri}
    head, _, body = uri[5:].partition(",")
    return _blob(modality, head.partition(";")[0] or None, body)


def _modality(mime_type: Any) -> str:
    kind = str(mime_type).partition("/")[0]
    return kind if kind in ("image", "video", "audio") else "document"


def _image_url(block: JSON) -> JSON:
    image = _first(block, "image_url", "url")
    if image is None and "file_id" in block:
        return {"type": "file", "modality": "image", "file_id": str(block["file_id"])}
    return _uri("image", image.get("url") if isinstance(image, dict) else image)


def _source(block: JSON) -> JSON:
    """Anthropic's image or document."""
    source = block.get("source")
    modality = str(block["type"])
    if not isinstance(source, dict):
        return _generic(block)
    if source.get("type") == "text":
        return _text(source.get("data", ""))
    if "url" in source:
        return _uri(modality, source["url"])
    if "file_id" in source:
        return {"type": "file", "modality": modality, "file_id": str(source["file_id"])}
    return _blob(modality, source.get("media_type"), source.get("data"))


def _input_audio(block: JSON) -> JSON:
    audio = block.get("input_audio")
    audio = audio if isinstance(audio, dict) else {}
    return _blob("audio", f"audio/{audio['format']}" if "format" in audio else None, audio.get("data"))


def _file(block: JSON) -> JSON:
    file = block["file"] if isinstance(block.get("file"), dict) else block
    if "file_id" in file:
        return {"type": "file", "modality": "document", "file_id": str(file["file_id"])}
    if "file_url" in file:
        return _uri("document", file["file_url"])
    return _uri("document", f"data:,{file.get('file_data', '')}".replace("data:,data:", "data:"))


def _gemini_blob(block: JSON) -> JSON:
    data = _first(block, "inlineData", "inline_data") or {}
    mime_type = _first(data, "mimeType", "mime_type")
    return _blob(_modality(mime_type), mime_type, data.get("data"))


def _gemini_file(block: JSON) -> JSON:
    data = _first(block, "fileData", "file_data") or {}
    uri = _uri(_modality(_first(data, "mimeType", "mime_type")), _first(data, "fileUri", "file_uri"))
    return {**uri, "mime_type": _first(data, "mimeType", "mime_type")}


def _gemini_call(block: JSON) -> JSON:
    call = _first(block, "functionCall", "function_call") or {}
    return _tool_call(call.get("id"), call.get("name"), call.get("args"))


def _gemini_response(block: JSON) -> JSON:
    response = _first(block, "functionResponse", "function_response") or {}
    return _tool_response(response.get("id") or response.get("name"), response.get("response"))


def _bedrock_binary(block: JSON) -> JSON:
    modality = next(key for key in ("image", "document", "video", "audio") if key in block)
    media = block[modality] if isinstance(block[modality], dict) else {}
    return _blob(
        modality,
        f"{modality}/{media['format']}" if "format" in media else None,
        (media.get("source") or {}).get("bytes"),
    )


def _bedrock_reasoning(block: JSON) -> JSON:
    content = block["reasoningContent"]
    text = content.get("reasoningText") if isinstance(content, dict) else None
    return _reasoning(text.get("text") if isinstance(text, dict) else "")


def _generic(block: JSON) -> JSON:
    """A part of a kind that the schema does not name, as it is."""
    return {**block, "type": str(block.get("type") or next(iter(block), "unknown"))}


_BY_TYPE: Final[dict[str, Callable[[JSON], JSON]]] = {
    "text": lambda block: _text(block.get("text", "")),
    "input_text": lambda block: _text(block.get("text", "")),
    "output_text": lambda block: _text(block.get("text", "")),
    "thinking": lambda block: _reasoning(block.get("thinking")),
    "tool_use": lambda block: _tool_call(block.get("id"), block.get("name"), block.get("input")),
    "tool_result": lambda block: _tool_response(block.get("tool_use_id"), block.get("content")),
    "server_tool_use": _server_tool_call,
    "image_url": _image_url,
    "input_image": _image_url,
    "image": _source,
    "document": _source,
    "input_audio": _input_audio,
    "file": _file,
    "input_file": _file,
}
"""Parts that say what they are by `type`."""

_BY_KEY: Final[dict[str, Callable[[JSON], JSON]]] = {
    "text": lambda block: (_reasoning if block.get("thought") is True else _text)(block["text"]),
    "functionCall": _gemini_call,
    "function_call": _gemini_call,
    "functionResponse": _gemini_response,
    "function_response": _gemini_response,
    "inlineData": _gemini_blob,
    "inline_data": _gemini_blob,
    "fileData": _gemini_file,
    "file_data": _gemini_file,
    "toolUse": lambda block: _tool_call(*(block["toolUse"].get(key) for key in ("toolUseId", "name", "input"))),
    "toolResult": lambda block: _tool_response(
        block["toolResult"].get("toolUseId"), block["toolResult"].get("content")
    ),
    "reasoningContent": _bedrock_reasoning,
    "image": _bedrock_binary,
    "document": _bedrock_binary,
    "video": _bedrock_binary,
    "audio": _bedrock_binary,
}
"""Parts that say what they are by their key: Gemini's and Bedrock's."""


# ---------------------------------------------------------------------- responses


def _answer_parts(message: ChatMessage) -> list[JSON]:
    parts = []
    if message.reasoning:
        parts.append(_reasoning(message.reasoning))
    if message.content:
        parts.append(_text(message.content))
    if message.refusal:
        parts.append({"type": "refusal", "content": message.refusal})
    if message.audio is not None:
        spoken = _blob("audio", None, message.audio.data)
        parts.append({**spoken, "transcript": message.audio.transcript} if message.audio.transcript else spoken)
    parts += [_part(image) for image in message.images or ()]
    for call in message.tool_calls or ():
        custom = call.custom or {}
        name = call.function.name if call.function is not None else custom.get("name")
        given = call.function.arguments if call.function is not None else custom.get("input")
        parts.append(_tool_call(call.id, name, given))
    return parts


def _other_output(data: AccumulatedData) -> list[JSON]:
    """What is answered where there are no messages: a transcript, images, speech."""
    text = (data.transcription_output or {}).get("text")
    if isinstance(text, str):
        return [_text(text)]
    if data.audio_output is not None:
        return [_blob("audio", None, data.audio_output.data)]
    images = (data.image_generation_output or {}).get("images") or ()
    return [
        _uri("image", each["url"]) if "url" in each else _blob("image", None, each.get("b64_json"))
        for each in images
        if isinstance(each, dict)
    ]


def _first(holder: JSON, *keys: str) -> Any:
    """The value of the first key that is there."""
    return next((holder[key] for key in keys if holder.get(key) is not None), None)


def _unwrapped(content: Any) -> Any:
    """Gemini's instructions are a whole message."""
    return content["parts"] if isinstance(content, dict) and "parts" in content else content


def _decoded(given: Any) -> Any:
    """Arguments as the object that they are, or the text as sent when it is none (a call that was cut off)."""
    if not isinstance(given, str):
        return given
    try:
        decoded = msgspec.json.decode(given)
    except (ValueError, RecursionError):
        return given
    return decoded if isinstance(decoded, dict) else given
