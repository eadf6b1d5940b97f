"""A command that hangs says where, and goes on."""

import signal
import subprocess
import sys

from tests.commands.forked import ROOT

CODE = """
import sys, threading
from t5x_lite import cli

def waits_for_a_line(argv):
    print('ready', flush=True)
    print('has read', sys.stdin.readline())

threading.Thread(target=threading.Event().wait, daemon=True, name='other').start()
cli.run(waits_for_a_line)
"""


def test_usr1_says_where_its_threads_are():
    with subprocess.Popen([sys.executable, '-c', CODE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout.readline() == 'ready\n'
        command.send_signal(signal.SIGUSR1)
        out, said = command.communicate('on\n', timeout=60)
    assert command.returncode == 0 and out == 'has read on\n\n', (out, said)
    assert 'waits_for_a_line' in said and said.count('most recent call first') == 2, said
