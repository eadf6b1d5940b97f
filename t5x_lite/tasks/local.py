"""Tasks of files that lie in a folder of yours, in the forms in which they are published. A file of tasks calls these and registers the results:

    # my_tasks.py, for --config.data.tasks.files=my_tasks.py --config.data.tasks.names=sst2,stsb
    from t5x_lite.tasks import local, registry

    registry.register(local.sst2('data/sst2'))
    registry.register(local.stsb('data/stsb'))
    registry.register(registry.Mixture('both', ('sst2', 'stsb')))
"""

from collections.abc import Mapping
import functools
import os

from t5x_lite import remote
from t5x_lite.errors import UserError
from t5x_lite.tasks import named_entities, questions, text_formats
from t5x_lite.tasks.sources import Files, Lines, SquadJson, TaggedWords
from t5x_lite.tasks.task import Task
from t5x_lite.tasks.text_formats import Example

TREC_COARSE = ('ABBR', 'DESC', 'ENTY', 'HUM', 'LOC', 'NUM')


def sst2(folder: str, name: str = 'sst2') -> Task:
    """train.tsv and dev.tsv: sentence TAB 0 (negative) or 1 (positive)."""
    labels = ('negative', 'positive')
    preprocess = functools.partial(text_formats.classification, name='sst2', labels=labels, features=('sentence',))
    source = _files(folder, ('train', 'dev'), '.tsv', {'sentence': '0', 'label': '1'})
    return Task(name, source, preprocess, ('accuracy',), labels, content=('sentence',))


def stsb(folder: str, name: str = 'stsb') -> Task:
    """sts-train.csv and sts-dev.csv of the STS benchmark (tabs, whatever the name says): score in column 5, sentences in 6 and 7."""
    columns = {'label': '4', 'sentence1': '5', 'sentence2': '6'}
    return Task(
        name, _files(folder, ('sts-train', 'sts-dev'), '.csv', columns), text_formats.stsb, ('pearson', 'spearman'), content=('sentence1', 'sentence2')
    )


def trec(folder: str, name: str = 'trec', fine: bool = False) -> Task:
    """train.tsv (and dev.tsv, else some are set aside): coarse class TAB fine class TAB question (Li & Roth, 2002)."""
    preprocess = functools.partial(text_formats.from_template, inputs='trec question: {question}', targets='{fine}' if fine else '{coarse}')
    source = _files(folder, ('train', 'dev'), '.tsv', {'coarse': '0', 'fine': '1', 'question': '2'})
    return Task(name, source, preprocess, ('accuracy', 'macro_f1'), () if fine else TREC_COARSE, content=('question',))


def squad(folder: str, name: str = 'squad_files', span: bool = False) -> Task:
    """train.json and dev.json of SQuAD 1.1 (.gz too). `span`: answers as places in the context."""
    train, validation = (find(folder, part, '.json') for part in ('train', 'dev'))
    preprocess, metrics = (questions.squad_span, ('span_squad', 'exact_match')) if span else (questions.squad, ('squad',))
    return Task(name, SquadJson(train, validation), preprocess, metrics, content=('question', 'context'))


def scitldr(folder: str, name: str = 'scitldr', prefix: str = 'summarize') -> Task:
    """train.jsonl and dev.jsonl of SciTLDR (Cachola et al., 2020): 'source' the sentences of an abstract, 'target' its one-sentence summaries."""
    return Task(name, _files(folder, ('train', 'dev'), '.jsonl', {}), functools.partial(_abstract, prefix=prefix), ('rouge',), content=('source',))


def _abstract(row: Mapping, prefix: str) -> Example:
    source = row['source'] if isinstance(row['source'], str) else ' '.join(row['source'])
    return text_formats.summarize(row | {'source': source}, 'source', 'target', prefix)


def translation(folder: str, source: str, target: str, name: str = '', validation: str = 'val') -> Task:
    """train.en, train.de, val.en, val.de and so on (.gz too), a sentence a line: Multi30k and its like."""
    parts = {'train': 'train', 'validation': validation}
    files = {split: {code: find(folder, f'{part}.{code}', '') for code in (source, target)} for split, part in parts.items()}
    preprocess = functools.partial(text_formats.translate, source=source, target=target)
    return Task(name or f'translate_{source}_{target}', Lines(files), preprocess, ('bleu', 'chrf'), content=(source,))


def conll2003(folder: str, name: str = 'ner', parts: tuple[str, str] = ('eng.train', 'eng.testa')) -> Task:
    """eng.train and eng.testa (.gz too): a word a line with its IOB1 or IOB2 tag in the last column (Tjong Kim Sang & De Meulder, 2003)."""
    return Task(name, TaggedWords(*(find(folder, part, '') for part in parts)), named_entities.from_tags, ('entities',))


def find(folder: str, stem: str, ending: str, required: bool = True) -> str:
    """The file of this name in a folder, itself or as .gz; '' where it may be missing."""
    for path in (os.path.join(folder, stem + ending), os.path.join(folder, f'{stem}{ending}.gz')):
        if remote.exists(path):
            return path
    if required:
        raise UserError(f'{folder}: no {stem}{ending} in it, nor {stem}{ending}.gz')
    return ''


def _files(folder: str, stems: tuple[str, str], ending: str, columns: Mapping[str, str]) -> Files:
    return Files(find(folder, stems[0], ending), find(folder, stems[1], ending, required=False), columns=columns)
