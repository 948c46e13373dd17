"""A home that every user can pass through, as one of a person would be; pytest's own folders are root's alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dalang.settings import Settings
from dalang.stack.private_files import make_home
from dalang.stack.supervisor import on_free_ports


@pytest.fixture
def home() -> Iterator[Path]:
    folder = make_home(Path(tempfile.mkdtemp(prefix="dalang-stack-")))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def free(home: Path) -> Settings:
    """Settings of a stack of its own on free ports."""
    return on_free_ports(Settings(home=home))
