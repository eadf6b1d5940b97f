"""Making batches, ours beside Hugging Face's collator in torch's DataLoader, on the same machine and in turns.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=wordpiece --vocab_size=30522
    python -m tests.benchmarks.pipeline --data=data/mine [--length=512] [--batch=64] [--workers=2] [--batches=100] [--turns=10] [--output=FILE]

A turn is that many batches, taken from loaders that go on from turn to turn; the workers of the others have nothing to do meanwhile but to fill what they may
hold ready. Ours are the data functions that `t5x_lite.train` uses: documents packed, masked, isolated from each other. The peer cuts the same tokens into
blocks, as transformers' run_mlm.py does, and masks them with DataCollatorForLanguageModeling: its rows run across documents. Needs the extra `parity`.
"""

from collections.abc import Iterator
import functools
import os
from typing import Any

from absl import flags
import numpy as np

from t5x_lite import cli
from t5x_lite.config import Config, DataConfig, MlmConfig, ModelConfig
from t5x_lite.data import corpus, pipeline
from tests.benchmarks import turns

FLAGS = flags.FLAGS
SOURCES = {
    'packed masked LM': 't5x_lite.data.objectives:PackedMlm',
    'MLM + NSP': 'bert_flax.objectives:MlmNsp',
    'causal LM, packed': 't5x_lite.data.language_modelling:CausalLm',
}


def ours(source: str) -> Iterator[dict[str, np.ndarray]]:
    config = Config(
        batch_size=FLAGS.batch,
        model=ModelConfig(module='bert_flax.bert:BertForMaskedLm' if 'causal' not in source.lower() else 't5x_lite.models.language_model:Decoder'),
        data=DataConfig(source=source, path=(FLAGS.data,), seq_len=FLAGS.length, mlm=MlmConfig(max_predictions=-(-FLAGS.length * 15 // 100)), workers=FLAGS.workers),
    )
    config.model.vocab_size = 1 << 20  # of no model; whatever the tokenizer has
    return (batch for _, batch in pipeline.DataFunction(config, 'train').loader(0, 1 << 40))


def peer(torch: Any, transformers: Any) -> Iterator[Any]:
    found = corpus.Corpus(FLAGS.data, 'train')
    ends = found.sentence_starts[found.document_starts]
    tokens = np.concatenate([found.tokens(*span) for span in zip(ends[:-1].tolist(), ends[1:].tolist())])
    blocks = tokens[: len(tokens) // FLAGS.length * FLAGS.length].reshape(-1, FLAGS.length).astype(np.int64)
    tokenizer = transformers.BertTokenizerFast(os.path.join(found.tokenizer_path, 'vocab.txt'))
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    rows = [{'input_ids': block} for block in blocks]
    loader = torch.utils.data.DataLoader(rows, FLAGS.batch, shuffle=True, drop_last=True, collate_fn=collate, num_workers=FLAGS.workers)
    while True:
        yield from loader


def main(argv: list[str]) -> None:
    del argv
    torch, transformers = turns.parity('torch', 'transformers')
    transformers.utils.logging.set_verbosity_error()
    loaders = {'transformers': peer(torch, transformers)} | {f'ours, {name}': ours(source) for name, source in SOURCES.items()}
    filled = {name: float(np.mean((next(loader)['sequence_ids'] > 0))) if name != 'transformers' else 1.0 for name, loader in loaders.items()}

    def turn(loader: Iterator[Any]) -> None:
        for _ in range(FLAGS.batches):
            next(loader)

    size = FLAGS.batches * FLAGS.batch
    competitors = {
        name: turns.Competitor(functools.partial(turn, loader), {'rows': size, 'real tokens': size * FLAGS.length * filled[name]})
        for name, loader in loaders.items()
    }
    what = f'{FLAGS.batches} batches of {FLAGS.batch} x {FLAGS.length}, {FLAGS.workers} workers'
    turns.write(turns.measure('pipeline', what, competitors, None, FLAGS.turns, packages=('numpy', 'torch', 'transformers')), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_string('data', None, 'A corpus that prepare wrote with a WordPiece tokenizer.', required=True)
    flags.DEFINE_integer('length', 512, 'Tokens of a row.', lower_bound=16)
    flags.DEFINE_integer('batch', 64, 'Rows.', lower_bound=1)
    flags.DEFINE_integer('workers', 2, 'Processes that make batches; 0: threads of this one (of the peer, this one itself).', lower_bound=0)
    flags.DEFINE_integer('batches', 100, 'Of a turn: many more than loaders hold ready.', lower_bound=1)
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
