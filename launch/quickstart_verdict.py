"""What the quickstart reached, in a few lines, from the evaluation.json of its runs; fails where the model has not learnt.

    python launch/quickstart_verdict.py bert runs/quickstart
"""

from collections.abc import Iterator
import json
import pathlib
import sys

TIMES = 3.0  # that masked words must be right as often as the most frequent token is
NATS = {'bert': 0.7, 'gpt': 1.5, 't5': 0.7}  # that the loss must lie below the unigram's


def findings(kind: str, runs: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(a line, what is wrong with it or '')."""
    scores = {name: json.loads((runs / name / 'evaluation.json').read_text()) for name in ('pretrained', 'finetuned', 'from_random') if (runs / name).is_dir()}
    pretrained = scores['pretrained']
    what, loss = ('masked words', 'mlm_loss') if kind == 'bert' else ('next tokens ' if kind == 'gpt' else 'hidden spans', 'lm_loss')
    if kind == 'bert':
        times = pretrained['mlm_accuracy'] / max(pretrained['most_frequent_token_accuracy'], 1e-9)
        yield (
            f'{what}, held out   accuracy {pretrained["mlm_accuracy"]:.1%}, most frequent token {pretrained["most_frequent_token_accuracy"]:.1%}: '
            f'{times:.1f} times (wanted: {TIMES:g})',
            '' if times >= TIMES else f'masked accuracy is {times:.2f} times the most frequent token\'s, wanted {TIMES:g}',
        )
    below = pretrained['unigram_loss'] - pretrained[loss]
    yield (
        f'{what}, held out   loss {pretrained[loss]:.2f}, unigram {pretrained["unigram_loss"]:.2f}: {below:.2f} nats below (wanted: {NATS[kind]:g})',
        '' if below >= NATS[kind] else f'the loss is {below:.2f} nats below the unigram\'s, wanted {NATS[kind]:g}',
    )
    if kind == 'gpt':
        return
    tuned, random = (accuracy(scores[name]) for name in ('finetuned', 'from_random'))
    yield (
        f'docstrings, held out     accuracy {tuned:.1%} pre-trained, {random:.1%} from random weights: {100 * (tuned - random):+.1f} points (wanted: above 0)',
        '' if tuned > random else f'pre-training changed the accuracy on docstrings by {100 * (tuned - random):+.1f} points, wanted more than 0',
    )


def accuracy(scores: dict) -> float:
    """A share, of a head's or of written answers."""
    if 'tasks' in scores:
        (task,) = scores['tasks']['as taught'].values()
        return task['accuracy'] / 100
    return scores['accuracy']


if __name__ == '__main__':
    kind, runs = sys.argv[1], pathlib.Path(sys.argv[2])
    found = list(findings(kind, runs))
    print('\n' + '\n'.join(line for line, _ in found))
    if wrong := [what for _, what in found if what]:
        sys.exit(f'FAILED: {"; ".join(wrong)}. The model has not learnt what it should have: {runs}/pretrained/metrics.jsonl has its course')
