"""Resolve every documented way to install from the package index alone; `--write` writes constraints.txt anew.

Nothing is installed, and nothing of this machine is used: no pip configuration, no folder of wheels, no settings or
cache of uv. On each Python that pyproject.toml names it resolves

- each extra with constraints.txt, as the Makefile does: every package must have a wheel and an exact version;
- what `uv pip install -e '.[vllm]'` takes from pyproject.toml alone. Those versions change from day to day, and the
  former has proved that a solution exists, so a failure here is told and fails nothing.

vLLM's CPU build wants a build of torch, `2.13.0+cpu`, that lies on PyTorch's own index and has fewer dependencies: for
it the ordinary build of the same version stands in.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
WITHOUT_CONSTRAINTS = ("", "vllm", "vllm_latest")

_HEADER = "# Exact versions for all extras on each Python; `make constraints` makes this file from pyproject.toml.\n"
_KEPT = {"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_EXTRAS = ["", *_PROJECT["optional-dependencies"]]
_PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(_PROJECT["classifiers"]))


def main() -> int:
    """Write constraints.txt, or check it and every way to install; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            index = _Index(Path(folder))
            fresh = index.constraints()
        except subprocess.CalledProcessError as error:
            print(f"FAILED: constraints for all extras\n{error.stderr}")
            return 1
        if sys.argv[1:] == ["--write"]:
            CONSTRAINTS.write_text(fresh, encoding="utf-8")
            return 0
        if fresh != CONSTRAINTS.read_text(encoding="utf-8"):
            print("constraints.txt is not what pyproject.toml asks for: run `make constraints`")
            return 1
        ways = [*product(_PYTHONS, _EXTRAS, [True]), *product(_PYTHONS, WITHOUT_CONSTRAINTS, [False])]
        with ThreadPoolExecutor(4) as pool:  # uv mostly waits for the index
            return 0 if all(list(pool.map(lambda way: index.holds(*way), ways))) else 1


class _Index:
    """The package index as uv sees it from an empty `folder`, which keeps what was read of it."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "constraints.txt"
        self.cache = folder / "cache"
        self.known = CONSTRAINTS.read_text(encoding="utf-8") if CONSTRAINTS.exists() else ""
        self.of_torch = {name for name in _pins(self._keeping("")) if name.startswith(("cuda-", "nvidia-"))}
        """CUDA's libraries, left out of constraints.txt: each build of torch brings those it was made with."""
        self.torch = "torch==" + _pins(self._keeping("vllm"))["torch"]

    def constraints(self) -> str:
        """Return the text of constraints.txt; versions that it has already are kept where they still fit."""
        pythons_of: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for python in _PYTHONS:
            found = self._keeping("*", python)
            for name, version in _pins(found).items():
                pythons_of[name][version].append(python)
            self.known += found  # the next Python takes the same versions where it can
        lines = []
        for name, versions in sorted(pythons_of.items()):
            for version, pythons in versions.items() if name not in self.of_torch else ():
                marks = [f' ; python_version == "{python}"' for python in pythons] if len(versions) > 1 else [""]
                lines += [f"{name}=={version}{mark}\n" for mark in marks]
        return _HEADER + "".join(lines)

    def holds(self, python: str, extra: str, pinned: bool) -> bool:
        """Resolve one way and print how it went; return False where something is to be mended here."""
        source = "constraints.txt" if pinned else "pyproject.toml alone"
        way = f"Python {python}, .{f'[{extra}]' if extra else ''}, {source}"
        # All that constraints.txt names has been read before: --offline makes uv not ask whether it is still so.
        words = ["--constraint", str(CONSTRAINTS), "--offline"] if pinned else []
        try:
            found = _pins(self._uv(extra, python, *words))
        except subprocess.CalledProcessError as error:
            print(f"{'FAILED' if pinned else 'no solution today'}: {way}\n{error.stderr}")
            return not pinned
        loose = set(found) - set(_pins(self.known)) - self.of_torch if pinned else set()
        print(f"FAILED, without a version in constraints.txt: {sorted(loose)}: {way}" if loose else f"resolved: {way}")
        return not loose

    def _keeping(self, extra: str, python: str = _PYTHONS[0]) -> str:
        """Resolve; uv prefers the versions that it finds in its output file."""
        self.output.write_text(self.known, encoding="utf-8")
        self._uv(extra, python, "--output-file", str(self.output))
        return self.output.read_text(encoding="utf-8")

    def _uv(self, extra: str, python: str, *words: str) -> str:
        """Return what `uv pip compile` prints for an extra, or for all (`*`). Raises: `CalledProcessError`."""
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "compile",
            "--no-config",
            "--quiet",
            "--no-annotate",
            "--no-header",
        ]
        command += ["--cache-dir", str(self.cache), "--only-binary", ":all:", "--override", "-"]
        command += ["--python-platform", "x86_64-manylinux_2_31", "--python-version", python]
        command += ["--all-extras"] if extra == "*" else ["--extra", extra] if extra else []
        override = self.torch if extra in ("*", "test", "vllm-cpu") else ""
        return subprocess.run(
            [*command, *words, "pyproject.toml"],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name.upper() in _KEPT},
            input=override,
            capture_output=True,
            text=True,
            check=True,
        ).stdout


def _pins(text: str) -> dict[str, str]:
    """Return each package's version; a build such as torch's 2.13.0+cpu counts as its version."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;+]+)", text, re.MULTILINE))


if __name__ == "__main__":
    sys.exit(main())
