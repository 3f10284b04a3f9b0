"""Bytes to frames, one file per framing. No I/O, no clock, no log; nothing here knows what a payload means.

Source: WHATWG HTML 9.2 (`SSE`), NDJSON (`NDJSON`), RFC 8259 (`JSONText`), AWS event stream encoding (`AWSEventStream`).
"""

from streamfold.framing.auto import FRAMINGS, AutoFramer, detect, framer_of
from streamfold.framing.aws_eventstream import AWSEventStream
from streamfold.framing.framer import Framer, Frames
from streamfold.framing.json_text import JSONText
from streamfold.framing.ndjson import NDJSON
from streamfold.framing.raw import Raw
from streamfold.framing.sse import SSE

__all__ = [
    "FRAMINGS",
    "NDJSON",
    "SSE",
    "AWSEventStream",
    "AutoFramer",
    "Framer",
    "Frames",
    "JSONText",
    "Raw",
    "detect",
    "framer_of",
]
