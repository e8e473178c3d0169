"""A disk of a few megabytes that a test can fill: a tmpfs, which only root may mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

CHUNK: Final = bytes(64 * 1024)


class Disk:
    """A small file system that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(CHUNK)
                except OSError:
                    return

    def clear(self) -> None:
        (self.folder / "ballast").unlink()


@contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """A disk of this size at `folder`, for as long as the block; skips the test where none may be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=755", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this root may not mount a tmpfs (CAP_SYS_ADMIN)")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
