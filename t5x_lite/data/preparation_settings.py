"""The settings of `python -m t5x_lite.prepare`, and what is wrong with them."""

import dataclasses
import json
import os

from t5x_lite import remote
from t5x_lite.data import cleaning, near_duplicates, sources, tokenizers
from t5x_lite.errors import UserError, nearest

MINHASH = 'minhash'
RUNNERS = ('DirectRunner', 'DataflowRunner', 'FlinkRunner', 'SparkRunner')
_FREE = ('output', 'workers', 'runner', 'beam_options')  # settings that do not change the corpus


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a corpus is made of: the flags of `python -m t5x_lite.prepare`, which explains them."""

    input: tuple[str, ...]
    output: str
    tokenizer: str = 'wordpiece'  # a kind of tokenizers.TRAINERS, or a folder
    vocab_size: int | None = None  # None: tokenizers.DEFAULT_SIZES, or that of the folder
    lowercase: bool | None = None  # None: WordPiece yes, others no, or as the folder says
    field: str = 'text'
    documents: str = 'file'
    sentences: str = 'auto'
    validation_fraction: float = 0.05
    validation_input: tuple[str, ...] = ()
    tokenizer_characters: int = 40_000_000
    shard_tokens: int = 1 << 24
    skip_broken: bool = False
    tfds_dir: str = ''
    seed: int = 0
    clean: tuple[str, ...] = ()
    bad_words: str = ''
    min_line_words: int = 5
    min_sentences: int = 3
    deduplicate: str = ''  # or MINHASH
    minhash_permutations: int = 128
    minhash_bands: int = 16
    minhash_threshold: float = 0.8
    minhash_words: int = 5
    workers: int = 0  # 0: one a core; 1: this process alone
    runner: str = ''  # of RUNNERS: as an Apache Beam pipeline
    beam_options: tuple[str, ...] = ()

    @property
    def rules(self) -> cleaning.Rules | None:
        """Of cleaning. Raises UserError as `cleaning.chosen`."""
        return cleaning.chosen(self.clean, self.bad_words, self.min_line_words, self.min_sentences)

    @property
    def minhash(self) -> near_duplicates.MinHash | None:
        if not self.deduplicate:
            return None
        return near_duplicates.MinHash(self.minhash_permutations, self.minhash_bands, self.minhash_threshold, self.minhash_words, self.seed)

    def fixed(self) -> dict:
        """Those that the corpus depends on, as JSON has them. Of bad words, what they are, not where."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if key not in _FREE}
        return json.loads(json.dumps(values | {'bad_words': cleaning.fingerprint(self.rules) if self.bad_words else ''}))


def checked(settings: Settings) -> Settings:
    """The settings with their defaults filled in. Raises UserError where they are wrong or do not go together."""
    trained = settings.tokenizer in tokenizers.TRAINERS
    if not trained and not remote.exists(settings.tokenizer):
        raise UserError(f'--tokenizer={settings.tokenizer}: no such kind or folder, {nearest(settings.tokenizer, tokenizers.TRAINERS)}')
    for name, choices in (('documents', sources.DOCUMENTS), ('sentences', ('auto', 'line'))):
        if getattr(settings, name) not in choices:
            raise UserError(f'--{name}={getattr(settings, name)}: {nearest(getattr(settings, name), choices)}')
    if not 0 <= settings.validation_fraction < 1:
        raise UserError(f'--validation_fraction={settings.validation_fraction}: it must be at least 0 and below 1')
    for name, lowest in (('shard_tokens', 1), ('tokenizer_characters', 1), ('workers', 0), ('vocab_size', 1)):
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise UserError(f'--{name}={value}: it must be at least {lowest}')
    if not settings.output:
        raise UserError('--output is empty; name the folder to write')
    if not trained and settings.lowercase is not None:
        raise UserError(f'--lowercase is for training a tokenizer; the one in {settings.tokenizer} decides for itself')
    settings.rules  # noqa: B018  (raises)
    if settings.deduplicate not in ('', MINHASH):
        raise UserError(f'--deduplicate={settings.deduplicate}: {nearest(settings.deduplicate, (MINHASH,))}')
    if settings.minhash:
        settings.minhash.check()
    if settings.runner not in ('', *RUNNERS):
        raise UserError(f'--runner={settings.runner}: {nearest(settings.runner, RUNNERS)}')
    if settings.beam_options and not settings.runner:
        raise UserError(f'--beam_options={" ".join(settings.beam_options)}: no runner takes them; give --runner, one of {", ".join(RUNNERS)}')
    if settings.runner and remote.is_remote(settings.output):
        mend = 'name one and copy it when it is whole (gcloud storage cp -r)'
        raise UserError(f'--output={settings.output}: the workers of --runner={settings.runner} write to a folder that all of them see; {mend}')
    wordpiece = settings.tokenizer == 'wordpiece'
    if trained and settings.lowercase and not wordpiece:
        raise UserError(f'--lowercase is for --tokenizer=wordpiece; a {settings.tokenizer} tokenizer keeps case, leave the flag out')
    return dataclasses.replace(
        settings,
        vocab_size=(settings.vocab_size or tokenizers.DEFAULT_SIZES[settings.tokenizer]) if trained else settings.vocab_size,
        lowercase=wordpiece and settings.lowercase is not False if trained else None,
        validation_fraction=0.0 if settings.validation_input else settings.validation_fraction,
        workers=settings.workers or _cores(),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def inputs(settings: Settings) -> list[sources.Source]:
    """The sources behind --input and --validation_input. Raises UserError where there are none, or some are both."""
    split = '' if settings.validation_fraction else 'train'
    found = sources.find(settings.input, settings.tfds_dir, split)
    if not settings.validation_input:
        return found
    held_out = sources.find(settings.validation_input, settings.tfds_dir, 'validation', '--validation_input')
    names = {os.path.realpath(source.name) for source in found}
    for source in held_out:
        if os.path.realpath(source.name) in names:
            raise UserError(f'{source.name} is in both --input and --validation_input; held-out text must not be trained on')
    return found + held_out
