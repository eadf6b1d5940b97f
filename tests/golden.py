"""Vectors of public reference implementations, where they lie beside the repository (../shared/golden): every case is run, or has a reason not to be.

A test of a file gives a table {function: check}, where check(case) compares, and a table {function: reason} of what does not apply. A check may
also return a reason, for a case that differs by choice; how many do is part of the table, so that none slips away unseen.
"""

import collections
import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / '..' / 'shared' / 'golden'


def cases(name):
    path = FOLDER / f'{name}.json'
    if not path.exists():
        pytest.skip(f'{path} is absent')
    return json.loads(path.read_text(encoding='utf-8'))['cases']


def compared(ours, same):
    """Checks of functions {function: input -> answer}, by `same(answer, expected, case)`, which raises where they differ."""

    def check(function):
        return lambda case: same(function(case['input']), case['expected'], case)

    return {name: check(function) for name, function in ours.items()}


def hold(name, checks, not_ours, differing=None):
    """Runs all cases of a file.

    Args:
      checks: {function: check(case) -> None, or the reason why this case differs}.
      not_ours: {function: reason}.
      differing: {reason: how many cases are to return it}.
    """
    found = cases(name)
    functions = {case['function'] for case in found}
    assert not checks.keys() & not_ours.keys(), 'either run or listed'
    assert functions == checks.keys() | not_ours.keys(), functions ^ (checks.keys() | not_ours.keys())
    reasons = collections.Counter()
    for case in found:
        if case['function'] in checks:
            try:
                reason = checks[case['function']](case)
            except BaseException as error:
                error.add_note(f'{name}.json: {case["function"]}: {case["source"]}\ninput {case["input"]!r:.500}\nexpected {case["expected"]!r:.500}')
                raise
            reasons.update([reason] if reason else [])
    assert dict(reasons) == (differing or {}), dict(reasons)
