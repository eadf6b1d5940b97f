import json

from tests.commands import forked


def test_a_repeated_command_compiles_nothing(stock, tmp_path, monkeypatch):
    """Each in an interpreter of its own, for within one JAX remembers what it has compiled."""
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    kept, answers = tmp_path / 'new' / 'cache', []
    for _ in range(2):
        said = forked.start('predict', f'--workdir={stock}/classifier', '--text=good', '--output=-', f'--config.compilation_cache={kept}').success
        answers.append((json.loads(said), sorted(path.name for path in kept.glob('*-cache'))))
    assert answers[0] == answers[1] and answers[0][1]


def test_a_folder_that_cannot_be(stock):
    refused = forked.run('predict', f'--workdir={stock}/classifier', '--text=good', f'--config.compilation_cache={stock}/file/x').error
    assert f'config.compilation_cache={stock}/file/x: ' in refused and 'give a folder that can be written to' in refused
