"""Every name of the conventions that is sent, as literals, in one place.

The GenAI conventions moved to a repository of their own, which has no release; the published constants are deprecated
and lack the newer names. So the names are pinned here, as two profiles:

* `released`: semantic conventions 1.41, the last release (constants of opentelemetry-semantic-conventions 0.66b2), with
  the metric names that released instrumentations send. The default, because dashboards and back ends know these.
* `main`: open-telemetry/semantic-conventions-genai as it stood in November 2026. It renames the metrics of inference,
  splits the token usage into counters and histograms, and has no compatibility mode.

Both have the same spans but for what a `Profile` says. What no convention has (cost, how a stream ended) stands under
our own prefix, `streamfold.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = [
    "DETAILS_EVENT",
    "DURATION_BUCKETS",
    "OPERATION",
    "OTHER_DURATION",
    "PARAMETERS",
    "PARAMETER_GROUPS",
    "PROFILES",
    "PROVIDERS",
    "PROVIDER_OF_FORMAT",
    "TOKEN_BUCKETS",
    "Profile",
]


class Profile(NamedTuple):
    """What differs between two versions of the conventions."""

    duration: str
    time_to_first_chunk: str
    time_per_output_chunk: str
    token_histograms: tuple[str, str]
    """Input and output; the same name twice means one instrument, told apart by `gen_ai.token.type`."""
    token_counters: bool
    cache_write_tokens: str
    finish_reason_in_messages: bool
    """Whether the schema of output messages wants the finish reason in each (1.41), or has it deprecated."""


PROFILES: Final[Mapping[str, Profile]] = {
    "released": Profile(
        duration="gen_ai.client.operation.duration",
        time_to_first_chunk="gen_ai.client.operation.time_to_first_chunk",
        time_per_output_chunk="gen_ai.client.operation.time_per_output_chunk",
        token_histograms=("gen_ai.client.token.usage", "gen_ai.client.token.usage"),
        token_counters=False,
        cache_write_tokens="gen_ai.usage.cache_creation.input_tokens",
        finish_reason_in_messages=True,
    ),
    "main": Profile(
        duration="gen_ai.client.inference.duration",
        time_to_first_chunk="gen_ai.client.inference.time_to_first_chunk",
        time_per_output_chunk="gen_ai.client.inference.time_per_output_chunk",
        token_histograms=(
            "gen_ai.client.inference.operation.input_tokens",
            "gen_ai.client.inference.operation.output_tokens",
        ),
        token_counters=True,
        cache_write_tokens="gen_ai.usage.cache_write.input_tokens",
        finish_reason_in_messages=False,
    ),
}

OTHER_DURATION: Final = "gen_ai.client.operation.duration"
"""The duration of operations that are no inference (embeddings), in both profiles."""

DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"

DURATION_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Seconds. Of all duration metrics of the conventions."""

TOKEN_BUCKETS: Final = tuple(4**power for power in range(14))
"""1, 4, 16 … 67108864."""

OPERATION: Final[Mapping[str, str]] = {
    "text.completion": "text_completion",
    "chat.completion": "chat",
    "responses": "chat",
    # The conventions have no word for these three, and allow one's own.
    "audio.speech": "speech",
    "audio.transcription": "transcription",
    "image.generation": "image_generation",
    "passthrough": "passthrough",
}
"""`gen_ai.operation.name` by stream type; but Gemini's chat is `generate_content`."""

PROVIDERS: Final[Mapping[str, str]] = {
    "anthropic": "anthropic",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "aws-bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "azure-ai": "azure.ai.inference",
    "azure-ai-inference": "azure.ai.inference",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "google-ai-studio": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "vertex-ai": "gcp.vertex_ai",
    "google-vertex": "gcp.vertex_ai",
    "groq": "groq",
    "watsonx": "ibm.watsonx.ai",
    "mistral": "mistral_ai",
    "mistral-ai": "mistral_ai",
    "moonshot": "moonshot_ai",
    "moonshot-ai": "moonshot_ai",
    "openai": "openai",
    "perplexity": "perplexity",
    "xai": "x_ai",
    "x-ai": "x_ai",
}
"""`gen_ai.provider.name` by the name that our user gave the provider (lower case, `_` as `-`). Others stay."""

PROVIDER_OF_FORMAT: Final[Mapping[str, str]] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "bedrock": "aws.bedrock",
    "cohere": "cohere",
    "mistral": "mistral_ai",
    "ollama": "ollama",
}
"""The provider whose dialect a format is, by the first word of its name: the best guess where nobody named one."""

PARAMETERS: Final[Mapping[str, tuple[type, tuple[str, ...]]]] = {
    "gen_ai.request.temperature": (float, ("temperature",)),
    "gen_ai.request.top_p": (float, ("top_p", "topP", "p")),
    "gen_ai.request.top_k": (int, ("top_k", "topK", "k")),
    "gen_ai.request.max_tokens": (
        int,
        (
            "max_completion_tokens",
            "max_output_tokens",
            "max_tokens",
            "maxOutputTokens",
            "maxTokens",
            "maxTokenCount",
            "max_tokens_to_sample",
            "max_gen_len",
            "num_predict",
        ),
    ),
    "gen_ai.request.frequency_penalty": (float, ("frequency_penalty", "frequencyPenalty")),
    "gen_ai.request.presence_penalty": (float, ("presence_penalty", "presencePenalty")),
    "gen_ai.request.stop_sequences": (list, ("stop_sequences", "stopSequences", "stop")),
    "gen_ai.request.seed": (int, ("seed", "random_seed")),
    "gen_ai.request.choice.count": (int, ("n", "candidateCount", "candidate_count", "num_generations")),
    "gen_ai.request.reasoning.level": (str, ("reasoning_effort", "effort", "thinkingLevel", "thinking_level")),
    "gen_ai.request.previous_response.id": (str, ("previous_response_id",)),
}
"""Request parameters: the type of the attribute, and how the formats spell the parameter; the first there counts."""

PARAMETER_GROUPS: Final[tuple[str, ...]] = (
    "generationConfig",
    "generation_config",
    "inferenceConfig",
    "textGenerationConfig",
    "options",
    "reasoning",
    "output_config",
    "thinkingConfig",
    "thinking_config",
)
"""Objects in which formats put their parameters (Gemini, Bedrock, Ollama, Responses, Anthropic)."""
