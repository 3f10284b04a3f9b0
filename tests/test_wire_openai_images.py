"""Images: previews replace each other, completed pictures are the response."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import ImagesResponse

import streamfold
from streamfold.testing import cuts, fold_pieces, sse, stable
from streamfold.types import AccumulatedData
from streamfold.wire.openai_images import OpenAIImages

FIXTURES = Path(__file__).parent / "fixtures" / "openai-images"


def preview(number, picture, **more):
    return {
        "type": "image_generation.partial_image",
        "partial_image_index": number,
        "b64_json": picture,
        "size": "1024x1024",
        **more,
    }


def completed(picture, usage=None, **more):
    said = {"usage": usage} if usage is not None else {}
    return {"type": "image_generation.completed", "b64_json": picture, "size": "1024x1024", **said, **more}


def folded(*events):
    fold = OpenAIImages()
    fold.add_all([msgspec.json.encode(event) for event in events], None)
    return fold


def viewed(fold):
    data = AccumulatedData()
    fold.view(fold.response() or {}, data)
    fold.finish_view(data)
    return data


def test_generation():
    """A stream with previews is OpenAI's own `ImagesResponse` of the completed picture, and counts its previews."""
    done = streamfold.fold((FIXTURES / "generation.sse").read_bytes(), format="openai-images")
    data = done.data
    assert (data.status, data.stream_type, data.integrity.anomalies) == ("success", "image.generation", [])
    whole = ImagesResponse.model_validate(data.response)
    assert whole.model_dump(exclude_unset=True) == data.response
    assert (whole.created, whole.size, whole.quality) == (1761000309, "1024x1024", "medium")
    assert [picture.b64_json for picture in whole.data] == ["iVBORw0KGgoAAAAC"]
    assert data.image_generation_output["images"] == [{"b64_json": "iVBORw0KGgoAAAAC"}]
    assert data.image_generation_output["previews"] == 2
    assert "partial_images" not in data.response
    assert (data.token_usage.prompt_tokens, data.token_usage.completion_tokens) == (11, 1056)
    assert ImagesResponse.model_validate(done.to_response()).data[0].b64_json == "iVBORw0KGgoAAAAC"


def test_the_first_preview_is_output():
    """The time to the first content is that of the first preview, not that of the picture."""
    times = iter(range(0, 10**9, 10**6))
    stream = streamfold.StreamAccumulator("openai-images", clock=lambda: next(times))
    for event in (preview(0, "AAAA"), preview(1, "AAAB"), completed("AAAC")):
        stream.feed(sse([event]))
    data = stream.finish().data
    assert data.time_to_first_content_ms == data.time_to_first_chunk_ms == 1.0


def test_edit():
    """Edits fold by the same code; `auto`, which only repeats the request, is no value of a response."""
    done = streamfold.fold((FIXTURES / "edit.sse").read_bytes())
    data = done.data
    assert (data.format, data.status) == ("openai-images", "success")
    assert (data.response["background"], data.response["quality"]) == ("auto", "high")
    assert data.token_usage.prompt_tokens_details.image_tokens == 323
    shaped = done.to_response()
    assert "background" not in shaped
    assert ImagesResponse.model_validate(shaped).output_format == "webp"


def test_pictures_by_index_and_failed_ones():
    """Volcengine's pictures each keep their own size and place; one that failed is no failure of the stream."""
    done = streamfold.fold((FIXTURES / "several.sse").read_bytes())
    data = done.data
    assert (data.format, data.status, data.integrity.end_marker) == ("openai-images", "success", True)
    first, failed, third = data.response["data"]
    assert first == {"url": "https://images.example.com/a.jpeg", "size": "2496x1664"}
    assert failed["error"]["code"] == "OutputImageSensitiveContentDetected"
    assert third["size"] == "1664x2496"
    assert "size" not in data.response
    assert (data.error_details, data.response_model) == (None, "seedream-4-0")
    assert (data.token_usage.completion_tokens, data.token_usage.prompt_tokens) == (32448, None)
    assert (done.to_response()["created"], len(done.to_response()["data"])) == (1761000517, 3)


def test_error_keeps_the_newest_preview():
    """An error after a preview keeps that preview as what there is of the picture."""
    data = streamfold.fold((FIXTURES / "failed.sse").read_bytes(), format="openai-images").data
    assert (data.status, data.error_details.code) == ("error", "moderation_blocked")
    assert data.image_generation_output["images"] == []
    assert data.image_generation_output["previews"] == 1
    assert data.response["partial_images"] == [{"partial_image_index": 0, "b64_json": "iVBORw0KGgoAAAAA"}]
    assert "data" not in data.response


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sse")), ids=lambda path: path.stem)
def test_cuts_do_not_matter(path):
    """The record is the same however the bytes were cut."""
    body = path.read_bytes()
    records = [stable(fold_pieces(pieces, "openai-images")) for pieces in cuts(body, random.Random(5), bytewise=2048)]
    assert all(record == records[0] for record in records)


def test_a_stream_cut_after_previews():
    """Previews are never joined: the newest is kept, all are counted, and no picture is made of them."""
    data = streamfold.fold(sse([preview(0, "AAAA"), preview(1, "AAAB")]), format="openai-images").data
    assert data.status == "truncated"
    assert data.response["partial_images"] == [{"partial_image_index": 1, "b64_json": "AAAB"}]
    assert (data.image_generation_output["images"], data.image_generation_output["previews"]) == ([], 2)
    assert data.token_usage.source == "missing"


def test_several_pictures():
    """Each completed event is a picture, in order; what each says of usage is kept, the newest counts."""
    first, second = (
        {"input_tokens": 5, "output_tokens": tokens, "total_tokens": 5 + tokens, "input_tokens_details": None}
        for tokens in (10, 20)
    )
    fold = folded(preview(0, "AAAA"), completed("AAAB", first), preview(0, "AAAC"), completed("AAAD", second))
    response = fold.response()
    assert [picture["b64_json"] for picture in response["data"]] == ["AAAB", "AAAD"]
    assert response["usage"] == second
    assert response["usage_per_image"] == [first, second]
    assert fold.anomalies == ["usage_per_image"]
    assert not fold.ended, "another one may come"
    assert viewed(fold).token_usage.completion_tokens == 20


def test_pictures_that_name_their_index():
    """Pictures that interleave go to their own places, and previews belong to the picture they name."""
    fold = folded(
        preview(0, "AAAA", image_index=1),
        preview(0, "AAAB", image_index=0),
        completed("AAAC", image_index=1),
        preview(1, "AAAD", image_index=0),
    )
    assert fold.response()["partial_images"] == [{"partial_image_index": 1, "b64_json": "AAAD"}]
    fold.add_decoded(completed("AAAE", image_index=0))
    assert fold.response()["data"] == [{"b64_json": "AAAE"}, {"b64_json": "AAAC"}]
    assert "partial_images" not in fold.response()


def test_one_index_for_all():
    """Servers that number every picture 0 lose none of them."""
    fold = folded(preview(0, "AAAA", index=0), completed("AAAB", index=0), completed("AAAC", index=0))
    assert [picture["b64_json"] for picture in fold.response()["data"]] == ["AAAB", "AAAC"]


def test_names_without_types():
    """An event named by its SSE line alone is as good, and `partial_image_b64` is a preview's other name."""
    fold = OpenAIImages()
    fold.add(b'{"partial_image_b64":"AAAA"}', "image_generation.partial_image")
    assert fold.response() == {"partial_images": [{"b64_json": "AAAA"}]}
    fold.add(b'{"b64_json":"AAAB"}', "image_generation.completed")
    assert fold.response() == {"data": [{"b64_json": "AAAB"}]}


def test_usage_in_a_frame_of_its_own():
    """A frame of a gateway that holds only the usage is counted, and is nothing unknown."""
    fold = folded(preview(0, "AAAA"), completed("AAAB"), {"usage": {"input_tokens": 3, "output_tokens": 4}})
    assert fold.anomalies == []
    assert fold.response()["usage"] == {"input_tokens": 3, "output_tokens": 4}
    assert viewed(fold).token_usage.completion_tokens == 4


def test_completed_with_a_list():
    """A completed event that brings its pictures in the list of the unstreamed response loses none of them."""
    picture = {"url": "https://images.example.com/a.png", "revised_prompt": "A cat."}
    fold = folded(preview(0, "AAAA"), {"type": "image_generation.completed", "size": "1024x1024", "data": [picture]})
    assert fold.response() == {"size": "1024x1024", "data": [picture]}
    assert (fold.finished, fold.ended) == (True, False), "another one may come"


@pytest.mark.parametrize(
    "body",
    [
        {
            "created": 1761000309,
            "data": [{"b64_json": "AAAA"}, {"b64_json": "AAAB"}],
            "size": "1024x1024",
            "usage": {
                "input_tokens": 5,
                "output_tokens": 7,
                "total_tokens": 12,
                "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
            },
        },
        {"created": 1761000309, "data": [{"url": "https://images.example.com/a.png", "revised_prompt": "A cat."}]},
    ],
)
def test_unstreamed_responses(body):
    """An unstreamed response reads as it is, through the same view."""
    data = streamfold.read(json.dumps(body).encode()).data
    assert (data.format, data.status) == ("openai-images", "success")
    assert data.response == body
    assert data.image_generation_output["images"] == body["data"]


def test_unknown_events_and_fields_are_kept():
    """Unknown events are kept and flagged; an unknown field of a picture stays with the picture."""
    unknown = {"type": "image_generation.queued", "position": 3}
    fold = folded(unknown, {"data": "x"}, {"type": "ping"}, completed("AAAA", seed=42))
    assert fold.response()["data"] == [{"b64_json": "AAAA", "seed": 42}]
    assert fold.response()["unknown_events"] == [unknown, {"data": "x"}]
    assert fold.anomalies == ["unknown_event"]
    assert fold.chunks == 3


def test_size_limit():
    """A stream over its limit takes no more pictures, but says that they were made, and what they cost."""
    usage = {"input_tokens": 5, "output_tokens": 10, "total_tokens": 15}
    body = sse([preview(0, "A" * 4000), completed("B" * 4000, usage)])
    data = streamfold.fold([body[:4200], body[4200:]], format="openai-images", max_bytes=4100).data
    assert data.status == "success"
    assert data.response["data"] == [{}]
    assert "partial_images" not in data.response
    assert data.token_usage.total_tokens == 15
    assert "size_limit" in data.integrity.anomalies


def test_large_pictures_in_crumbs():
    """A picture of 5 MiB that comes by the KiB is whole."""
    size = 5 * 2**20
    body = sse([preview(0, "A" * size), completed("B" * size)])
    pieces = [body[at : at + 1024] for at in range(0, len(body), 1024)]
    assert fold_pieces(pieces, "openai-images").data.response["data"][0]["b64_json"] == "B" * size


WORDS = "type data b64_json url index image_index partial_image_index usage size created created_at error id model"
KEYS = st.sampled_from([*WORDS.split(), "partial_image_b64", "background", "output_tokens"])
KINDS = st.sampled_from(
    [
        "image_generation.partial_image",
        "image_generation.completed",
        "image_edit.completed",
        "image_generation.partial_succeeded",
        "image_generation.partial_failed",
        "error",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | KINDS
)
ANY = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(st.lists(st.dictionaries(KEYS, ANY, max_size=5), max_size=5))
def test_any_object_folds(events):
    """No JSON object makes the fold or the view raise or changes under it, alone or after any other."""
    before = json.dumps(events)
    fold = OpenAIImages()
    for event in events:
        OpenAIImages.recognises(event, None)
        fold.add(json.dumps(event).encode())
        fold.add_decoded(event)
    response = fold.response()
    assert json.dumps(events) == before
    assert fold.response() == response
    assert "accumulator_error" not in fold.anomalies
    viewed(fold)
    for event in events:
        OpenAIImages.view(event, AccumulatedData())
