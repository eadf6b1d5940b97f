"""A row of a batch as text, for people. (numpy only)"""

from collections.abc import Sequence

import numpy as np


def decode_example(batch: dict[str, np.ndarray], row: int, tokenizer, labels: Sequence[str] = ()) -> str:
    """One row of a batch as the model will see it. `labels`: names of the classes.

    Of an encoder, a line for each segment; masked positions read `seen{target}`, such as `[MASK]{cat}`:

        segment 0: [CLS] the [MASK]{cat} sat down{down} [SEP]
        segment 1: it slept [SEP]
        padding: 3 of 12
        next sentence: really next

    Of a decoder, what each sequence is to say; a bar stands before the first token that is predicted, where others are only read:

        sequence 1: the cat | sat down [SEP]
        padding: 3 of 9

    Of an encoder-decoder, both sides of each sequence:

        sequence 1 inputs: the <extra_id_0> sat down [SEP]
        sequence 1 targets: <extra_id_0> cat [SEP]
        padding: 3 of 9 inputs, 1 of 4 targets

    Of a question with choices, the segments of each choice.
    """
    if batch['tokens'].ndim == 3:
        lines = _choices(batch, row, tokenizer)
    elif 'decoder_tokens' in batch:
        lines = _sides(batch, row, tokenizer)
    elif 'targets' in batch:
        lines = _sequences(batch, row, tokenizer)
    else:
        lines = _segments(batch, row, tokenizer)
    if 'next_sentence_labels' in batch:
        lines.append('next sentence: ' + ('random' if batch['next_sentence_labels'][row] else 'really next'))
    if 'tagged' in batch:
        places = np.flatnonzero(batch['tagged'][row])
        shown = [f'{tokenizer.token(int(batch["tokens"][row, place]))}/{_named(labels, batch["labels"][row, place])}' for place in places]
        lines.append(f'tags: {" ".join(shown)}')
    elif 'labels' in batch and batch['labels'].ndim == 2:
        lines.append(f'labels: {", ".join(_named(labels, label) for label in np.flatnonzero(batch["labels"][row])) or "none"}')
    elif 'labels' in batch:
        label = batch['labels'][row]
        lines.append(f'label: {label}' + (f' ({labels[label]})' if labels else ''))
    return '\n'.join(lines)


def _choices(batch, row, tokenizer):
    lines = []
    for number in range(batch['tokens'].shape[1]):
        one = {name: batch[name][row][number : number + 1] for name in ('tokens', 'token_types', 'sequence_ids')}
        lines.append(f'choice {number}:' + ('' if one['sequence_ids'].any() else ' none'))
        lines += [f'  {line}' for line in _segments(one, 0, tokenizer)] if one['sequence_ids'].any() else []
    return lines


def _named(labels, label) -> str:
    return labels[label] if labels else str(label)


def real_share(batch: dict[str, np.ndarray]) -> float:
    """Which share of the tokens of a batch, on both sides of an encoder-decoder, is not padding."""
    ids = [batch[name] for name in ('sequence_ids', 'decoder_sequence_ids') if name in batch]
    return float(sum((side > 0).sum() for side in ids) / sum(side.size for side in ids))


def _padding(ids):
    return f'{int((ids == 0).sum())} of {len(ids)}'


def _words(tokens, tokenizer):
    return ''.join(f' {tokenizer.token(int(token))}' for token in tokens)


def _segments(batch, row, tokenizer):
    tokens, ids, types = batch['tokens'][row], batch['sequence_ids'][row], batch['token_types'][row]
    targets = {}
    if 'masked_positions' in batch:
        used = batch['masked_weights'][row] > 0
        targets = dict(zip(batch['masked_positions'][row][used].tolist(), batch['masked_targets'][row][used].tolist()))
    lines: list[str] = []
    last = None
    for place in np.flatnonzero(ids > 0).tolist():
        part = int(ids[place]), int(types[place])
        if part != last:
            name = f'sequence {part[0]}, ' if 'positions' in batch else ''
            lines.append(f'{name}segment {part[1]}:')
            last = part
        target = f'{{{tokenizer.token(targets[place])}}}' if place in targets else ''
        lines[-1] += f' {tokenizer.token(int(tokens[place]))}{target}'
    return [*lines, f'padding: {_padding(ids)}']


def _sequences(batch, row, tokenizer):
    targets, ids, weights = batch['targets'][row], batch['sequence_ids'][row], batch['target_weights'][row]
    lines = []
    for number in range(1, ids.max() + 1):
        read, predicted = (targets[(ids == number) & part] for part in (weights == 0, weights > 0))
        bar = ' |' if 'prefix' in batch else ''
        lines.append(f'sequence {number}:{_words(read, tokenizer)}{bar}{_words(predicted, tokenizer)}')
    return [*lines, f'padding: {_padding(ids)}']


def _sides(batch, row, tokenizer):
    ids, target_ids = batch['sequence_ids'][row], batch['decoder_sequence_ids'][row]
    lines = []
    for number in range(1, max(ids.max(), target_ids.max()) + 1):
        lines.append(f'sequence {number} inputs:{_words(batch["tokens"][row][ids == number], tokenizer)}')
        lines.append(f'sequence {number} targets:{_words(batch["targets"][row][target_ids == number], tokenizer)}')
    return [*lines, f'padding: {_padding(ids)} inputs, {_padding(target_ids)} targets']
