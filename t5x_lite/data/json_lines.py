"""A line of JSON, and what is wrong with one that is none. (numpy only)"""

import json
from typing import Any

from t5x_lite.errors import UserError


def parsed(line: str, where: str) -> Any:
    """The value of a line of jsonl; UserError for what is not JSON, or not Unicode."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: not JSON ({not_json(error)}); expected one object a line') from error
    if '\\ud' in line.lower():  # json can spell half a surrogate pair
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(f'{where}: {error.object[error.start]!r} in it is not Unicode; mend the text') from error
    return value


def not_json(error: Exception) -> str:
    """What `json.loads` complains of: a syntax error, or what no decoder takes (nested too deep, a number of thousands of digits)."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return 'nested too deep' if isinstance(error, RecursionError) else 'a number of too many digits'
