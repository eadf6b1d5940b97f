"""What a cycle must not have done."""

from collections.abc import Mapping, Sequence
import re
import signal
from typing import Any

from tests.soak.cycles import Plan

_GONE = (75, -signal.SIGABRT, -signal.SIGKILL)  # of one whose partner is gone: it says so, JAX aborts it, or it was killed where it waited


def by_step(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[int, bool], Mapping[str, Any]]:
    """Lines of metrics.jsonl by (step, whether they are of held-out data)."""
    return {(line['step'], any(name.startswith('eval/') for name in line)): line for line in lines}


def faults(
    plan: Plan, statuses: Sequence[int], said: Sequence[str], before: int, saved: Sequence[int], folders: Sequence[str], lines: Sequence[Mapping[str, Any]],
    reference: Mapping[tuple[int, bool], Mapping[str, Any]],
) -> list[str]:  # fmt: skip
    """In words; [] where all is well.

    Args:
      statuses, said: exit status and output of each process.
      before: the newest step that was saved when the cycle began.
      saved: steps that are saved now.
      folders: names in checkpoints/.
      lines: of metrics.jsonl, timings left out.
      reference: those of the run that nothing touched.
    """
    found = []
    newest = max(saved, default=0)
    if newest < before:
        found.append(f'the checkpoint of step {before} is lost; the newest is that of step {newest}')
    if torn := [name for name in folders if name.startswith('torn-')]:
        found.append(f'checkpoints were set aside: {", ".join(torn)}')
    resumed = re.search(r'^resumed .* from step ([\d,]+)$', said[0], re.MULTILINE)
    if resumed and int(resumed[1].replace(',', '')) != before:
        found.append(f'went on from step {resumed[1]}, and step {before} was saved')
    if not resumed and before and 'compiled the step' in said[0]:
        found.append(f'began anew, and step {before} was saved')
    for index, text in enumerate(said):
        for words in ('Traceback', 'warning: the checkpoint'):
            if words in text:
                found.append(f'process {index} says {next(line for line in text.splitlines() if words in line)!r}')
    status = statuses[plan.process]
    stopped = status == 0 and plan.signal == signal.SIGTERM
    if status != -plan.signal and not stopped:
        found.append(f'process {plan.process} ended with status {status}')
    for index, other in enumerate(statuses):
        if index != plan.process and other not in ((0,) if stopped else _GONE):
            found.append(f'process {index} ended with status {other}')
    if stopped:
        steps = {step for text in said for step in re.findall(r'^stopped by SIGTERM at step ([\d,]+), which is saved', text, re.MULTILINE)}
        if steps != {f'{newest:,}'}:
            found.append(f'asked to end, it said to have saved step {", ".join(sorted(steps)) or "none"}, and the newest is that of step {newest}')
    for place, line in by_step(lines).items():
        if place not in reference or line != reference[place]:
            found.append(f'step {place[0]}: the line {dict(line)} is not that of the run that nothing touched, {reference.get(place)}')
            break
    return found
