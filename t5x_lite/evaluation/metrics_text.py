"""Scores of generated text: percentages, 0 to 100, as papers on text-to-text models report them. (numpy only)

Each is a function (targets, predictions) -> {name: float}. Predictions are n texts, targets what each is held against: n lists of texts where several are
right, and the best counts. BLEU, chrF and ROUGE are sacrebleu's and rouge-score's own; conventions are T5's (Raffel et al., 2020), whose code is the reference.
Sequences of different lengths, an empty set and an example without any reference raise ValueError.
"""

import collections
from collections.abc import Callable, Hashable, Mapping, Sequence
import re
import string
from typing import Any

import numpy as np

from t5x_lite.evaluation import metrics, metrics_tags

Scores = dict[str, float]
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_QUOTES = '‘’´`'  # TriviaQA's, beside ASCII punctuation


def bleu(targets: Sequence[Any], predictions: Sequence[str], tokenize: str = 'intl', **options) -> Scores:
    """Corpus BLEU of sacrebleu with exponential smoothing; T5 tokenises by 'intl', sacrebleu's default is '13a' (Post, 2018). `options`: its own."""
    import sacrebleu  # Slow to import, and needed here only.

    return {'bleu': float(sacrebleu.corpus_bleu(list(predictions), _streams(targets, predictions), tokenize=tokenize, **options).score)}


def bleu_13a(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """BLEU with sacrebleu's default tokenisation, as WMT's figures since 2018."""
    return {'bleu_13a': bleu(targets, predictions, '13a')['bleu']}


def chrf(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """chrF2 with sacrebleu's defaults (Popovic, 2015)."""
    import sacrebleu

    return {'chrf': float(sacrebleu.corpus_chrf(list(predictions), _streams(targets, predictions)).score)}


def rouge(
    targets: Sequence[Any], predictions: Sequence[str], types: Sequence[str] = ('rouge1', 'rouge2', 'rougeL', 'rougeLsum'), stemming: bool = False
) -> Scores:
    """Mean F of rouge-score (Lin, 2004) over examples; of several references the best counts, for each type apart.

    For rougeLsum a sentence is a line; ' . ' ends one too, as T5 has it for tokenised news. T5 reports the median of a bootstrap of this mean.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(types), use_stemmer=stemming)
    totals = dict.fromkeys(types, 0.0)
    references = _references(targets, predictions)
    for several, prediction in zip(references, predictions, strict=True):
        found = [scorer.score(_sentences_on_lines(reference), _sentences_on_lines(prediction)) for reference in several]
        for name in types:
            totals[name] += max(scores[name].fmeasure for scores in found)
    return {name: 100 * total / len(references) for name, total in totals.items()}


def _sentences_on_lines(text: str) -> str:
    return text.replace(' . ', ' .\n')


def normalize_squad(text: str) -> str:
    """As SQuAD's official script has it: lower case, no ASCII punctuation, no articles, single spaces."""
    text = ''.join(character for character in text.lower() if character not in string.punctuation)
    return ' '.join(_ARTICLES.sub(' ', text).split())


def normalize_trivia_qa(text: str) -> str:
    """As TriviaQA's official script has it: punctuation, typographic quotes included, becomes space."""
    text = text.lower().translate({ord(character): ' ' for character in string.punctuation + _QUOTES})
    return ' '.join(_ARTICLES.sub(' ', text).split())


def sequence_f1(target: Sequence[Hashable], prediction: Sequence[Hashable]) -> float:
    """0..1: F1 of two bags of words; two empty ones are equal.

    Whole numbers are ints, as in official scripts: from Python 3.12 on `sum` rounds floats and ints differently, which shows in the last digit of a mean.
    """
    if not target or not prediction:
        return int(len(target) == len(prediction))
    shared = sum((collections.Counter(target) & collections.Counter(prediction)).values())
    # By precision and recall, as official scripts have it: 2 x shared / (both lengths) differs in the last digit.
    precision, recall = shared / len(prediction), shared / len(target)
    return 2 * precision * recall / (precision + recall) if shared else 0


def answers(targets: Sequence[Any], predictions: Sequence[str], normalize: Callable[[str], str] = str) -> Scores:
    """Exact match and F1 of words against the best of the answers, after `normalize`."""
    exact, overlap = [], []
    for several, prediction in zip(_references(targets, predictions), predictions, strict=True):
        found, right = normalize(prediction), [normalize(answer) for answer in several]
        exact.append(max(answer == found for answer in right))
        # The official script gives two empty texts an F1 of 0, as they share no word.
        overlap.append(max(sequence_f1(answer.split(), found.split()) if found.split() else 0 for answer in right))
    return {'em': 100.0 * sum(exact) / len(exact), 'f1': 100.0 * sum(overlap) / len(overlap)}  # the script's order, for the last digit


def squad(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """EM and F1 of SQuAD 1.1 (Rajpurkar et al., 2016)."""
    return answers(targets, predictions, normalize_squad)


def trivia_qa(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """EM and F1 of TriviaQA (Joshi et al., 2017)."""
    return answers(targets, predictions, normalize_trivia_qa)


def coqa_f1(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """F1 of CoQA (Reddy et al., 2019): two answers without words agree."""
    found = [
        max(sequence_f1(normalize_squad(answer).split(), normalize_squad(prediction).split()) for answer in several)
        for several, prediction in zip(_references(targets, predictions), predictions, strict=True)
    ]
    return {'f1': 100 * float(np.mean(found))}


def span_squad(targets: Sequence[Mapping[str, Any]], predictions: Sequence[tuple[int, int] | None]) -> Scores:
    """SQuAD's scores of spans of words of the context, as T5's code has them.

    It counts words as `words_of` does, while its targets (`questions.span_answer`) count empty words too: where punctuation stands before an answer, the
    right span is judged wrong. `exact_match` of the spans themselves has no such fault.

    Args:
      targets: 'answers' and 'context' of each.
      predictions: (first, last) word of each; None answers nothing.
    """
    texts = []
    for target, span in zip(targets, predictions, strict=True):
        texts.append(' '.join(words_of(target['context'])[span[0] : span[1] + 1]) if span is not None else '')
    return squad([target['answers'] for target in targets], texts)


def words_of(text: str) -> list[str]:
    """Runs of letters of any script, digits and '_'."""
    return re.findall(r'\w+', text)


def exact_match(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """Share of predictions that equal one of their references, white space around them aside."""
    references = _references(targets, predictions)
    hits = [prediction.strip() in {text.strip() for text in several} for several, prediction in zip(references, predictions, strict=True)]
    return {'exact_match': 100 * float(np.mean(hits))}


def sequence_accuracy(targets: Sequence[Any], predictions: Sequence[str]) -> Scores:
    """Share of predictions that equal one of their references to the character."""
    hits = [prediction in several for several, prediction in zip(_references(targets, predictions), predictions, strict=True)]
    return {'sequence_accuracy': 100 * float(np.mean(hits))}


def all_match(targets: Sequence[Any], predictions: Sequence[Any]) -> Scores:
    """100 where everything is right, else 0."""
    _same_length(targets, predictions)
    return {'exact_match': 100.0 * (list(targets) == list(predictions))}


def accuracy(targets, predictions) -> Scores:
    _same_length(targets, predictions)
    return {'accuracy': 100 * metrics.accuracy(targets, predictions)}


def binary_f1(targets, predictions) -> Scores:
    """F1 of class 1 of 0 and 1; what is neither counts as the wrong one, so that refusing to answer never pays (T5's convention)."""
    _same_length(targets, predictions)
    predictions = [found if found in (0, 1) else 1 - target for target, found in zip(targets, predictions, strict=True)]
    return {'f1': 100 * metrics.precision_recall_f1(targets, predictions, 'binary')[2]}


def macro_f1(targets, predictions, num_classes: int) -> Scores:
    """Unweighted mean of the F1 of all classes; a prediction outside them is missed and nothing else."""
    _same_length(targets, predictions)
    return {'macro_f1': 100 * metrics.precision_recall_f1(targets, predictions, 'macro', num_classes)[2]}


def matthews(targets, predictions) -> Scores:
    _same_length(targets, predictions)
    return {'matthews': 100 * metrics.matthews(targets, predictions)}


def pearson(targets, predictions) -> Scores:
    _same_length(targets, predictions)
    return {'pearson': 100 * metrics.pearson(targets, predictions)}


def spearman(targets, predictions) -> Scores:
    _same_length(targets, predictions)
    return {'spearman': 100 * metrics.spearman(targets, predictions)}


def groups(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Any], metric: Callable) -> dict[Hashable, Scores]:
    """The scores of each group apart; each target is {'group': ..., 'value': ...}."""
    _same_length(targets, predictions)
    members = collections.defaultdict(list)
    for number, target in enumerate(targets):
        members[_hashable(target['group'])].append(number)
    return {
        group: metric([targets[number]['value'] for number in numbers], [predictions[number] for number in numbers]) for group, numbers in members.items()
    }


def mean_over_groups(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Any], metric: Callable) -> Scores:
    """The mean of the groups' scores, large and small alike."""
    found = list(groups(targets, predictions, metric).values())
    return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]}


def first_of_groups(targets: Sequence[Mapping[str, Any]], predictions: Sequence[Any], metric: Callable) -> Scores:
    """The score of the first example of each group: examples that were repeated for training, once for each right answer."""
    _same_length(targets, predictions)
    first: dict[Hashable, int] = {}
    for number, target in enumerate(targets):
        first.setdefault(_hashable(target['group']), number)
    return metric([targets[number]['value'] for number in first.values()], [predictions[number] for number in first.values()])


def multirc(targets: Sequence[Mapping[str, Any]], predictions: Sequence[int]) -> Scores:
    """MultiRC (Khashabi et al., 2018): EM, questions with every answer judged right, and F1a, over all answers; 'value' is 1 for a true answer."""
    return {
        'em': mean_over_groups(targets, predictions, all_match)['exact_match'],
        'f1a': binary_f1([target['value'] for target in targets], predictions)['f1'],
    }


def record(targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> Scores:
    """ReCoRD (Zhang et al., 2018): SQuAD's scores, each query once; 'value' is the list of right entities."""
    return first_of_groups(targets, predictions, squad)


def entities(targets: Sequence[Sequence[tuple[str, str]]], predictions: Sequence[Sequence[tuple[str, str]]]) -> Scores:
    """Micro F1 over the (type, text) of named entities; one named twice counts twice. Without positions, so not quite CoNLL's (`metrics_tags`)."""
    _same_length(targets, predictions)
    found = metrics_tags.count(*([_numbered(sentence) for sentence in side] for side in (targets, predictions)))
    micro = metrics_tags.average(found, 'micro')
    return {f'entity_{name}': 100 * getattr(micro, name) for name in ('precision', 'recall', 'f1')}


def _numbered(named: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Each with the number of those before it that are the same, so that sets count them."""
    seen: collections.Counter[tuple[str, str]] = collections.Counter()
    return [(kind, text, seen.update([(kind, text)]) or seen[kind, text]) for kind, text in named]


def mean_of_groups(scores: Mapping[str, float], names: Sequence[Sequence[str]]) -> float:
    """A benchmark's average: each group of scores (two metrics of a task, two halves of MNLI) counts once, as the mean of its own."""
    return float(np.mean([np.mean([scores[name] for name in group]) for group in names]))


def best_steps(steps: Sequence[int], scores: Mapping[str, Sequence[float]], names: Sequence[Sequence[str]]) -> dict[str, tuple[float, int]]:
    """{name: (score, step)} at the checkpoint where the mean of the score's group is highest, the first of equals."""
    best = {}
    for group in names:
        place = int(np.argmax(np.mean([scores[name] for name in group], axis=0)))
        best |= {name: (float(scores[name][place]), steps[place]) for name in group}
    return best


def _hashable(group) -> Hashable:
    return tuple(group) if isinstance(group, list) else group


def _references(targets: Sequence[Any], predictions: Sequence[str]) -> list[list[str]]:
    """The references of each example as a list."""
    _same_length(targets, predictions)
    references = [[target] if isinstance(target, str) else list(target) for target in targets]
    for number, several in enumerate(references):
        if not several:
            raise ValueError(f'example {number} has no reference to be held against')
    return references


def _streams(targets: Sequence[Any], predictions: Sequence[str]) -> list[list[str | None]]:
    """sacrebleu's form: the first references of all examples, then the second, ...; None where an example has fewer."""
    references = _references(targets, predictions)
    return [[several[place] if place < len(several) else None for several in references] for place in range(max(map(len, references)))]


def _same_length(targets: Sequence[Any], predictions: Sequence[Any]) -> None:
    if len(targets) != len(predictions):
        raise ValueError(f'{len(predictions)} predictions for {len(targets)} examples')
    if not len(targets):
        raise ValueError('nothing to score: there are no examples')
