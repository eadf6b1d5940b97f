"""Questions about a text as text: SQuAD, TriviaQA, ReCoRD, to the character as in T5's code (Raffel et al., 2020)."""

from collections.abc import Mapping
import re
import string
from typing import Any

from t5x_lite.tasks.text_formats import UNKNOWN, Example

_PUNCTUATION = re.compile(f'([{re.escape(string.punctuation)}])')
_CJK = re.compile('([\u1100-\u11ff\u2e80-\ud7af\uf900-\ufaff\uff00-\uffef])')


def pad_punctuation(text: str) -> str:
    """ASCII punctuation between spaces, runs of white space one space: 'no (yes).' -> 'no ( yes ) . '."""
    return re.sub(r'\s+', ' ', _PUNCTUATION.sub(r' \1 ', text))


def pad_nonspaced_languages(text: str) -> str:
    """Characters of scripts without spaces between spaces, as multilingual BLEU and F1 count them."""
    return re.sub(r'\s+', ' ', _CJK.sub(r' \1 ', text)).strip()


def squad(example: Mapping[str, Any]) -> Example:
    """'question: ... context: ...' -> the first answer. {'id', 'context', 'question', 'answers'} with answers as texts or TFDS's {'text': texts}."""
    context, question = pad_punctuation(example['context']), pad_punctuation(example['question'])
    answers = [pad_punctuation(answer) for answer in answer_texts(example)]
    return {
        'inputs': f'question: {question}context: {context}' if question.endswith(' ') else f'question: {question} context: {context}',
        'targets': answers[0] if answers else '',
        'context': context,
        'question': question,
        'answers': answers,
        'references': answers,
        'id': example['id'],
    }


def squad_span(example: Mapping[str, Any]) -> Example | list[Example]:
    """As `squad`, with the answer as its place among the words of the context, 'start: 2 end: 3'; [] where it is not found."""
    formatted = squad(example)
    answers = answer_texts(example)
    span = span_answer(formatted['context'], pad_punctuation(answers[0]).strip()) if answers else ''
    return formatted | {'targets': span, 'answers': answers, 'references': [span]} if span else []


def answer_texts(example: Mapping[str, Any]) -> list[str]:
    answers = example['answers']
    return list(answers['text'] if isinstance(answers, Mapping) else answers)


def span_answer(context: str, answer: str) -> str:
    """'start: 2 end: 3', the words of the first place where the answer stands between white space; '' where it does not.

    Punctuation counts as words (`pad_punctuation`). As in the reference, an answer that nothing follows is not found.
    """
    words, wanted = pad_punctuation(context).split(), pad_punctuation(answer).split()
    for start in range(len(words) - len(wanted)):
        if words[start : start + len(wanted)] == wanted:
            return f'start: {start} end: {start + len(wanted) - 1}'
    return ''


def trivia_qa(example: Mapping[str, Any]) -> list[Example]:
    """An example for each context and each alias that is a word or words of it. {'question', 'contexts', 'normalized_aliases'}"""
    question, made = pad_punctuation(example['question']), []
    aliases = [pad_punctuation(alias) for alias in example['normalized_aliases']]
    for context in map(pad_punctuation, example['contexts']):
        for alias in aliases:
            if re.search(rf'\b{re.escape(alias)}', context, re.IGNORECASE):
                made.append({'inputs': f'question: {question}context: {context}', 'targets': alias, 'references': aliases})
    return made


def record(example: Mapping[str, Any]) -> list[Example]:
    """ReCoRD: an example for each right entity, to learn from; `metrics_text.record` judges each query once.

    Highlights of the news article become sentences: a full stop is put where none ends the line before.
    """
    passage = re.sub(r'([.?!"\'])\n@highlight\n', r'\1 ', example['passage'])
    passage = re.sub(r'\n@highlight\n', '. ', passage)
    answers = list(example['answers'])
    rest = {'idx/passage': example['idx']['passage'], 'idx/query': example['idx']['query'], 'answers': answers, 'references': answers or [UNKNOWN]}
    inputs = f'record query: {example["query"]} entities: {", ".join(example["entities"])} passage: {passage}'
    return [{'inputs': inputs, 'targets': answer} | rest for answer in answers or [UNKNOWN]]
