"""Tasks and mixtures that are there by name, read through TFDS: GLUE, SuperGLUE, SQuAD, CNN/DailyMail, WMT, in T5's formats (Raffel et al., 2020).

    --config.data.tasks.names=glue_rte     --config.data.tasks.names=glue     --config.data.tasks.names=wmt14_en_de,squad
"""

import functools

from t5x_lite.tasks import dialogues, pronouns, questions, synthetic, text_formats
from t5x_lite.tasks.sources import Files, Tfds
from t5x_lite.tasks.task import Mixture, Task

_MATCHED = {'validation': 'validation_matched', 'test': 'test_matched'}
_MISMATCHED = {'validation': 'validation_mismatched', 'test': 'test_mismatched'}
_ALL = {'train': 'train', 'validation': 'validation', 'test': 'test'}
_TEST = {'test': 'test'}
NLI = ('entailment', 'neutral', 'contradiction')
RTE = ('entailment', 'not_entailment')
TRUE = ('False', 'True')


def _classes(name, source, prefix, labels, features, parts=_ALL, metrics=('accuracy',), given=()):
    """A task of `text_formats.classification`; `given`: the order of its features where it is not sorted."""
    preprocess = functools.partial(text_formats.classification, name=prefix, labels=labels, features=given or tuple(sorted(features)))
    return Task(name, Tfds(source, parts), preprocess, metrics, labels, content=features)


def _renamed(example, name, labels):
    """AX-b: sentence1 and sentence2 are premise and hypothesis."""
    pair = {'premise': example['sentence1'], 'hypothesis': example['sentence2'], 'label': example['label'], 'idx': example['idx']}
    return text_formats.classification(pair, name, labels)


_PAIR, _PREMISE = ('sentence1', 'sentence2'), ('premise', 'hypothesis')
_F1 = ('f1', 'accuracy')

GLUE = (
    _classes('glue_cola', 'glue/cola', 'cola', ('unacceptable', 'acceptable'), ('sentence',), metrics=('matthews',)),
    _classes('glue_sst2', 'glue/sst2', 'sst2', ('negative', 'positive'), ('sentence',)),
    _classes('glue_mrpc', 'glue/mrpc', 'mrpc', ('not_equivalent', 'equivalent'), _PAIR, metrics=_F1),
    _classes('glue_qqp', 'glue/qqp', 'qqp', ('not_duplicate', 'duplicate'), ('question1', 'question2'), metrics=_F1),
    Task('glue_stsb', Tfds('glue/stsb', _ALL), text_formats.stsb, ('pearson', 'spearman'), content=_PAIR),
    _classes('glue_mnli', 'glue/mnli', 'mnli', NLI, _PREMISE, {'train': 'train'}),
    _classes('glue_mnli_matched', 'glue/mnli', 'mnli', NLI, _PREMISE, _MATCHED),
    _classes('glue_mnli_mismatched', 'glue/mnli', 'mnli', NLI, _PREMISE, _MISMATCHED),
    _classes('glue_qnli', 'glue/qnli', 'qnli', RTE, ('question', 'sentence')),
    _classes('glue_rte', 'glue/rte', 'rte', RTE, _PAIR),
    # Only to be judged: half of its rows name a wrong referent.
    Task('glue_wnli', Tfds('glue/wnli', {'validation': 'validation', 'test': 'test'}), pronouns.wnli_simple, ('referent_accuracy',), content=_PAIR),
    _classes('glue_ax', 'glue/ax', 'mnli', NLI, _PREMISE, _TEST),
)
GLUE[5].hold_out = False  # its validation parts are tasks of their own

SUPER_GLUE = (
    _classes('super_glue_boolq', 'super_glue/boolq', 'boolq', TRUE, ('passage', 'question')),
    _classes('super_glue_cb', 'super_glue/cb', 'cb', ('entailment', 'contradiction', 'neutral'), _PREMISE, metrics=('macro_f1', 'accuracy')),
    _classes('super_glue_copa', 'super_glue/copa', 'copa', ('choice1', 'choice2'), ('choice1', 'choice2', 'premise', 'question')),
    _classes(
        'super_glue_multirc', 'super_glue/multirc', 'multirc', TRUE, ('question', 'answer', 'paragraph'), metrics=('multirc',),
        given=('question', 'answer', 'paragraph'),
    ),
    Task('super_glue_record', Tfds('super_glue/record', _ALL), questions.record, ('record',), content=('query', 'passage')),
    _classes('super_glue_rte', 'super_glue/rte', 'rte', RTE, _PREMISE),
    _classes(
        'super_glue_wic', 'super_glue/wic', 'wic', TRUE, ('sentence1', 'sentence2', 'word'), given=('sentence1', 'sentence2', 'word')
    ),
    Task(
        'super_glue_wsc_train', Tfds('super_glue/wsc.fixed', {'train': 'train'}), functools.partial(pronouns.wsc_simple, only_right=True),
        ('referent_accuracy',), hold_out=False,
    ),
    Task(
        'super_glue_wsc', Tfds('super_glue/wsc.fixed', {'validation': 'validation', 'test': 'test'}), pronouns.wsc_simple, ('referent_accuracy',)
    ),
    Task('dpr', Tfds('definite_pronoun_resolution', {'train': 'train', 'test': 'test'}), pronouns.dpr_simple, hold_out=False),
    Task(
        'super_glue_axb', Tfds('super_glue/axb', _TEST), functools.partial(_renamed, name='rte', labels=RTE), ('accuracy',), RTE, content=_PAIR
    ),
    _classes('super_glue_axg', 'super_glue/axg', 'rte', RTE, _PREMISE, _TEST),
)  # fmt: skip


def _wmt(year, pair, source, target):
    preprocess = functools.partial(text_formats.translate, source=source, target=target)
    parts = {'train': 'train', 'validation': 'validation'} if year == '19' else _ALL
    return Task(f'wmt{year}_{source}_{target}', Tfds(f'wmt{year}_translate/{pair}', parts), preprocess, ('bleu', 'chrf'), content=(source,))


# Pairs as TFDS names them, each in both directions. T5 learns from English: wmt14 de and fr, wmt15 fr, wmt16 ro, wmt19 de, t2t (Tensor2Tensor's) de.
_PAIRS = {
    '14': 'cs-en de-en fr-en hi-en ru-en',
    '15': 'cs-en de-en fi-en fr-en ru-en',
    '16': 'cs-en de-en fi-en ro-en ru-en tr-en',
    '17': 'cs-en de-en fi-en lv-en ru-en tr-en zh-en',
    '18': 'cs-en de-en et-en fi-en ru-en tr-en zh-en',
    '19': 'cs-en de-en fi-en gu-en kk-en lt-en ru-en zh-en fr-de',
    '_t2t': 'de-en',
}
WMT = tuple(
    _wmt(year, pair, *languages)
    for year, pairs in _PAIRS.items()
    for pair in pairs.split()
    for languages in (pair.split('-')[::-1], pair.split('-'))
)

OTHERS = (
    Task('squad', Tfds('squad/v1.1'), questions.squad, ('squad',), content=('question', 'context')),
    Task('squad_span', Tfds('squad/v1.1'), questions.squad_span, ('span_squad', 'exact_match'), content=('question', 'context')),
    Task('squad_context_free', Tfds('squad/v1.1'), functools.partial(questions.squad, with_context=False), ('squad',), content=('question',)),
    Task('trivia_qa', Tfds('trivia_qa/rc', _ALL), questions.trivia_qa, ('trivia_qa',), content=('question',)),
    Task('cnn_dailymail', Tfds('cnn_dailymail', _ALL), text_formats.summarize, ('rouge',), content=('article',)),
    Task(
        'cnn_dailymail_tldr', Tfds('cnn_dailymail', _ALL), functools.partial(text_formats.summarize, prefix='tldr'), ('rouge',), content=('article',)
    ),
    synthetic.addition(2),
    synthetic.addition(3),
)

# Rates as T5 has them: training examples, after those without use are dropped and ReCoRD is repeated for each answer. 0: judged, not learnt.
MIXTURES = (
    Mixture(
        'glue',
        {
            'glue_cola': 8551, 'glue_sst2': 67349, 'glue_mrpc': 3668, 'glue_qqp': 363849, 'glue_stsb': 5749, 'glue_mnli': 392702,
            'glue_mnli_matched': 0, 'glue_mnli_mismatched': 0, 'glue_qnli': 104743, 'glue_rte': 2490, 'glue_ax': 0,
        },
        groups=(('glue_mnli_matched', 'glue_mnli_mismatched'),),
    ),
    Mixture(
        'super_glue',
        {
            'dpr': 1322, 'super_glue_wsc_train': 259, 'super_glue_wsc': 0, 'super_glue_boolq': 9427, 'super_glue_cb': 250, 'super_glue_copa': 400,
            'super_glue_multirc': 27243, 'super_glue_record': 138854, 'super_glue_rte': 2490, 'super_glue_wic': 5428, 'super_glue_axb': 0,
            'super_glue_axg': 0,
        },
    ),
)  # fmt: skip

BUILTIN = (*GLUE, *SUPER_GLUE, *OTHERS, *WMT, *MIXTURES)


def of_table(train: str, validation: str, inputs: str, targets: str, metrics: tuple[str, ...], turns: bool = False) -> Task:
    """The task that flags describe: config.data.train and .validation, and the templates of config.data.tasks; `turns`: rows are dialogues."""
    preprocess = functools.partial(dialogues.from_template if turns else text_formats.from_template, inputs=inputs, targets=targets)
    content = text_formats.columns_of(inputs)
    named = content + text_formats.columns_of(targets)  # broken braces should show before a file is read
    return Task('table', Files(train, validation, named=() if turns else named), preprocess, metrics, content=content)
