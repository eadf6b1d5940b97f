"""The command: its flags, what it says is wrong, and its memory."""

import dataclasses
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from t5x_lite.data import preparation
from tests.data.preparation_material import ROOT, WORDS, children, command


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    for flags, message in (
        (dict(input=tmp_path / 'absent', output=tmp_path / 'out'), 'no such file'),
        (dict(input=tmp_path, output=tmp_path / 'out', vocab_sizes=3), 'vocab_size'),
        (dict(input=tmp_path, output=tmp_path / 'out', vocab_size='many'), 'vocab_size'),
    ):
        done = subprocess.run(command(**flags), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_flags_and_settings_are_the_same():
    from t5x_lite import prepare as module

    assert {flag.name for flag in module._FLAGS} == {field.name for field in dataclasses.fields(preparation.Settings)}


MEGABYTES = (50, 1000)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/task'), reason='needs /proc')
@pytest.mark.parametrize('documents', ['paragraph', 'file'])
def test_memory_does_not_grow_with_the_input(tmp_path, documents):
    """The whole of the real command, its processes together: the peak at 1 GB is at most 1.1 times that at 50 MB.

    As paragraphs, and as two huge documents. Words never cease to be new, as in real text.
    """
    page, peaks = os.sysconf('SC_PAGE_SIZE'), []
    for megabytes in MEGABYTES:
        folder = tmp_path / f'in{megabytes}'
        folder.mkdir()
        source = np.random.default_rng(0)
        for name in ('a.txt', 'b.txt'):
            with open(folder / name, 'w') as file:
                while file.tell() < megabytes * 500_000:
                    ranks = source.zipf(1.3, 40_000) % 5_000_000
                    words = [
                        WORDS[rank] if rank < 300 else f'{WORDS[rank % 300]}{WORDS[rank // 300 % 300]}{rank // 90_000 or ""}'
                        for rank in ranks
                    ]
                    file.writelines(
                        ' '.join(words[start : start + 20]) + ('.\n\n' if start % 100 == 80 else '. A')
                        for start in range(0, len(words), 20)
                    )
        flags = dict(input=folder, output=tmp_path / f'out{megabytes}', documents=documents, validation_fraction=0.4, workers=2)
        running = subprocess.Popen(command(**flags), cwd=ROOT, stdout=subprocess.DEVNULL)
        peak = 0
        while running.poll() is None:
            total = 0
            for pid in [running.pid, *children(running.pid)]:
                try:
                    total += int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * page
                except OSError:
                    pass
            peak = max(peak, total)
            time.sleep(0.05)
        assert running.returncode == 0
        peaks.append(peak)
    print(f'peak resident memory in MB at {MEGABYTES} MB of text: {[peak // 10**6 for peak in peaks]}')
    assert peaks[1] <= 1.1 * peaks[0], peaks
