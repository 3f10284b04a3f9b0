"""Folds any LLM provider's stream into exactly the response it would have sent unstreamed."""

from streamfold.accumulator import Accumulator, StreamContext
from streamfold.errors import StreamfoldError, UsageError, WireError
from streamfold.processed import ProcessedStreamResponse, ResponseType
from streamfold.stream import StreamAccumulator, fold, read
from streamfold.types import AccumulatedData, ErrorDetails, Outcome, StreamType
from streamfold.wire import format_names

__all__ = [
    "AccumulatedData",
    "Accumulator",
    "ErrorDetails",
    "Outcome",
    "ProcessedStreamResponse",
    "ResponseType",
    "StreamAccumulator",
    "StreamContext",
    "StreamType",
    "StreamfoldError",
    "UsageError",
    "WireError",
    "fold",
    "format_names",
    "read",
]

__version__ = "0.1.0"
