"""The end of a preparation: index, counts, manifest, and a summary for people."""

from collections.abc import Iterator, Mapping
import os
import shutil

from t5x_lite.data import corpus, shards, tokenizers, workers
from t5x_lite.errors import UserError


def finish(folder: str, tokenizer: tokenizers.Tokenizer, state: dict, records: Mapping[str, list[dict]]) -> dict:
    """Writes what goes over all shards, and the manifest last, which it returns.

    Args:
      state: settings, inputs, broken and removed, as they go into the manifest.
      records: of the shards of each split, as `shards.ShardWriter` makes them.

    Raises:
      UserError: a split without tokens.
    """
    splits = {}
    for split, of_split in records.items():
        found = [{key: value for key, value in record.items() if key != 'end'} for record in of_split]
        counts = shards.count_tokens(folder, found, workers.token_dtype(tokenizer.vocab_size), tokenizer.vocab_size)
        if not counts.any():
            rules = ', and do the rules leave any' if state['removed'] else ''
            raise UserError(f'no tokens came out for the {split} part; is this text{rules}? Delete {folder} and try other input')
        shards.write_index(folder, split, found)
        if split == 'train':
            shards.write_npy(os.path.join(folder, 'unigram_counts.npy'), counts)
        totals = {key: sum(record[key] for record in found) for key in ('documents', 'sentences', 'tokens', 'characters')}
        unknown = 0 if tokenizer.unk_id is None else int(counts[tokenizer.unk_id])
        splits[split] = {**totals, 'unknown': unknown, 'shards': found}
    manifest = {
        'format': corpus.FORMAT,
        'tokenizer_sha256': tokenizer.fingerprint,
        'vocab_size': tokenizer.vocab_size,
        'dtype': workers.token_dtype(tokenizer.vocab_size).name,
        'settings': state['settings'],
        'inputs': state['inputs'],
        'broken': state['broken'],
        'removed': state['removed'],
        'splits': splits,
    }
    shards.write_json(os.path.join(folder, corpus.MANIFEST), manifest)
    shutil.rmtree(os.path.join(folder, 'unfinished'), ignore_errors=True)
    return manifest


def summary(manifest: dict, tokenizer: tokenizers.Tokenizer, folder: str) -> Iterator[str]:
    """What a person wants to know of a corpus that was just prepared, in lines."""
    yield f'{"":12}{"documents":>14}{"sentences":>14}{"tokens":>16}{"characters/token":>18}{"unknown":>10}'
    for split, part in manifest['splits'].items():
        yield (
            f'{split:12}{part["documents"]:>14,}{part["sentences"]:>14,}{part["tokens"]:>16,}'
            f'{part["characters"] / part["tokens"]:>18.2f}{part["unknown"] / part["tokens"]:>10.3%}'
        )
    if manifest['removed']:
        yield 'removed: ' + '; '.join(f'{rule} ' + ', '.join(f'{count:,} {unit}' for unit, count in found.items()) for rule, found in manifest['removed'].items())
    if manifest['broken']:
        yield f'{manifest["broken"]:,} broken places of the input were left out'
    asked, got = manifest['settings']['vocab_size'], manifest['vocab_size']
    less = f', less than the {asked:,} asked for: the text has no more that repeats' if asked and got < asked else ''
    yield f'{got:,} pieces in the tokenizer{less}'
    if tokenizer.mask_id is not None:
        yield f'pre-train on it: python -m t5x_lite.train --config=configs/bert.py:tiny --config.data.path={folder} --workdir=runs/tiny'
