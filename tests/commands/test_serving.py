"""predict on standard input: each line is answered as it comes, those that come together are answered together."""

import json
import os
import subprocess
import sys

from tests.commands import forked


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


def test_long_and_empty_texts(stock, tmp_path):
    """A text of 100,000 words is read as far as the model goes, and that is said; an empty line has an answer too, so that lines stay beside lines."""
    (tmp_path / 'texts.txt').write_text('word ' * 100_000 + '\n\ngood\n')
    said = forked.run('predict', f'--workdir={stock}/classifier', f'--input={tmp_path}/texts.txt', f'--output={tmp_path}/answers.jsonl').success
    assert said.startswith('3 answers in ') and said.endswith('; 1 of the texts were too long and cut (those with "cut")\n')
    answers = [json.loads(line) for line in (tmp_path / 'answers.jsonl').read_text().splitlines()]
    assert [answer.get('cut', 0) for answer in answers] == [32, 0, 0] and [len(answer['text']) for answer in answers[1:]] == [0, 4]
    exact = forked.run('predict', f'--workdir={stock}/classifier', '--text=' + 'word ' * 30, '--output=-').success
    assert 'cut' not in json.loads(exact), '30 and two special ones fit'
    assert 'of this text only 32 tokens were read' in forked.run('predict', f'--workdir={stock}/classifier', '--text=' + 'word ' * 31).success


def test_rows_of_a_table(stock, tmp_path):
    """Not its lines: the header is no text, and quotes are none either."""
    (tmp_path / 'new.csv').write_text('id,text\r\n7,"good, and ""more"""\r\n8,bad\r\n')
    asked = ('predict', f'--workdir={stock}/classifier', f'--input={tmp_path}/new.csv')
    said = forked.run(*asked, '--config.data.text_columns=text', f'--output={tmp_path}/answers.jsonl').success
    answers = [json.loads(line) for line in (tmp_path / 'answers.jsonl').read_text().splitlines()]
    assert said.startswith('2 answers in ') and [answer['text'] for answer in answers] == ['good, and "more"', 'bad']
    assert 'which columns of a table hold its texts; name them with --config.data.text_columns' in forked.run(*asked).error
