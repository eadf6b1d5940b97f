"""Questions about a text as text: SQuAD, TriviaQA, ReCoRD, to the character as in T5's code (Raffel et al., 2020)."""

from collections.abc import Mapping
import re
import string
from typing import Any

from t5x_lite.tasks.text_formats import UNKNOWN, Example

_PUNCTUATION = re.compile(f'([{re.escape(string.punctuation)}])')
# Blocks of Unicode of scripts that set no spaces between words: South-East Asian ones and Tibetan, then Chinese and Japanese.
_UNSPACED = re.compile(
    '([\u0e00-\u0fff\u1000-\u104f\u1780-\u17ff\u1980-\u19ff\u1a20-\u1aaf\ua980-\ua9df'
    '\u2e80-\u2eff\u3000-\u30ff\u31c0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])'
)
_OTHER = re.compile('[^0-9A-Za-z_]')
_SPACES = re.compile('[\t\n\f\r ]+')  # a no-break space is a character like any other


def pad_punctuation(text: str) -> str:
    """ASCII punctuation between spaces, runs of white space one space: 'no (yes).' -> 'no ( yes ) . '."""
    return _SPACES.sub(' ', _PUNCTUATION.sub(r' \1 ', text))


def pad_nonspaced_languages(text: str) -> str:
    """Characters of scripts without spaces between spaces, as multilingual BLEU and F1 count them."""
    return _SPACES.sub(' ', _UNSPACED.sub(r' \1 ', text))


def squad(example: Mapping[str, Any], with_context: bool = True) -> Example:
    """'question: ... context: ...' -> the first answer. {'id', 'context', 'question', 'answers'} with answers as texts or TFDS's {'text': texts}.

    Args:
      with_context: False: 'squad trivia question: ...', to be answered from what a model remembers.
    """
    context, question = pad_punctuation(example['context']), pad_punctuation(example['question'])
    answers = [pad_punctuation(answer) for answer in answer_texts(example)]
    inputs = f'question: {question} context: {context}' if with_context else f'squad trivia question: {question}'
    return {
        'inputs': _SPACES.sub(' ', inputs),
        'targets': answers[0] if answers else '',
        'context': context,
        'question': question,
        'answers': answers,
        'references': answers,
        'id': example['id'],
    }


def squad_span(example: Mapping[str, Any]) -> Example | list[Example]:
    """As `squad`, with the answer as its place in the context, 'start: 2 end: 3'; [] where it is not found or has no text."""
    formatted = squad(example)
    if not formatted['targets'].strip():
        return []
    span = span_answer(formatted['context'], formatted['targets'])
    return formatted | {'targets': span, 'references': [span]} if span else []


def answer_texts(example: Mapping[str, Any]) -> list[str]:
    answers = example['answers']
    return list(answers['text'] if isinstance(answers, Mapping) else answers)


def span_answer(context: str, answer: str) -> str:
    """'start: 2 end: 3', the first place where the words of an answer stand one after the other in the context; '' where they do not.

    As in the reference, a word ends at every character but a letter of ASCII, a digit and '_', and two such characters have an empty word between them,
    which counts: in 'so , he' the last word is number 3. An answer that nothing follows is not found.
    """
    words, wanted = (_OTHER.sub(' ', text).split(' ') for text in (context, answer))
    for start in range(len(words) - len(wanted)):
        if words[start : start + len(wanted)] == wanted:
            return f'start: {start} end: {start + len(wanted) - 1}'
    return ''


def trivia_qa(example: Mapping[str, Any]) -> list[Example]:
    """An example for each context and each alias that occurs in it, small and capital letters of ASCII alike.

    {'question', 'contexts', 'normalized_aliases'}, or TFDS's {'question', 'entity_pages', 'search_results', 'answer'}.
    """
    question, made = pad_punctuation(example['question']), []
    contexts, aliases = _trivia_texts(example)
    for context in map(pad_punctuation, contexts):
        for alias in aliases:
            if _occurs(alias, context):
                inputs = _SPACES.sub(' ', f'question: {question} context: {context}')
                made.append({'inputs': inputs, 'targets': alias, 'references': aliases})
    return made


def _trivia_texts(example: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Contexts, those of Wikipedia first; and aliases."""
    if 'contexts' in example:
        contexts, aliases = example['contexts'], example['normalized_aliases']
    else:
        pages = [example[column][key] for column, key in (('entity_pages', 'wiki_context'), ('search_results', 'search_context')) if column in example]
        contexts, aliases = [text for texts in pages for text in texts], example['answer']['normalized_aliases']
    return list(contexts), [pad_punctuation(alias) for alias in aliases]


def _occurs(alias: str, context: str) -> bool:
    """The reference takes an alias for a regular expression, so that the '.' of 'st . louis' stands for any character."""
    alias, context = (text.encode().lower().decode() for text in (alias, context))  # bytes: ASCII only
    try:
        return re.fullmatch(f'.*{alias}.*', context) is not None
    except re.error:
        return alias in context


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
