"""OpenAI images (`/v1/images/generations`, `/v1/images/edits`): pictures, with previews while they are made.

Source: `ImageGenStreamEvent`, `ImageEditStreamEvent` and `ImagesResponse` of OpenAI's API reference. Nothing is joined
here: `partial_image` is a whole, coarser picture that replaces the one before it, and `completed` is the picture. Its
`partial_image_index` numbers the previews of one picture, not the pictures.

The whole is the unstreamed `ImagesResponse`: a completed event's picture is an entry of `data`, and what it says of
the request (size, quality, ...) stands once at the top, as there. Previews are no part of that response, so they are
counted and forgotten; only of a picture that was never completed the newest preview is kept, under `partial_images`.

OpenAI streams one picture a request; servers that stream several send one `completed` for each. So `completed` is a
finish, not the end, and the protocol has no other end than that of the body (some send `[DONE]`). Where several of
them carry usage nothing says whether each counts its own picture or all so far: the newest is taken as `usage`, and
all are kept in `usage_per_image`.

Volcengine's dialect calls a picture `partial_succeeded` (with an `image_index`), one that failed `partial_failed`, and
ends with a `completed` that has no picture but the usage of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from streamfold.growth import Fields, First, Identity, Latest, Model, Record, index_of
from streamfold.types import JSON, AccumulatedData, StreamType
from streamfold.wire.errors import error_details, error_of
from streamfold.wire.fold import CHUNK, CONTENT, OUTPUT, Fold
from streamfold.wire.pings import is_ping
from streamfold.wire.usage import openai_usage

__all__ = ["OpenAIImages"]

FAMILIES: Final = ("image_generation", "image_edit", "image_variation")

OF_THE_PICTURE: Final = frozenset({"b64_json", "url", "revised_prompt", "partial_image_b64"})
OF_THE_REQUEST: Final = frozenset(
    {"background", "output_format", "quality", "size", "safety_identifier", "model", "id", "svg_usage", "usage"}
    | {"created", "created_at"}
)
OF_THE_EVENT: Final = frozenset(
    {"type", "object", "error", "index", "image_index", "output_index", "partial_image_index", "sequence_number"}
    | {"event_id", "obfuscation"}
)
"""Where the fields of an event belong. What is in none of the three is about the picture."""

IMAGES = Record(created=Latest, id=Identity, model=Model, safety_identifier=First)

KEPT_PREVIEWS: Final = 64
"""Unfinished pictures of which a preview is kept. No request makes as many."""


class OpenAIImages(Fold):
    """Folds image events into an `ImagesResponse`."""

    __slots__ = ("_fields", "_pictures", "_preview_count", "_previews", "_usages")

    format: ClassVar[str] = "openai-images"
    stream_type: ClassVar[StreamType] = StreamType.IMAGE_GENERATION
    has_end_marker: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._fields: Fields = IMAGES()
        self._pictures: list[tuple[int | None, Any]] | None = None
        self._previews: dict[int, JSON] = {}
        self._preview_count = 0
        self._usages: list[Any] = []

    # ------------------------------------------------------------------ events

    def add_event(self, event: JSON, name: str | None = None) -> int:
        kind = _word(event.get("type")) or name or ""
        if is_ping(event, name):
            return 0
        family, _, step = kind.rpartition(".")
        if family not in FAMILIES:
            return self._add_other(event, name)
        if step == "partial_failed":
            return self._add_failed(event)
        if (error := error_of(event, name)) is not None:
            self.error = error_details(error)
        if step == "partial_image":
            return self._add_preview(event)
        if step == "partial_succeeded":
            self._add_fields(event, beside=("size", "output_format", "quality", "background"))
            return self._add_picture(event, OF_THE_EVENT | {"model", "created", "created_at", "id", "usage"})
        if step == "completed":
            return self._add_completed(event)
        self.keep_unknown(event)
        return CHUNK

    def _add_other(self, event: JSON, name: str | None) -> int:
        """A whole response, an error, or something unknown."""
        error = error_of(event, name)
        if error is not None:
            self.error = error_details(error)
            self._add_fields({key: value for key, value in event.items() if key == "usage"})
            return CHUNK
        if event.keys() == {"usage"}:
            self._add_fields(event)  # gateways count what they bill in a frame of its own
            return CHUNK
        pictures = event.get("data")
        if not isinstance(pictures, list) or event.get("type") or name:
            self.keep_unknown(event)
            return CHUNK
        self.ended = True
        self._fields.add({key: value for key, value in event.items() if key != "data"})
        self._pictures = [*(self._pictures or ()), *((None, picture) for picture in pictures)]
        return CHUNK | OUTPUT | CONTENT if pictures else CHUNK

    def _add_preview(self, event: JSON) -> int:
        self._preview_count += 1
        self._add_fields(event)
        if not self.full:
            preview = _picture(event, OF_THE_EVENT - {"partial_image_index"} | OF_THE_REQUEST)
            key = self._place(event)
            if key in self._previews or len(self._previews) < KEPT_PREVIEWS:
                self._previews[key] = preview
        return CHUNK | OUTPUT | CONTENT

    def _add_completed(self, event: JSON) -> int:
        self._add_fields(event)
        self.finished = True
        if any(event.get(key) for key in OF_THE_PICTURE):
            return self._add_picture(event, OF_THE_EVENT | OF_THE_REQUEST)
        pictures = _objects(event.get("data"))
        for picture in pictures:  # as in the unstreamed response
            self._add_picture(picture, frozenset())
        if pictures:
            return CHUNK | OUTPUT | CONTENT
        self.ended = True  # the end of all pictures, which have been sent
        return CHUNK

    def _add_picture(self, event: JSON, elsewhere: frozenset[str]) -> int:
        picture = _picture(event, elsewhere)
        self._previews.pop(self._place(event), None)
        if self.full:
            picture = {key: value for key, value in picture.items() if key not in OF_THE_PICTURE}
        self._append(_index(event), picture)
        return CHUNK | OUTPUT | CONTENT

    def _add_failed(self, event: JSON) -> int:
        """One picture of several failed; the others may yet come."""
        self._add_fields(event)
        self._append(_index(event), {"error": event.get("error")})
        return CHUNK

    def _append(self, index: int | None, picture: JSON) -> None:
        if self._pictures is None:
            self._pictures = []
        self._pictures.append((index, picture))

    def _add_fields(self, event: JSON, beside: tuple[str, ...] = ()) -> None:
        """Takes what an event says of the request. `beside` names what its kind says of the picture instead."""
        said = {key: value for key, value in event.items() if key in OF_THE_REQUEST and key not in beside}
        if "created_at" in said:
            said["created"] = said.pop("created_at")
        if said.get("usage"):
            self._usages.append(said["usage"])
        self._fields.add(said)

    def _place(self, event: JSON) -> int:
        """Which picture an event is about: the one it names, or the one after those that are done."""
        index = _index(event)
        return len(self._pictures or ()) if index is None else index

    # ------------------------------------------------------------------ reading

    def response(self) -> JSON | None:
        out = self._fields.value() or {}
        if self._pictures is not None:
            out["data"] = [picture for _, picture in _in_order(self._pictures)]
        if self._previews:
            out["partial_images"] = [self._previews[key] for key in sorted(self._previews)]
        if len(self._usages) > 1:
            self.flag("usage_per_image")
            out["usage_per_image"] = list(self._usages)
        return {**out, **self.unknown_events} or None

    def envelope(self) -> Fields:
        return self._fields

    @classmethod
    def recognises(cls, event: JSON, name: str | None) -> bool:
        kind = _word(event.get("type")) or name or ""
        if kind.rpartition(".")[0] in FAMILIES:
            return True
        pictures = event.get("data")
        if "created" not in event or not isinstance(pictures, list) or not pictures:
            return False
        return all(isinstance(picture, dict) and ("b64_json" in picture or "url" in picture) for picture in pictures)

    @staticmethod
    def view(response: JSON, data: AccumulatedData) -> None:
        output: JSON = {"images": _objects(response.get("data"))}
        for key in ("background", "output_format", "quality", "size"):
            if key in response:
                output[key] = response[key]
        if "partial_images" in response:
            output["partial_images"] = _objects(response["partial_images"])
        data.image_generation_output = output
        data.response_model = _word(response.get("model"))
        data.response_id = _word(response.get("id"))
        data.token_usage = openai_usage(response.get("usage"))

    def finish_view(self, data: AccumulatedData) -> None:
        if data.image_generation_output is not None:
            data.image_generation_output["previews"] = self._preview_count


def _picture(event: Mapping[str, Any], elsewhere: frozenset[str]) -> JSON:
    """The picture in an event as an entry of `data`: all fields but those that belong elsewhere."""
    picture = {key: value for key, value in event.items() if key not in elsewhere}
    if "partial_image_b64" in picture and "b64_json" not in picture:
        picture["b64_json"] = picture.pop("partial_image_b64")
    return picture


def _in_order(pictures: list[tuple[int | None, Any]]) -> list[tuple[int | None, Any]]:
    """Pictures by their index, if each has one of its own; as they came otherwise."""
    indexes = {index for index, _ in pictures if index is not None}
    if len(indexes) < len(pictures):
        return pictures
    return sorted(pictures, key=lambda each: each[0] or 0)


def _index(event: Mapping[str, Any]) -> int | None:
    for key in ("image_index", "index", "output_index"):
        index = index_of(event.get(key))
        if index is not None:
            return index
    return None


def _objects(value: Any) -> list[JSON]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
