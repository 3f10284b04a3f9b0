"""The names that one model goes by.

The same model is `gpt-4o`, `gpt-4o-2024-08-06` in an answer, `anthropic.claude-sonnet-4-5-20250929-v1:0` on Bedrock,
`us.` before that through an inference profile, an ARN, `claude-sonnet-4-5@20250929` or a path on Vertex AI. A price
list knows some of these. `names_of` writes a name as it was said first, then plainer and plainer; whoever looks
prices up takes the first that is listed. Only what surely names the same model is dropped: a region, a vendor, a
date, a version.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["names_of", "picture_names"]

PATHS: Final = ("arn:", "projects/", "publishers/", "models/", "accounts/")
REGION: Final = re.compile(r"^(?:us-gov|us|eu|apac|ap|global|jp|au|ca|sa|amer)\.(?=[a-z0-9]+\.)")
VENDOR: Final = re.compile(
    r"^(?:ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshotai?|nvidia|openai|qwen|stability|writer|zai)\.",
)
VERSION: Final = re.compile(r"(?:-v\d+)?:\d+(?::[0-9a-z]+)?$|-v\d+$")
AT_DATE: Final = re.compile(r"@(\d{8}|default|latest)$")
DATE: Final = re.compile(r"-(?:20\d\d-\d\d-\d\d|20\d{6}|latest)$")
TUNED: Final = re.compile(r"^(ft:[^:]+):.*")


def names_of(model: str) -> list[str]:
    """All names to look for, lower case, the name as it was said first."""
    name = model.strip().lower()
    found = [name]
    if name.startswith(PATHS):
        found.append(name := name.rsplit("/", 1)[-1])
    # A date after @ is Vertex AI's, and Anthropic's own list writes it after a dash.
    for pattern, instead in ((REGION, ""), (VENDOR, ""), (VERSION, ""), (AT_DATE, r"-\1"), (TUNED, r"\1"), (DATE, "")):
        found.append(name := pattern.sub(instead, name))
    return [each for each in dict.fromkeys(found) if each]


def picture_names(model: str, size: str | None, quality: str | None) -> list[str]:
    """The names of a model that makes pictures, which lists price by size and quality (`hd/1024-x-1024/dall-e-3`)."""
    sizes = [size.replace("x", "-x-"), size] if size and re.fullmatch(r"\d+x\d+", size) else []
    prefixes = [f"{quality}/{each}/" for each in sizes if quality]
    prefixes += [f"{each}/" for each in sizes]
    prefixes += [f"{quality}/"] if quality else []
    names = names_of(model)
    return [f"{prefix}{name}" for prefix in prefixes for name in names] + names
