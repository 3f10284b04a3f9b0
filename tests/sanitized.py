"""Fuzzes the native part under AddressSanitizer and UndefinedBehaviorSanitizer: every byte it touches is ours.

    python tests/sanitized.py [--seconds 60] [--seed 7] [--target ways:responses]

Needs gcc with its sanitizers, on Linux. The package is copied, so that the build in use stays as it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def library(name: str) -> str:
    """Where gcc has this library."""
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "streamfold"
        shutil.copytree(ROOT / "src/streamfold", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        source, built = package / "wire/_scan.c", package / "wire/_scan.abi3.so"
        warnings = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wno-unused-parameter", "-Werror")
        kind = ("-g", "-O1", "-fPIC", "-shared", "-isystem", sysconfig.get_path("include"))
        subprocess.run(["gcc", *kind, *warnings, *SANITIZE, str(source), "-o", str(built)], check=True)
        environment = {
            **os.environ,
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaves much to the end of the process
            "PYTHONMALLOC": "malloc",  # or its own allocator would hide what is read beyond an object
            "PYTHONPATH": scratch,
            "STREAMFOLD_NO_EXTENSIONS": "",
            "TESTS_REQUIRE": "compiler",  # a module that cannot be loaded must not pass as one without fault
        }
        for program in (
            ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_native.py", "-k", "not wheel and not install"],
            ["tests/fuzz.py", *sys.argv[1:]],
        ):
            done = subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, check=False)
            if done.returncode != 0:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
