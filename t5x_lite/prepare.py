"""Prepares raw text for training: trains or takes a tokenizer, and writes tokens with their document and sentence boundaries.

    python -m t5x_lite.prepare --input=books/ --output=corpora/books --tokenizer=wordpiece --vocab_size=30522
    python -m t5x_lite.prepare --input=books/ --output=corpora/books_gpt --tokenizer=byte_bpe --vocab_size=50257
    python -m t5x_lite.prepare --input='wiki/*.jsonl.gz' --field=text --output=corpora/wiki --tokenizer=corpora/books/tokenizer
    python -m t5x_lite.prepare --input=shakespeare.txt --output=corpora/shakespeare --tokenizer=characters --validation_input=held_out.txt
    python -m t5x_lite.prepare --input=tfds:wikipedia/20230601.en --tfds_dir=/data/tfds --output=corpora/wiki --vocab_size=30522

    python -m t5x_lite.prepare --input='crawl/*.jsonl.gz' --output=corpora/clean --clean=c4 --deduplicate=minhash
    python -m t5x_lite.prepare --input='crawl/*.jsonl.gz' --output=corpora/clean --clean=javascript,policy,bad_words --bad_words=words.txt
    python -m t5x_lite.prepare --input='/shared/crawl/*.gz' --output=/shared/clean --clean=c4 --runner=FlinkRunner --beam_options='--flink_master=HOST:8081'

--clean applies the rules by which T5's corpus C4 was made (t5x_lite/data/cleaning.py; they take a line for a paragraph, so books with lines of 70
characters lose most of them), and removes three sentences in a row that stood in the corpus before. --deduplicate=minhash removes documents that are
nearly the same as one before (t5x_lite/data/near_duplicates.py), before any are held out: none is on both sides. manifest.json says how much each
rule removed. A language filter is not among them.

--runner prepares as an Apache Beam pipeline, for corpora that outgrow one machine (pip install 't5x-lite[beam]'; t5x_lite/data/beam_form.py): the
same bytes as without, for any number of workers. --input and --output must be paths that all workers see. One file is read by one worker: give many.

--output=gs://BUCKET/FOLDER is made below $T5X_LITE_CACHE (~/.cache/t5x_lite/buckets), which needs room for all of it, and uploaded when it is whole. --input and
what --runner writes are of a file system.

Byte-level BPE and characters take white space for text: it is kept as it is, newlines included, and sentences only mark places in it. Other
tokenizers see single spaces.

Repeating a command finishes what was interrupted.
"""

from absl import flags

from t5x_lite import cli
from t5x_lite.data import cleaning, preparation, tokenizers
from t5x_lite.data.preparation_settings import RUNNERS

_DEFAULT = preparation.Settings(input=(), output='')
_FLAGS = (
    flags.DEFINE_list(
        'input',
        None,
        'Files, folders, patterns or tfds:NAME/CONFIG:VERSION, separated by commas; text or jsonl, either may be gz.',
        required=True,
    ),
    flags.DEFINE_string('output', None, 'Folder to write, or gs://BUCKET/FOLDER.', required=True),
    flags.DEFINE_string(
        'tokenizer',
        _DEFAULT.tokenizer,
        f'{", ".join(tokenizers.TRAINERS)}: train one. Otherwise the folder of a trained one ({tokenizers.MAY_HOLD}).',
    ),
    flags.DEFINE_integer(
        'vocab_size',
        None,
        'Pieces of a tokenizer that is trained, special tokens included (default: '
        + ', '.join(f'{kind} {size or "all"}' for kind, size in tokenizers.DEFAULT_SIZES.items())
        + ').',
    ),
    flags.DEFINE_boolean('lowercase', None, 'A WordPiece tokenizer that is trained ignores case and accents (default: true).'),
    flags.DEFINE_string('field', _DEFAULT.field, 'Field of jsonl lines, or feature of a TFDS data set, that holds the text.'),
    flags.DEFINE_string(
        'documents',
        _DEFAULT.documents,
        'A document of a text file is the: file, paragraph (blank lines separate; the original BERT format), line.',
    ),
    flags.DEFINE_string('sentences', _DEFAULT.sentences, 'auto: found by rules within paragraphs. line: each line is one.'),
    flags.DEFINE_float(
        'validation_fraction',
        _DEFAULT.validation_fraction,
        'Share of the documents held out, chosen by a hash of their contents and --seed.',
    ),
    flags.DEFINE_list('validation_input', [], 'Hold these files out instead; written like --input.'),
    flags.DEFINE_integer(
        'tokenizer_characters',
        _DEFAULT.tokenizer_characters,
        'Characters the tokenizer is trained on at most, sampled over the whole input.',
    ),
    flags.DEFINE_integer('shard_tokens', _DEFAULT.shard_tokens, 'Tokens after which the next document opens a new shard.'),
    flags.DEFINE_boolean(
        'skip_broken',
        False,
        'Leave out lines that are not UTF-8, not JSON or lack the field, and what follows the damage in a gz file; count them.',
    ),
    flags.DEFINE_string('tfds_dir', '', 'Where TFDS keeps its data (default: ~/tensorflow_datasets).'),
    flags.DEFINE_integer('seed', _DEFAULT.seed, 'Of the choice of held-out documents, of the sample for the tokenizer, and of MinHash.'),
    flags.DEFINE_list('clean', [], f'Rules to clean by: {cleaning.C4} for all of C4, or some of {", ".join(cleaning.RULES)}.'),
    flags.DEFINE_string('bad_words', _DEFAULT.bad_words, f'File with words and phrases, one a line, for the rule {cleaning.BAD_WORDS}.'),
    flags.DEFINE_integer('min_line_words', _DEFAULT.min_line_words, 'Words that the rule short_lines asks of a line (C4 as published: 3).'),
    flags.DEFINE_integer('min_sentences', _DEFAULT.min_sentences, f'Sentences that the rule {cleaning.FEW_SENTENCES} asks of a document (C4 as published: 5).'),
    flags.DEFINE_string('deduplicate', _DEFAULT.deduplicate, 'minhash: of documents that are nearly the same only the first stays.'),
    flags.DEFINE_integer('minhash_permutations', _DEFAULT.minhash_permutations, 'Hash functions of a signature.'),
    flags.DEFINE_integer('minhash_bands', _DEFAULT.minhash_bands, 'Bands of a signature; documents that agree in one are compared.'),
    flags.DEFINE_float('minhash_threshold', _DEFAULT.minhash_threshold, 'Estimated Jaccard similarity from which on documents are nearly the same.'),
    flags.DEFINE_integer('minhash_words', _DEFAULT.minhash_words, 'Words of a shingle, the runs of words that are compared.'),
    flags.DEFINE_integer('workers', _DEFAULT.workers, 'Processes; they never change the result. 0: one a core.'),
    flags.DEFINE_string('runner', _DEFAULT.runner, f'Prepare as an Apache Beam pipeline on {", ".join(RUNNERS)} (extra beam); the result is the same.'),
    flags.DEFINE_multi_string('beam_options', [], "Pipeline options of the runner: --beam_options='--project=P --region=R'. May be repeated."),
)


def main(_):
    values = {flag.name: tuple(flag.value) if isinstance(flag.value, list) else flag.value for flag in _FLAGS}
    preparation.prepare(preparation.Settings(**values), log=lambda line: print(line, flush=True))


if __name__ == '__main__':
    cli.run(main)
