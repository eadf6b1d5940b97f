"""Reading texts (a BERT with two labels), ours beside transformers, on the same machine and in turns.

    python -m tests.benchmarks.encode [--texts=FILE] [--count=256] [--size=base] [--batch=32] [--dtype=float32] [--onnx] [--threads=2] [--turns=10]
        [--output=FILE]

A turn answers all texts: ours by the predictor that `t5x_lite.predict` uses, tokenising and probabilities included; transformers by its tokenizer and
`AutoModelForSequenceClassification` under `torch.inference_mode`, texts sorted by length first, so that little is padding. --batch=1 answers one after the
other, as they come. --onnx adds the same model in onnxruntime, with what its own optimiser fuses of a BERT. The weights are random and travel through our
Hugging Face interop; the texts are the lines of a file, or sentences of Python's language reference, whose lengths are those of English prose. Before that,
the probabilities are compared. Needs the extra `parity` (torch, transformers, onnxruntime).
"""

from collections.abc import Callable
import functools
import itertools
import pydoc_data.topics
import re
import tempfile
from typing import Any

from absl import flags
import jax
import numpy as np

from configs import bert as bert_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, DType
from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.interop import folder
from t5x_lite.training import devices
from tests.benchmarks import turns

FLAGS = flags.FLAGS
_LONGEST = 512


def texts_of(path: str, count: int) -> list[str]:
    """So many texts, drawn at random, always the same."""
    if path:
        with open(path, encoding='utf-8') as file:
            found = [line.strip() for line in file if line.strip()]
    else:
        paragraphs = '\n'.join(pydoc_data.topics.topics.values()).split('\n\n')
        sentences = (sentence for text in paragraphs for sentence in re.split(r'(?<=[.?!])\s+', ' '.join(text.split())))
        found = [sentence for sentence in dict.fromkeys(sentences) if re.match(r'[A-Z][a-z]', sentence)]
    if len(found) < count:
        raise UserError(f'--count={count}: there are {len(found):,} texts; ask for fewer')
    return [found[place] for place in np.random.default_rng(0).choice(len(found), count, replace=False)]


class Theirs:
    """Texts through transformers' tokenizer and a model: sorted by length, so that little is padding, or one after the other."""

    def __init__(self, tokenizer: Any, logits: Callable[[dict[str, np.ndarray]], np.ndarray]):
        self._tokenizer, self._logits = tokenizer, logits

    def __call__(self, texts: list[str]) -> np.ndarray:
        size = FLAGS.batch
        if size == 1:
            return np.concatenate([self._answer([text]) for text in texts])
        lengths = [len(ids) for ids in self._tokenizer(texts, truncation=True, max_length=_LONGEST)['input_ids']]
        order = np.argsort(lengths, kind='stable')[::-1]
        found = np.concatenate([self._answer([texts[row] for row in order[first : first + size]]) for first in range(0, len(texts), size)])
        answers = np.empty_like(found)
        answers[order] = found
        return answers

    def _answer(self, texts: list[str]) -> np.ndarray:
        logits = self._logits(self._tokenizer(texts, padding=True, truncation=True, max_length=_LONGEST, return_tensors='np'))
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        return shares / shares.sum(-1, keepdims=True)


def of_torch(torch: Any, model: Any) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    def logits(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=FLAGS.dtype == 'bfloat16'):
            return model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.float().numpy()

    return logits


def of_onnx(torch: Any, model: Any, place: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The same model, in eager attention, as ONNX, with all that onnxruntime fuses of a BERT: it knows the older exporter's way of writing one."""
    runtime, optimizer, options = turns.parity('onnxruntime', 'onnxruntime.transformers.optimizer', 'onnxruntime.transformers.fusion_options')
    names, sizes = ('input_ids', 'attention_mask', 'token_type_ids'), model.config
    some = (torch.arange(8).expand(3, 8) < 7).long()
    axes = dict.fromkeys(names, {0: 'rows', 1: 'length'})
    how = {'dynamo': False, 'input_names': list(names), 'output_names': ['logits'], 'dynamic_axes': axes, 'opset_version': 17}
    torch.onnx.export(model, (some, some, some), f'{place}/model.onnx', **how)
    fused = optimizer.optimize_model(
        f'{place}/model.onnx', 'bert', sizes.num_attention_heads, sizes.hidden_size, optimization_options=options.FusionOptions('bert')
    )
    if not fused.get_fused_operator_statistics()['Attention']:
        raise UserError('onnxruntime fused no attention of this model: it would be measured below its best')
    fused.save_model_to_file(f'{place}/fused.onnx')
    threads = runtime.SessionOptions()
    threads.intra_op_num_threads = FLAGS.threads
    session = runtime.InferenceSession(f'{place}/fused.onnx', threads, providers=['CPUExecutionProvider'])
    return lambda inputs: session.run(['logits'], {name: inputs[name].astype(np.int64) for name in names})[0]


def main(argv: list[str]) -> None:
    del argv
    devices.keep_freed_memory()
    torch, transformers = turns.parity('torch', 'transformers')
    turns.pin(FLAGS.threads)
    transformers.utils.logging.set_verbosity_error()
    texts = texts_of(FLAGS.texts, FLAGS.count)
    layers, width, heads = bert_config.SIZES[FLAGS.size]
    with tempfile.TemporaryDirectory() as place:
        tokenizer = tokenizers.train('wordpiece', texts_of('', 2000), 4000, True)
        tokenizer.save(place)
        torch.manual_seed(0)
        fields = {'num_hidden_layers': layers, 'hidden_size': width, 'num_attention_heads': heads, 'intermediate_size': 4 * width}
        transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2, **fields)).save_pretrained(place)
        transformers.BertTokenizerFast(f'{place}/vocab.txt').save_pretrained(place)
        torch.set_num_threads(FLAGS.threads)
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(place)

        def model(attention: str) -> Any:
            return transformers.AutoModelForSequenceClassification.from_pretrained(place, attn_implementation=attention).eval()

        theirs = {'transformers': Theirs(their_tokenizer, of_torch(torch, model('sdpa')))}
        if FLAGS.onnx:
            theirs['onnxruntime'] = Theirs(their_tokenizer, of_onnx(torch, model('eager'), place))
        loaded, params = folder.load(place)
    loaded.dtype, loaded.scan_layers, loaded.num_labels = DType(FLAGS.dtype), False, 2
    config = finalize(Config(model=loaded, data=DataConfig(seq_len=_LONGEST)))
    predictor = Predictor(config, jax.tree.map(jax.numpy.asarray, params), tokenizer, batch_size=FLAGS.batch)

    def ours() -> np.ndarray:
        arriving = texts if FLAGS.batch > 1 else itertools.chain.from_iterable((text, None) for text in texts)
        answers = predictor((text,) if text is not None else None for text in arriving)
        return np.array([[answer['probabilities'][name] for name in ('0', '1')] for answer in answers])

    found = ours()
    off = max(float(np.abs(found - answer(texts)).max()) for answer in theirs.values())
    print(f'probabilities differ by at most {off:.1e}')
    if FLAGS.dtype == 'float32' and off > 1e-5:
        raise UserError('the probabilities differ by more than 1e-5: the two do not compute the same thing, and their times say nothing')
    lengths = np.array([len(tokenizer.encode(text)) + 2 for text in texts])
    units = {'texts': len(texts), 'tokens': int(lengths.sum())}
    flops = sum(forward_flops(config, length) for length in lengths)
    runs = {name: functools.partial(answer, texts) for name, answer in theirs.items()} | {'ours': ours}
    competitors = {name: turns.Competitor(run, units, flops) for name, run in runs.items()}
    quartiles = ', '.join(f'{length:.0f}' for length in np.quantile(lengths, (0.25, 0.5, 0.75, 1)))
    what = f'BERT-{FLAGS.size} reads {len(texts)} texts (quartiles of tokens and the longest: {quartiles}), {FLAGS.batch} at a time, {FLAGS.dtype}'
    packages = ('jax', 'flax', 'torch', 'transformers', 'tokenizers', *['onnxruntime'] * FLAGS.onnx)
    turns.write(turns.measure('encode', what, competitors, turns.matmul_rates(torch, FLAGS.dtype), FLAGS.turns, packages=packages), FLAGS.output)


def forward_flops(config: Config, length: int) -> float:
    """Of products with weights and of attention, in the forward pass of one text."""
    model = config.model
    return model.num_layers * (2 * length * (4 * model.d_model**2 + 2 * model.d_model * model.d_ff) + 4 * length**2 * model.d_model)


if __name__ == '__main__':
    flags.DEFINE_string('texts', '', 'A file with a text a line; sentences of Python\'s language reference by default.')
    flags.DEFINE_integer('count', 256, 'Texts of a turn.', lower_bound=2)
    flags.DEFINE_string('size', 'base', 'A variant of configs/bert.py.')
    flags.DEFINE_integer('batch', 32, 'Texts at a time.', lower_bound=1)
    flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of operands: ours by config.model.dtype, theirs by autocast.')
    flags.DEFINE_bool('onnx', False, 'A turn for the same model in onnxruntime (float32), too; needs onnx and onnxruntime.')
    flags.DEFINE_integer('threads', 2, 'For both, on as many cores.', lower_bound=1)
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
