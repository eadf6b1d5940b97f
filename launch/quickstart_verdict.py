"""What the quickstart reached, in three lines, from the evaluation.json of its runs; fails where the model has not learnt.

    python launch/quickstart_verdict.py runs/quickstart
"""

import json
import pathlib
import sys

TIMES, NATS = 3.0, 0.7  # pre-training must reach: so many times the most frequent token's accuracy, so far below the unigram's loss


def verdict(pretrained: dict, finetuned: dict, from_random: dict) -> tuple[str, list[str]]:
    """(the lines, what is wrong) of the three evaluations."""
    times = pretrained['mlm_accuracy'] / max(pretrained['most_frequent_token_accuracy'], 1e-9)
    below = pretrained['unigram_loss'] - pretrained['mlm_loss']
    points = 100 * (finetuned['accuracy'] - from_random['accuracy'])
    lines = (
        f'masked words, held out   accuracy {pretrained["mlm_accuracy"]:.1%}, most frequent token {pretrained["most_frequent_token_accuracy"]:.1%}: '
        f'{times:.1f} times (wanted: {TIMES:g})\n'
        f'masked words, held out   loss {pretrained["mlm_loss"]:.2f}, unigram {pretrained["unigram_loss"]:.2f}: {below:.2f} nats below (wanted: {NATS:g})\n'
        f'docstrings, held out     accuracy {finetuned["accuracy"]:.1%} pre-trained, {from_random["accuracy"]:.1%} from random weights: '
        f'{points:+.1f} points (wanted: above 0)'
    )
    wrong = []
    if not times >= TIMES:
        wrong.append(f'masked accuracy is {times:.2f} times the most frequent token\'s, wanted {TIMES:g}')
    if not below >= NATS:
        wrong.append(f'masked loss is {below:.2f} nats below the unigram\'s, wanted {NATS:g}')
    if not points > 0:
        wrong.append(f'pre-training changed the accuracy on docstrings by {points:+.1f} points, wanted more than 0')
    return lines, wrong


if __name__ == '__main__':
    runs = pathlib.Path(sys.argv[1])
    lines, wrong = verdict(*(json.loads((runs / name / 'evaluation.json').read_text()) for name in ('pretrained', 'finetuned', 'from_random')))
    print('\n' + lines)
    if wrong:
        sys.exit(f'FAILED: {"; ".join(wrong)}. The model has not learnt what it should have: {runs}/pretrained/metrics.jsonl has its course')
