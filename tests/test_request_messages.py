"""Where requests keep their conversation: one rule, for every plugin that shows it."""

import pytest

from streamfold.plugins.maxim.requests import messages_of
from streamfold.plugins.otel.messages import asked
from streamfold.plugins.request_messages import instructions_in, role_of, turns_in

HI = {"role": "user", "content": "Hi"}
SHAPES = {
    "messages": ({"messages": [HI]}, ["user"]),
    "contents": ({"contents": [{"parts": [{"text": "Hi"}]}]}, ["user"]),
    "one content, no list": ({"contents": {"role": "model", "parts": [{"text": "Hi"}]}}, ["assistant"]),
    "a text": ({"input": "Hi"}, ["user"]),
    "texts": ({"prompt": ["Hi", "Ho"]}, ["user", "user"]),
    "a history": (
        {"chat_history": [{"role": "USER", "message": "A"}, {"role": "CHATBOT", "message": "B"}], "message": "C"},
        ["user", "assistant", "user"],
    ),
    "a template": ({"prompt": {"id": "pmpt_1"}, "input": "Hi"}, ["user"]),
    "nonsense": ({"messages": [None, 3, HI], "inputs": 7}, ["user"]),
    "a call and its result": (
        {"input": [{"type": "function_call", "name": "f"}, {"type": "function_call_output", "output": "4"}]},
        ["assistant", "tool"],
    ),
    "nothing": ({}, []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_plugin_reads_the_same_turns(shape):
    """What one plugin takes for a turn of a role, the other does too, and in the same order."""
    request, roles = SHAPES[shape]
    assert len(turns_in(request)) == len(roles)
    assert [message["role"] for message in asked(request).messages] == roles
    assert [message["role"] for message in messages_of(request)] == roles


@pytest.mark.parametrize("key", ["instructions", "system", "systemInstruction", "system_instruction", "preamble"])
def test_instructions_apart_from_the_turns(key):
    """Instructions under a key of their own are told as such by both, and are no turn."""
    request = {key: "Be brief.", "messages": [HI]}
    assert instructions_in(request) == ["Be brief."]
    assert [part["content"] for part in asked(request).instructions] == ["Be brief."]
    assert [(each["role"], each["content"]) for each in messages_of(request)] == [
        ("system", "Be brief."),
        ("user", "Hi"),
    ]


@pytest.mark.parametrize(
    ("said", "role"),
    [("USER", "user"), ("model", "assistant"), ("Chatbot", "assistant"), ("function", "tool"), ("x", "x"), (5, None)],
)
def test_roles_have_one_name(said, role):
    """The names that APIs have for the same role are one."""
    assert role_of({"role": said}) == role
