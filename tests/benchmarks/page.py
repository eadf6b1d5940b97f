"""The page of benchmarks: of each thing measured the newest record, as tables with the commands that repeat them.

    python -m tests.benchmarks.train --output=records.jsonl; python -m tests.benchmarks.decode --output=records.jsonl; ...
    python -m tests.benchmarks.page --records=records.jsonl --output=BENCHMARKS.md
"""

import json

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError
from tests.benchmarks import turns

FLAGS = flags.FLAGS


def page(records: list[dict]) -> str:
    """Markdown of records, in the order in which their benchmarks first stand there."""
    newest = {(record['benchmark'], record['what'], record['machine']): record for record in records}
    about = 'Each table is one run in which the competitors took turns (`turns.py`); what they say, and what stands between, is in [EVIDENCE.md](EVIDENCE.md), (c).'
    parts = ['# Benchmarks', about]
    for name in dict.fromkeys(record['benchmark'] for record in records):
        parts.append(f'## {name}')
        parts += [turns.table(record) for (benchmark, *_), record in newest.items() if benchmark == name]
    return '\n\n'.join(parts) + '\n'


def main(argv: list[str]) -> None:
    del argv
    records = []
    for path in FLAGS.records:
        try:
            with open(path, encoding='utf-8') as file:
                records += [json.loads(line) for line in file]
        except (OSError, ValueError) as error:
            raise UserError(f'--records={path}: {error}; give what the benchmarks wrote with --output') from error
    with open(FLAGS.output, 'w', encoding='utf-8') as file:
        file.write(page(records))
    print(f'written to {FLAGS.output}')


if __name__ == '__main__':
    flags.DEFINE_list('records', None, 'Files that benchmarks wrote with --output.', required=True)
    flags.DEFINE_string('output', None, 'The page, in Markdown.', required=True)
    cli.run(main)
