"""The small files of a tokenizer folder: UTF-8 text, tokenizer_config.json, and what the latter says of special and added tokens."""

import json
import os

import tokenizers as library

from t5x_lite.errors import UserError

ROLES = ('pad', 'unk', 'cls', 'sep', 'mask', 'eos', 'bos')
SETTINGS = ('special_tokens_map.json', 'tokenizer_config.json', 'added_tokens.json')  # beside the vocabulary; a folder may lack each


def read_config(folder: str) -> dict:
    """tokenizer_config.json over special_tokens_map.json; {} where both are absent. added_tokens.json, the older form, fills in
    added_tokens_decoder where that is missing."""
    config = {}
    for name in SETTINGS[:2]:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            config.update(read_json(path))
    path = os.path.join(folder, SETTINGS[2])
    if os.path.exists(path) and not config.get('added_tokens_decoder'):
        config['added_tokens_decoder'] = {str(index): {'content': token} for token, index in read_json(path).items()}
    return config


def special_names(config: dict) -> dict[str, str]:
    """How tokenizer_config.json spells the roles: {'pad': '<pad>'}; roles that it does not name are left out."""
    names = {}
    for role in ROLES:
        value = config.get(f'{role}_token')
        value = value.get('content') if isinstance(value, dict) else value
        if value:
            names[role] = value
    return names


def add_tokens(backend: library.Tokenizer, config: dict, folder: str) -> bool:
    """Adds the tokens of added_tokens_decoder to a tokenizer made of vocabulary files; whether there were any.

    Raises:
      UserError: one cannot have the id that it is given there.
    """
    added = config.get('added_tokens_decoder') or {}
    for index, token in sorted(((int(index), token) for index, token in added.items()), key=lambda item: item[0]):
        options = {key: token[key] for key in ('single_word', 'lstrip', 'rstrip', 'normalized', 'special') if key in token}
        backend.add_tokens([library.AddedToken(token['content'], **options)])
        if backend.token_to_id(token['content']) != index:
            raise UserError(
                f'{os.path.join(folder, "tokenizer_config.json")}: added token {token["content"]!r} cannot have id {index}'
            )
    return bool(added)


def read_json(path: str) -> dict:
    """The object in a JSON file, or UserError."""
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f'{path}: not JSON ({error})') from error
    if not isinstance(found, dict):
        raise UserError(f'{path}: not a JSON object but {type(found).__name__}')
    return found


def read_text(path: str) -> str:
    try:
        with open(path, encoding='utf-8-sig') as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 (byte {error.start})') from error


def write_text(path: str, text: str) -> None:
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.write(text)


def write_json(path: str, value: dict) -> None:
    write_text(path, json.dumps(value, indent=2) + '\n')
