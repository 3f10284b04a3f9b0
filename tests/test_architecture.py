"""The house: who may import whom, what is exported, and what importing costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import streamfold

ROOT = Path(streamfold.__file__).parent

LAYERS = (
    ("errors", "types", "timestamps"),
    ("growth", "framing"),
    ("wire",),
    ("sequence",),
    ("processed", "tape"),
    ("stream",),
    ("accumulator",),
    ("settings",),
    ("catalog", "hooks"),
    ("store", "pipeline"),
    ("plugins", "taps"),
    ("ui",),
    ("gateway", "bench", "testing"),
    ("cli", "cli_logs", "cli_output", "cli_replay"),
    ("__main__",),
)
"""Top to bottom as in docs/architecture.md: a room imports from rooms above its own, and from its own."""

RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
CORE = {room for rooms in LAYERS[:7] for room in rooms}
FORBIDDEN_IN_CORE = {"asyncio", "logging", "socket", "requests", "httpx", "aiohttp", "sqlite3", "subprocess", "select"}


def modules():
    return sorted(
        path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent != ROOT
    )


def room_of(path):
    return path.parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "streamfold")


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_go_one_way(path):
    """No module imports from a room below its own."""
    rank = RANK[room_of(path)]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "streamfold" or len(parts) < 2:
            continue
        assert RANK.get(parts[1], -1) <= rank, f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in modules() if room_of(path) in CORE], ids=str)
def test_the_core_does_no_io(path):
    """The core knows no socket, no event loop, no log; `time` and `threading` only as clock and lock."""
    used = {name.split(".")[0] for name in imports(path)}
    assert not used & FORBIDDEN_IN_CORE


def test_every_room_has_its_place():
    """A new room must be given a layer, here and in docs/architecture.md."""
    assert {room_of(path) for path in modules()} <= RANK.keys()


def test_the_door_is_a_list():
    """Everything in `__all__` exists and is sorted; nothing else is public at the top."""
    assert sorted(streamfold.__all__) == sorted(set(streamfold.__all__))
    assert all(hasattr(streamfold, name) for name in streamfold.__all__)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_all_names_exist(path):
    """Every name that a module lists in `__all__` is there."""
    module = importlib.import_module(".".join(("streamfold", *path.with_suffix("").parts)).removesuffix(".__init__"))
    assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))


def loaded_by(code):
    show = f"import sys; {code}; print('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_library_loads_nothing_heavy():
    """`import streamfold` loads msgspec and the standard library, and no wire format before it is asked for."""
    ours = loaded_by("import streamfold") - loaded_by("import msgspec")
    assert {name.split(".")[0] for name in ours} - set(sys.stdlib_module_names) == {"streamfold"}
    assert not any(name.startswith("streamfold.wire.openai") for name in ours)
    assert "asyncio" not in ours


@pytest.mark.parametrize("path", modules(), ids=str)
def test_no_room_for_odds_and_ends(path):
    """There is no room called utils, helpers, common, base, manager or core."""
    assert not {"utils", "helpers", "common", "base", "manager", "core"} & {
        part.removesuffix(".py") for part in path.parts
    }
