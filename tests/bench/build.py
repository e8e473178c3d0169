"""Builds what the benchmark measures with: a client and an upstream in C, and Go's plain reverse proxy."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent


class MissingToolError(Exception):
    """A program that the benchmark needs is not installed; the text says which and how to get it."""


def tool(name: str, package: str) -> str:
    """The path of a program. Raises MissingToolError."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MissingToolError(f"{name} is not installed (Debian, Ubuntu: apt install {package})")
    return found


def c_program(name: str, into: Path) -> Path:
    """Compile `name`.c; the program. Raises MissingToolError, and subprocess.CalledProcessError."""
    program = into / name
    command = [tool("gcc", "gcc"), "-O2", "-Wall", "-Wextra", "-o", str(program), str(HERE / f"{name}.c")]
    subprocess.run(command, check=True)
    return program


def go_proxy(into: Path) -> Path:
    """Compile the reverse proxy of Go's standard library. Raises as `c_program`."""
    program = into / "goproxy"
    command = [tool("go", "golang-go"), "build", "-o", str(program), str(HERE / "goproxy" / "main.go")]
    subprocess.run(command, check=True)
    return program
