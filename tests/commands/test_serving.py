"""predict on standard input: each line is answered as it comes, those that come together are answered together."""

import json
import os
import subprocess
import sys

from t5x_lite.evaluation.predictor import chunks
from tests.commands import forked


def test_what_is_answered_together():
    assert list(chunks(map(tuple, 'abcde'), 2)) == [[('a',), ('b',)], [('c',), ('d',)], [('e',)]]
    assert list(chunks([('a',), None, None, ('b',), ('c',), ('d',), None], 2)) == [[('a',)], [('b',), ('c',)], [('d',)]]
    assert list(chunks([None], 2)) == list(chunks([], 2)) == []


def test_each_line_as_it_comes(stock):
    """In a process of its own, which waits for the next line until its input is closed."""
    command = [sys.executable, '-m', 't5x_lite.predict', f'--workdir={stock}/classifier', '--input=-', '--output=-', '--batch_size=4']
    environment = os.environ | {'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
    with subprocess.Popen(command, cwd=forked.ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        answers = []
        for text in ('good', 'bad one'):
            server.stdin.write(f'{text}\n'.encode())
            server.stdin.flush()
            answers.append(json.loads(server.stdout.readline()))  # waits for ever where lines wait for a full batch
            assert answers[-1]['text'] == text and sum(answers[-1]['probabilities'].values()) > 0.999
        server.stdin.write('\n'.join(['good', 'bad one', *'abcdefg', 'no line end']).encode())
        server.stdin.close()
        rest = [json.loads(line) for line in server.stdout]
    assert server.returncode == 0 and [answer['text'] for answer in rest] == ['good', 'bad one', *'abcdefg', 'no line end']
    assert [answer['label'] for answer in rest[:2]] == [answer['label'] for answer in answers]


def test_standard_output_as_jsonl(stock):
    said = forked.run('predict', f'--workdir={stock}/classifier', '--text=good', '--output=-').success
    assert json.loads(said).keys() == {'text', 'label', 'probabilities'}
