"""Lines of JSON: values as they are, and mistakes with their place."""

import pytest

from t5x_lite.data import json_lines
from t5x_lite.errors import UserError


def test_values_and_mistakes():
    assert json_lines.parsed('{"a": ["b", 1.5, null]}', 'f:1') == {'a': ['b', 1.5, None]} and json_lines.parsed('"\\ud83d\\ude00"', 'f:1') == '😀'
    for line, said in (
        ('{"a": ', 'f:3: not JSON .*; expected one object a line'),
        ('[' * 100_000, r'f:3: not JSON \(nested too deep\)'),
        ('{"a": ' + '1' * 5000 + '}', r'f:3: not JSON \(a number of too many digits\)'),
        ('{"a": "\\uD83D b"}', "f:3: .* in it is not Unicode; mend the text"),
    ):
        with pytest.raises(UserError, match=said):
            json_lines.parsed(line, 'f:3')
