"""Builds the native part (`src/streamfold/wire/_scan.c`) when the package is installed or a wheel is made.

It is optional: where there is no compiler, or `STREAMFOLD_NO_EXTENSIONS` is set, the package is whole without it and
`wire/split.py` does its work in Python, several times slower. A build that fails says so and goes on.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/streamfold/wire/_scan.c")
MODULE = "streamfold.wire._scan"
OLDEST = "cp311"
"""The first Python that the module runs on where it is built for the stable ABI: `Py_LIMITED_API` in the source."""


class NativeBuildHook(BuildHookInterface[Any]):
    """Compiles the module beside its source, from where an editable install uses it and a wheel takes it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if not os.environ.get("STREAMFOLD_NO_EXTENSIONS"):
            try:
                build_data |= self._built()
                return
            except (Exception, SystemExit) as fault:  # setuptools ends the process in some of its errors
                self.app.display_warning(f"{SOURCE} is not built, folding will be slower: {fault}")
        if version == "editable":  # what an earlier one built is not what the source says now
            for suffix in ("so", "pyd"):
                for stale in Path(self.root, SOURCE.parent).glob(f"{SOURCE.stem}*.{suffix}"):
                    stale.unlink()

    def _built(self) -> dict[str, Any]:
        """What the wheel has to know of the compiled module."""
        built = compiled(Path(self.root))
        tag = self.build_config.builder.get_best_matching_tag()  # of this Python and this platform
        if ".abi3" in built.suffixes:
            tag = f"{OLDEST}-abi3-{tag.split('-')[-1]}"
        return {"pure_python": False, "tag": tag, "artifacts": [str(built.relative_to(self.root))]}


def compiled(root: Path) -> Path:
    """Compiles the module for this Python; returns where it is. Raises whatever the compiler's setup raises."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension(MODULE, [str(root / SOURCE)], py_limited_api=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = build_ext(Distribution({"ext_modules": [extension]}))
        command.build_lib = command.build_temp = scratch
        command.ensure_finalized()
        command.run()
        made = Path(command.get_ext_fullpath(MODULE))
        place = root / SOURCE.parent / made.name
        # A process may have the old one open, and another may be building: it is replaced, not written over.
        copy = place.with_name(f"{SOURCE.stem}.{os.getpid()}.so")
        shutil.copy(made, copy)
        copy.replace(place)
    return place


if __name__ == "__main__":
    print(compiled(Path(__file__).resolve().parent), file=sys.stderr)
