"""The wire format of Acme's model server, for streamfold.

A stream is one JSON object a line:

    {"acme": 1, "model": "anvil-2"}                      the head
    {"say": "Hel"}   {"say": "lo"}                       text
    {"stop": "done", "spent": {"in": 7, "out": 2}}       the end

Unstreamed, the server answers `{"acme": 1, "model": ..., "say": "Hello", "stop": ..., "spent": ...}`.
"""

from typing import ClassVar

from streamfold.growth import First, Latest, Merge, Record, Text
from streamfold.types import AccumulatedData, ChatMessage, StreamType, TokenUsage
from streamfold.wire import CHUNK, CONTENT, OUTPUT, Fold

RESPONSE = Record(acme=First, model=First, say=Text, stop=Latest, spent=Merge)  # how each field grows

FINISH_REASONS = {"done": "stop", "full": "length"}


class Acme(Fold):
    """Folds Acme's lines into Acme's unstreamed answer."""

    format: ClassVar[str] = "acme"
    stream_type: ClassVar[StreamType] = StreamType.CHAT_COMPLETION

    def __init__(self) -> None:
        super().__init__()
        self._fields = RESPONSE()

    def add_event(self, event, name=None):
        self._fields.add(event)
        if event.get("stop"):
            self.finished = self.ended = True
        if not event.get("say"):
            return CHUNK
        if len(event) == 1:
            self._plain = ("say",), self._fields.cell("say")  # lets such lines be folded without decoding
        return CHUNK | OUTPUT | CONTENT

    def response(self):
        return self._fields.value()

    @classmethod
    def recognises(cls, event, name):
        return "acme" in event

    @staticmethod
    def view(response, data: AccumulatedData) -> None:
        data.output_message = ChatMessage(role="assistant", content=response.get("say"))
        data.response_model = response.get("model")
        data.raw_finish_reason = response.get("stop")
        data.finish_reason = FINISH_REASONS.get(response.get("stop"))
        spent = response.get("spent")
        if spent:
            data.token_usage = TokenUsage(spent["in"], spent["out"], spent["in"] + spent["out"], source="derived")
