"""The documentation speaks of the tree as it is: every file that CONTRIBUTING.md names, every public name."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path

import pytest

import flowcut

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = {
    name
    for name in re.findall(r"`([\w./]+)`", CONTRIBUTING)
    if "/" in name and "your" not in name and "build" not in name
}
REGISTERS = {
    "flowcut/criteria/registry.py": "METHODS",
    "flowcut/families/registry.py": "FAMILIES",
    "app/sidebar/controls.py": "PUBLISHED",
    "app/views/compare/sections.py": "SECTIONS",
    "tests/browser/test_started.py": "SECTIONS",
    "tests/analysis/test_compare_figures.py": "DRAWN",
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_named_files_are_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(REGISTERS))
def test_registers_are_where_it_is_said(name: str) -> None:
    assert f"`{name}`" in CONTRIBUTING
    assert re.search(rf"^{REGISTERS[name]}\b.*= ", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_public_name_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert sorted(re.findall(r"^::: flowcut\.(\w+)$", pages, re.MULTILINE)) == sorted(dir(flowcut))


def test_help_is_a_few_screens_that_name_everything_public() -> None:
    text = pydoc.render_doc(flowcut, renderer=pydoc.plaintext)
    assert len(text.splitlines()) < 150
    described = re.findall(r"^ {8}(\w+) +\S.*\.$", text, re.MULTILINE)
    assert sorted(described) == sorted(dir(flowcut))
