"""Cases that public reference implementations compute, in a folder beside the repository; what needs them is skipped where it is absent.

A test of a file says of each function in it how we run its cases, or why we do not: what is named twice, or not at all, fails.
"""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / '..' / 'shared' / 'golden'


def read(name: str) -> list[dict[str, Any]]:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f'{path} is absent')
    return json.loads(path.read_text())['cases']


def hold(name: str, ours: Mapping[str, Callable], left: Mapping[str, str], same: Callable[[Any, Any, dict], None]) -> None:
    """Runs the cases of a file.

    Args:
      ours: {function: input -> answer}. left: {function: why it is not ours}.
      same: (answer, expected, case) raises AssertionError where they differ.
    """
    cases = read(name)
    assert not ours.keys() & left.keys()
    assert {case['function'] for case in cases} == ours.keys() | left.keys(), 'each function once, and none that is not there'
    for case in cases:
        if case['function'] in ours:
            same(ours[case['function']](case['input']), case['expected'], case)
