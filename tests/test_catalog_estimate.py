"""Guesses at the tokens of streams that never said: when there is one, what it counts, what bounds it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfold import StreamAccumulator
from streamfold.catalog import Limits, estimate_usage
from streamfold.catalog.estimate import estimate_tokens
from streamfold.types import (
    AccumulatedData,
    ChatMessage,
    Choice,
    FunctionCall,
    PromptTokensDetails,
    StreamType,
    TokenUsage,
    ToolCall,
)

SENTENCE = "The quick brown fox jumps over the lazy dog."
"""Ten tokens in the encodings that are public."""


def broken(content=SENTENCE, **fields):
    """A record of a stream that was cut off."""
    message = ChatMessage(content=content) if content is not None else None
    return AccumulatedData(**{"status": "cancelled", "output_message": message, **fields})


def test_a_text_is_about_as_long_as_its_tokens():
    """A plain English sentence is guessed to within a token or two."""
    assert 9 <= estimate_tokens(SENTENCE) <= 12


SCRIPTS = {
    "Chinese": ("今天天气很好，我们去公园散步吧。", 8, 20),
    "Japanese": ("今日は天気がいいので散歩に行きましょう。", 9, 24),
    "Korean": ("오늘은 날씨가 좋아서 산책을 갑시다.", 8, 26),
    "Russian": ("Сегодня хорошая погода, пойдём гулять в парк.", 9, 28),
    "Greek": ("Σήμερα ο καιρός είναι πολύ καλός.", 8, 26),
    "Arabic": ("الطقس جميل اليوم، هيا نتمشى في الحديقة.", 10, 30),
    "German": ("Zürich liegt schön am See; Größe überrascht.", 10, 20),
    "digits": ("1234567890" * 3, 9, 12),
    "code": ("def f(x):\n    return x + 1\n", 8, 18),
    "emoji": ("🙂🙃😀", 3, 12),
}


@pytest.mark.parametrize(("text", "least", "most"), SCRIPTS.values(), ids=SCRIPTS)
def test_other_scripts_are_not_counted_as_english(text, least, most):
    """A text in another script takes more tokens a character; the guess is of the right order there as well."""
    assert least <= estimate_tokens(text) <= most


@given(st.text())
def test_never_more_tokens_than_bytes(text):
    """A token is a byte at least, so no guess is higher; and only blank text is free."""
    tokens = estimate_tokens(text)
    assert tokens <= len(text.encode("utf-8", "surrogatepass"))
    assert tokens > 0 or not text.strip()


@given(st.text(max_size=200), st.integers(1, 50), st.integers(1, 50))
def test_never_more_than_was_allowed(text, asked, possible):
    """No guess exceeds what the request allowed or the model can give."""
    found = estimate_usage(broken(text), {"max_tokens": asked}, Limits(max_output_tokens=possible))
    assert found is None or found.completion_tokens <= min(asked, possible)


def test_never_more_than_the_window():
    """Where nobody says how long an answer of the model can be, it is no longer than the model's window."""
    found = estimate_usage(broken("many words " * 1000), {}, Limits(context_window=50))
    assert found.completion_tokens == 50
    found = estimate_usage(broken("many words " * 1000), {}, Limits(context_window=50, max_output_tokens=20))
    assert found.completion_tokens == 20


ALLOWED = {
    "OpenAI": {"max_completion_tokens": 3},
    "Responses": {"max_output_tokens": 3},
    "Gemini": {"generationConfig": {"maxOutputTokens": 3}},
    "Bedrock": {"inferenceConfig": {"maxTokens": 3}},
    "Ollama": {"options": {"num_predict": 3}},
}


@pytest.mark.parametrize("request_body", ALLOWED.values(), ids=ALLOWED)
def test_each_apis_limit_is_known(request_body):
    """The limit of the request is found under every API's name for it."""
    assert estimate_usage(broken(), request_body).completion_tokens == 3


def test_the_limit_is_for_each_choice():
    """With n choices the limit holds n times."""
    choices = [Choice(index=i, message=ChatMessage(content=SENTENCE)) for i in range(2)]
    found = estimate_usage(broken(choices=choices), {"max_tokens": 4})
    assert found.completion_tokens == 8


def test_reasoning_and_arguments_are_output():
    """What was thought and what was written to a tool was put out as well."""
    call = ToolCall(index=0, function=FunctionCall("weather", '{"city": "Zürich", "days": 3}'))
    message = ChatMessage(content=SENTENCE, reasoning=SENTENCE, tool_calls=[call])
    alone = estimate_usage(broken()).completion_tokens
    assert estimate_usage(broken(output_message=message)).completion_tokens >= 2 * alone + 8


NO_GUESS = {
    "usage was said": broken(
        status="success", token_usage=TokenUsage(prompt_tokens=1, completion_tokens=1, source="provider")
    ),
    "broken off after its usage": broken(
        raw_finish_reason="stop", token_usage=TokenUsage(prompt_tokens=1, completion_tokens=1, source="provider")
    ),
    "still running": broken(status="processing"),
    "nothing to go by": broken(None),
    "sound": broken(None, stream_type=StreamType.AUDIO_SPEECH),
    "a picture": broken(stream_type=StreamType.IMAGE_GENERATION),
}


@pytest.mark.parametrize("data", NO_GUESS.values(), ids=NO_GUESS)
def test_where_there_is_no_guess(data):
    """No guess is made where usage was said, where the stream may yet say it, and of what is no text."""
    assert estimate_usage(data) is None


def test_a_success_without_usage_is_guessed():
    """A stream that ended well but was not asked for its usage gets a guess as well."""
    assert estimate_usage(broken(status="success")).source == "estimated"


REQUESTS = {
    "chat": {"messages": [{"role": "user", "content": SENTENCE}]},
    "chat with parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": SENTENCE}]}]},
    "Responses": {"input": SENTENCE},
    "Gemini": {"contents": [{"role": "user", "parts": [{"text": SENTENCE}]}]},
    "Bedrock": {"messages": [{"role": "user", "content": [{"text": SENTENCE}]}]},
    "completion": {"prompt": SENTENCE},
}


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_the_prompt_is_guessed_from_the_request(request_body):
    """The text of the request is counted wherever an API puts it."""
    found = estimate_usage(broken(None), request_body)
    assert 9 <= found.prompt_tokens <= 20
    assert (found.completion_tokens, found.total_tokens) == (None, None)


def png(width, height):
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08" * 999


def jpeg(width, height):
    preview = b"\xff\xe1\x27\x10" + b"\xff\xc0" * 4999  # in which a frame seems to begin
    frame = b"\xff\xc2\x00\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + preview + frame + b"\x03" * 99


def webp(kind, width, height):
    sizes = {
        "VP8X": b"\x0a\0\0\0\x10\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        "VP8L": b"\x99\0\0\0\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little"),
        "VP8 ": b"\x99\0\0\0\x10\2\0\x9d\1\x2a" + width.to_bytes(2, "little") + height.to_bytes(2, "little"),
    }
    return b"RIFF\x99\0\0\0WEBP" + kind.encode() + sizes[kind] + b"\0" * 99


def gif(width, height):
    return b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0" * 9


def chat_picture(data, **more):
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url, **more}}


def anthropic_picture(data):
    return {"type": "image", "source": {"type": "base64", "data": base64.b64encode(data).decode()}}


def gemini_picture(data):
    return {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}


PICTURES = {
    "OpenAI's example of 1024 x 1024": (chat_picture(png(1024, 1024)), 765),
    "OpenAI's example of 2048 x 4096": (chat_picture(png(2048, 4096)), 1105),
    "low detail": (chat_picture(png(2048, 4096), detail="low"), 85),
    "a small one": (chat_picture(png(100, 100)), 255),
    "of the Responses API": (
        {"type": "input_image", "image_url": chat_picture(jpeg(512, 512))["image_url"]["url"]},
        255,
    ),
    "Anthropic's example of 1000 x 1000": (anthropic_picture(jpeg(1000, 1000)), 1334),
    "Anthropic's example of 200 x 200": (anthropic_picture(gif(200, 200)), 54),
    "a large one for Anthropic": (anthropic_picture(png(4000, 4000)), 1600),
    "a tool's, for Anthropic": ({"type": "tool_result", "content": [anthropic_picture(gif(200, 200))]}, 54),
    "on Bedrock": ({"image": {"format": "png", "source": {"bytes": base64.b64encode(png(200, 200)).decode()}}}, 54),
    "a small one for Gemini": (gemini_picture(png(384, 384)), 258),
    "a large one for Gemini": (gemini_picture(webp("VP8X", 1000, 700)), 516),
    "WebP without loss": (anthropic_picture(webp("VP8L", 200, 200)), 54),
    "WebP": (anthropic_picture(webp("VP8 ", 200, 200)), 54),
    "somewhere else": ({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}, None),
    "a file at the provider": ({"type": "input_image", "file_id": "file-1"}, None),
    "a file at Google": ({"fileData": {"mimeType": "image/png", "fileUri": "gs://a/b"}}, None),
    "of an unknown kind": (anthropic_picture(b"BM" + b"\0" * 99), None),
    "of no size": (anthropic_picture(png(0, 5)), None),
    "cut off": (anthropic_picture(png(200, 200)[:18]), None),
    "for Ollama": ({"role": "user", "content": SENTENCE, "images": [base64.b64encode(png(9, 9)).decode()]}, None),
    "no base64": ({"type": "image", "source": {"type": "base64", "data": "a"}}, None),
}


@pytest.mark.parametrize(("part", "tokens"), PICTURES.values(), ids=PICTURES)
def test_pictures_count_by_their_size(part, tokens):
    """A picture counts as its provider says, by its pixels; where they are not known there is no guess at all."""
    text = {"type": "text", "text": SENTENCE}
    request = {"messages": [{"role": "user", "content": [text, part, part]}]}
    alone = estimate_usage(broken(None), {"messages": [{"role": "user", "content": [text]}]}).prompt_tokens
    found = estimate_usage(broken(None), request)
    assert (found.prompt_tokens if found is not None else None) == (alone + 2 * tokens if tokens is not None else None)


def test_tools_and_system_prompts_count():
    """What else the model reads is counted: instructions and the tools' schemas."""
    request = {"system": SENTENCE, "messages": [{"role": "user", "content": SENTENCE}]}
    plain = estimate_usage(broken(None), {"messages": request["messages"]}).prompt_tokens
    more = estimate_usage(broken(None), request).prompt_tokens
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    assert plain < more < estimate_usage(broken(None), {**request, "tools": tools}).prompt_tokens


def test_a_prompt_fits_the_window():
    """No prompt is guessed to be larger than the model's window, nor than its bytes."""
    request = {"prompt": SENTENCE * 100}
    assert estimate_usage(broken(None), request, Limits(context_window=50)).prompt_tokens == 50
    assert estimate_usage(broken(None), {"prompt": "a"}).prompt_tokens == 1


def test_what_was_said_before_the_break_is_kept():
    """The provider's own count of the prompt stands; a count of the output so far is a lower bound."""
    said = TokenUsage(
        prompt_tokens=777,
        completion_tokens=1,
        prompt_tokens_details=PromptTokensDetails(cached_read_tokens=700),
        source="provider",
    )
    found = estimate_usage(broken(token_usage=said), {"messages": [{"role": "user", "content": "x"}]})
    assert found.prompt_tokens == 777
    assert found.completion_tokens >= 9
    assert found.total_tokens == found.prompt_tokens + found.completion_tokens


def test_a_real_cancelled_stream():
    """A chat stream that was hung up on has a guess beside its empty usage, and no cost is made of it."""
    stream = StreamAccumulator("openai-chat")
    stream.feed(b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"The quick brown fox"}}]}\n\n')
    data = stream.finish("cancelled").data
    found = estimate_usage(data, {"messages": [{"role": "user", "content": "Go on"}]})
    assert data.token_usage.source == "missing"
    assert (found.source, found.completion_tokens) == ("estimated", 4)
