"""Synonyms of the words of texts, from a masked language model that sees each word where it stands.

Nothing is masked: a masked model says what fits the sentence ('a [MASK] film' - bad, long, French), one that sees the word what could stand for it (Zhou et
al., 2019, 'BERT-based Lexical Substitution', section 3.1). The likeliest other whole words of letters are taken, in one pass over each text. Words of several
pieces, and those that are cut off, have none.
"""

from collections.abc import Callable, Sequence
import os
import re
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import remote
from t5x_lite.config import Config, Layout, ModelConfig, Positions
from t5x_lite.data import augmenting, tagged, text_rows
from t5x_lite.data.augmenting import Synonyms
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.tables import LabelledExamples
from t5x_lite.data.tokenizer import Tokenizer
from t5x_lite.data.tokenizers import load as load_tokenizer
from t5x_lite.data.word_pieces import WordCutter
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.training import learnt
from t5x_lite.training.step import dummy_batch

FILE = 'synonyms.npz'  # in a workdir
_BATCH, _EVERY = 16, 5.0  # texts at a time; seconds between lines

Load = Callable[[str], tuple[ModelConfig, Any, str]]


def prepare(config: Config, train: DataFunction, load: Load, workdir: str, log: Callable[[str], None] = print, step: int | None = None) -> None:
    """Gives the training data the synonyms that config.data.augment.synonyms asks for: those in the workdir, or new ones, which are kept there.

    Args:
      load: path -> (architecture, parameters, tokenizer folder) of config.init_from.
      workdir: '' keeps nothing.
      step: only those of its batch are made, and not kept: for a look at it.

    Raises:
      UserError: config.init_from has no masked language model, or is gone, and there are no synonyms of before.
    """
    source = None if config.heads else train.sources(train.stages[0])[0]
    if not isinstance(source, LabelledExamples) or not config.data.augment.synonyms or config.data.augment.file:
        return
    path = os.path.join(workdir, FILE)
    if workdir and os.path.exists(path) and (kept := Synonyms.load(path)).texts == source.text_digest:
        if not remote.exists(config.init_from) or step is not None or kept.weights == learnt.fingerprint(load(config.init_from)[1]):
            _take(train, source, path)
            return
    if not remote.exists(config.init_from):
        raise UserError(f'config.data.augment.synonyms: {config.init_from} is gone, and {path} holds no synonyms of these texts; bring one of them back')
    architecture, params, _ = load(config.init_from)
    texts = [text for row in source.texts for text in row]
    wanted: set[int] | None = None
    if step is not None:
        columns = len(source.texts[0])
        wanted = {row * columns + column for row in source.rows_of(train.indices(step)).tolist() for column in range(columns)}
    tokenizer = load_tokenizer(source.tokenizer_path)
    made = find(texts, architecture, params, tokenizer, config.data.augment.candidates, config.init_from, log if step is None else lambda line: None, wanted)
    if step is not None or not workdir:
        with tempfile.TemporaryDirectory() as folder:
            made.save(os.path.join(folder, FILE))
            source.take_synonyms(os.path.join(folder, FILE))
        return
    os.makedirs(workdir, exist_ok=True)
    made.save(path)
    _take(train, source, path)


def _take(train: DataFunction, source: LabelledExamples, path: str) -> None:
    source.take_synonyms(path)
    train.reads_synonyms(path)


def find(
    texts: Sequence[str], architecture: ModelConfig, params: Any, tokenizer: Tokenizer, candidates: int, name: str,
    log: Callable[[str], None] = print, wanted: set[int] | None = None,
) -> Synonyms:  # fmt: skip
    """
    Args:
      architecture, params: of a model with a masked language model's head.
      name: of it, for messages.
      wanted: numbers of the texts to look at; None: all. The others have none.

    Raises:
      UserError: the model has no such head.
    """
    module = resolve(architecture.module, 'config.model.module', 'apply')(architecture)
    shapes = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), dummy_batch()))[0]
    if 'mlm_logits' not in shapes:
        raise UserError(
            f'config.data.augment.synonyms asks a masked language model, and {name} ({architecture.module}) has no such head; start from a BERT that has '
            'one, or leave synonyms out (deletion and swap need no model)'
        )
    before, after = text_rows.frame(tokenizer, Layout.encoder)
    longest = architecture.max_positions if architecture.positions == Positions.learned else 512
    cutter = WordCutter(tokenizer, longest, before, after)
    vocabulary = _whole_words(tokenizer, WordCutter(tokenizer, 64))
    digest, candidates = augmenting.digest(texts, candidates), min(candidates, len(vocabulary) - 1)
    if candidates < 1:
        raise UserError(f'config.data.augment.synonyms: the vocabulary of {name} has no whole words of letters to take them from; leave synonyms out')
    admissible = np.zeros(shapes['mlm_logits'].shape[-1], bool)
    admissible[list(vocabulary)] = True

    def likeliest(params: Any, batch: dict[str, Any]) -> jax.Array:
        """int32 [B, P, candidates]."""
        logits_BPV = module.apply({'params': params}, batch)['mlm_logits']
        own = jax.nn.one_hot(batch['masked_targets'], logits_BPV.shape[-1], dtype=bool)
        return jax.lax.top_k(jnp.where(jnp.asarray(admissible)[None, None] & ~own, logits_BPV, -jnp.inf), candidates)[1]

    apply, weights = jax.jit(likeliest), learnt.fingerprint(params)
    params = jax.tree.map(jnp.asarray, params)
    words = [re.findall(r'\S+', text) if wanted is None or number in wanted else [] for number, text in enumerate(texts)]
    starts = np.concatenate([[0], np.cumsum([len(some) for some in words], dtype=np.int64)])
    ids = np.full((int(starts[-1]), candidates), -1, np.int32)
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    order = sorted((number for number, some in enumerate(words) if some), key=lambda number: len(words[number]))  # so that batches are of equal widths
    begun = shown = time.monotonic()
    for first in range(0, len(order), _BATCH):
        chunk = order[first : first + _BATCH]
        rows, places, owners = [], [], []
        for number in chunk:
            spelt, which = _spelt(words[number])
            pieces = cutter.cut([('', spelt)])[0]
            rows.append(pieces)
            single = [(place, which[int(pieces.words[place])]) for place in np.flatnonzero(np.isin(pieces.words, _alone(pieces.words))).tolist()]
            single = [(place, word) for place, word in single if word >= 0]
            places.append([place for place, _ in single])
            owners.append([starts[number] + word for _, word in single])
        width, most = (_rounded(max(map(len, parts))) for parts in ([pieces.ids for pieces in rows], places))
        batch = tagged.pieces_features(rows + rows[:1] * (_BATCH - len(rows)), min(width, longest), tokenizer.pad_id or 0)
        at = np.zeros((_BATCH, most), np.int32)
        for row, found in enumerate(places):
            at[row, : len(found)] = found
        batch |= {'masked_positions': at, 'masked_targets': np.take_along_axis(batch['tokens'], at, 1), 'masked_weights': np.ones(at.shape, np.float32)}
        best = np.asarray(apply(params, {name: value for name, value in batch.items() if name != 'words'}))
        for row, owner in enumerate(owners):
            for place, word in enumerate(owner):
                ids[word] = [numbers[piece] for piece in best[row, place].tolist()]
        if time.monotonic() - shown > _EVERY or first + _BATCH >= len(order):
            shown, done = time.monotonic(), first + len(chunk)
            log(f'synonyms from {name}: {done:,} of {len(order):,} texts, {done / max(shown - begun, 1e-9):,.0f} a second')
    return Synonyms(starts, ids, np.array(list(vocabulary.values()) or ['']), digest, weights)


def _whole_words(tokenizer: Tokenizer, cutter: WordCutter) -> dict[int, str]:
    """{piece: word} of pieces that are a whole word of letters, as it stands in a text."""
    spelt = {number: tokenizer.decode([number]).strip() for number in range(tokenizer.vocab_size) if number not in tokenizer.special_ids}
    spelt = {number: word for number, word in spelt.items() if word.isalpha()}
    cut = cutter.cut([('', ['a', word]) for word in spelt.values()])
    return {number: word for (number, word), pieces in zip(spelt.items(), cut, strict=True) if pieces.ids[pieces.words == 1].tolist() == [number]}


def _spelt(words: Sequence[str]) -> tuple[list[str], list[int]]:
    """(words and the marks around them, each alone; of each the place of its word in `words`, -1 for marks and what is no single word)."""
    spelt, which = [], []
    for place, word in enumerate(words):
        found = augmenting.parts(word)
        for part, owner in ((found[0], -1), (found[1], place), (found[2], -1)) if found else ((word, -1),):
            if part:
                spelt.append(part)
                which.append(owner)
    return spelt, which


def _alone(words: np.ndarray) -> np.ndarray:
    """Of the words of pieces those with one piece."""
    found, counts = np.unique(words[words >= 0], return_counts=True)
    return found[counts == 1]


def _rounded(length: int) -> int:
    """Up to the next multiple of 16, so that few shapes are compiled."""
    return max(16, -(-length // 16) * 16)
