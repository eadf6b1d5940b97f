"""Cleaning and deduplication as steps of a preparation: what is left, what is counted, and that neither processes nor interruptions change it."""

import collections
import json
import os
import random
import re

import numpy as np
import pytest

from t5x_lite.data import cleaning, filter_steps, filtering, near_duplicates, passes, shards, sources, spans
from t5x_lite.errors import UserError
from tests.data import filtering_material as material
from tests.data.preparation_material import contents, documents_of, prepare


def manifest_of(folder):
    return json.loads((folder / 'manifest.json').read_text())


def texts_of(folder, split='train'):
    return [lower(' '.join(document)) for document in documents_of(folder, split)]


def lower(text):
    """Its words, and brackets: decoded text has other white space."""
    return ' '.join(re.findall(r'\w+|[{}]', text.lower()))


def test_rules_leave_out_what_they_should_and_it_is_counted(tmp_path):
    source = random.Random(1)
    pages = [material.page(source) for _ in range(6)]
    given = [
        f'{material.BAD_LINES[0]}\n{pages[0]}\n{material.BAD_LINES[1]}',
        pages[1] + '\nfunction f() { return it.',
        material.sentence(source),
        '\n'.join([pages[2], *material.BAD_LINES]),
        pages[3] + '\nThe damn river rose all night.',
        pages[4],
        pages[5] + '\nLorem ipsum dolor sit amet now.',
    ]
    material.write(tmp_path / 'in', given)
    (tmp_path / 'words').write_text('damn\n')
    folder, lines = prepare(tmp_path, clean=('c4',), bad_words=str(tmp_path / 'words'), validation_fraction=0.0)
    assert texts_of(folder) == [lower(text) for text in (pages[0], pages[2], pages[4])]
    assert manifest_of(folder)['removed'] == {
        'terminal_punctuation': {'lines': 3}, 'short_lines': {'lines': 2}, 'lorem_ipsum': {'documents': 1}, 'javascript': {'lines': 1},
        'curly_brackets': {'documents': 1}, 'policy': {'lines': 1}, 'few_sentences': {'documents': 1}, 'bad_words': {'documents': 1},
    }  # fmt: skip
    assert any('short_lines 2 lines; lorem_ipsum 1 documents' in line for line in lines)
    some, _ = prepare(tmp_path, 'some', clean=('javascript', 'curly_brackets'), validation_fraction=0.0)
    assert manifest_of(some)['removed'] == {'javascript': {'lines': 1}, 'curly_brackets': {'documents': 1}} and len(texts_of(some)) == 6
    none, _ = prepare(tmp_path, 'none', validation_fraction=0.0)
    assert manifest_of(none)['removed'] == {} and texts_of(none) == [lower(text) for text in given]


def test_spans_that_stood_there_before_are_removed(tmp_path):
    source = random.Random(2)
    sentences = [material.sentence(source) for _ in range(20)]
    a, b, c, d, e, f, x, y = sentences[:8]
    given = [f'{a} {b} {c} {d}', f'{x}\n{a.upper()}  {b} {c} {y}', f'{b} {c} {d} {e}', f'{a} {b} {x}', f'{f} {f} {f} {f} {f}', f'{a} {b} {c}']
    material.write(tmp_path / 'in', given)
    folder, _ = prepare(tmp_path, clean=('repeated_spans',), validation_fraction=0.0)
    assert texts_of(folder) == [lower(text) for text in (given[0], f'{x} {y}', e, given[3], f'{f} {f} {f}')]
    assert manifest_of(folder)['removed'] == {'repeated_spans': {'documents': 1, 'sentences': 3 + 3 + 2 + 3}}
    strict, _ = prepare(tmp_path, 'strict', clean=('repeated_spans', 'few_sentences'), validation_fraction=0.0)
    assert texts_of(strict) == [lower(text) for text in (given[0], given[3], f'{f} {f} {f}')], 'fewer than three sentences are left of the others'
    assert manifest_of(strict)['removed']['repeated_spans'] == {'documents': 3, 'sentences': 11}


def test_near_duplicates_are_removed_the_first_stays_and_nothing_else_goes(tmp_path):
    """Edits that leave a Jaccard similarity of about 0.9 or more, and 0.5 or less: known, and found."""
    source = random.Random(3)
    pages = [material.page(source, 8) for _ in range(60)]
    given = list(enumerate(pages))
    far = []
    for number in range(60):
        given.append((number, material.edited(pages[number], source, 0.005)))
        if number % 3 == 0:
            given.append((number, pages[number].upper().replace('.', ' !')))
        if number % 2:
            far.append(material.edited(pages[number], source, 0.3))
            given.append((100 + number, far[-1]))
    source.shuffle(given)
    material.write(tmp_path / 'in', [text for _, text in given])
    folder, _ = prepare(tmp_path, deduplicate='minhash', validation_fraction=0.0)
    first = {}
    for number, text in given:
        first.setdefault(number, lower(text))
    assert texts_of(folder) == list(first.values())
    assert manifest_of(folder)['removed'] == {'near_duplicates': {'documents': len(given) - len(first)}}


def test_near_duplicates_are_never_on_both_sides(tmp_path):
    source = random.Random(4)
    pages = [material.page(source, 8) for _ in range(40)]
    material.write(tmp_path / 'in', [material.edited(text, source, 0.004) for text in pages * 3])
    folder, _ = prepare(tmp_path, deduplicate='minhash', validation_fraction=0.3)
    train, held_out = texts_of(folder), texts_of(folder, 'validation')
    assert len(train) == 28 and len(held_out) == 12
    rows = near_duplicates.signatures(train + held_out, near_duplicates.MinHash())
    assert (rows[:28, None] == rows[None, 28:]).mean(-1).max() < 0.2
    # What training has seen is no test: of the named files only the three new ones stay.
    new = [material.page(source, 8) for _ in range(3)]
    material.write(tmp_path / 'held', pages[:3] + new + pages[3:5])
    named, _ = prepare(tmp_path, 'named', deduplicate='minhash', validation_input=(str(tmp_path / 'held'),))
    assert len(texts_of(named)) == 40 and texts_of(named, 'validation') == [lower(text) for text in new]
    material.write(tmp_path / 'held', pages[:5])
    with pytest.raises(UserError, match='no tokens came out for the validation part; is this text, and do the rules leave any'):
        prepare(tmp_path, 'none', deduplicate='minhash', validation_input=(str(tmp_path / 'held'),))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """(folder with the input, settings, what a run in one go makes of it)"""
    folder = tmp_path_factory.mktemp('filtering')
    settings = material.corpus(folder / 'in', 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, 'BLOCK', 4000)
        made, _ = prepare(folder, 'whole', **settings)
    return folder, settings, contents(made)


def test_all_rules_found_something_to_do(whole):
    folder, _, _ = whole
    removed = manifest_of(folder / 'whole')['removed']
    assert list(removed) == [
        'terminal_punctuation', 'short_lines', 'lorem_ipsum', 'javascript', 'curly_brackets', 'policy', 'few_sentences', 'repeated_spans', 'near_duplicates'
    ]  # fmt: skip
    texts = ' '.join(texts_of(folder / 'whole') + texts_of(folder / 'whole', 'validation'))
    assert '{' not in texts and 'lorem' not in texts and 'javascript' not in texts and not (folder / 'whole/unfinished').exists()
    long = [lower((folder / f'in/{name}.txt').read_text()) for name in 'xyz']
    assert long[0][:200] in texts and long[1][-200:] not in texts and long[2][:200] not in texts and long[2][-200:] not in texts


def test_the_number_of_processes_changes_nothing(whole, tmp_path):
    folder, settings, _ = whole
    one, _ = prepare(tmp_path, 'one', input=(str(folder / 'in'),), **settings)
    for processes in (2,):
        many, _ = prepare(tmp_path, f'many{processes}', input=(str(folder / 'in'),), workers=processes, **settings)
        assert contents(one) == contents(many)


class Stop(Exception):
    pass


def test_interrupted_anywhere_it_ends_with_the_same_bytes(whole, monkeypatch):
    folder, settings, expected = whole
    monkeypatch.setattr(sources, 'BLOCK', 4000)
    monkeypatch.setattr(filtering, '_COMMIT_BLOCKS', 3)
    steps = []

    def stops(original):
        def step(*args, **kwargs):
            for before in (True, False):
                steps.append(None)
                if len(steps) == limit:
                    raise Stop
                if before:
                    result = original(*args, **kwargs)
            return result

        return step

    for owner, name in (
        (passes.Pass, 'add'), (passes.Pass, 'commit'), (passes.Pass, 'remove'), (filtering, 'write_all'), (shards, 'write_json'), (spans, 'repeated'),
        (near_duplicates, 'matches'), (near_duplicates.Clusters, 'join'), (filter_steps, 'clean'), (filter_steps, 'sign'),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, stops(getattr(owner, name)))
    limit = 10**9
    prepare(folder, 'counted', **settings)
    total = len(steps)
    assert total > 150
    stopped, cleaned = 0, []
    for number, first in enumerate(range(1, total + 1, total // 6)):
        for limit in (first, 40, 10**9):
            steps.clear()
            try:
                _, lines = prepare(folder, f'stopped{number}', **settings)
                cleaned.append(any(line.startswith('going on after') for line in lines))
            except Stop:
                stopped += 1
        assert contents(folder / f'stopped{number}') == expected, first
    assert stopped > 6 and any(cleaned)


def test_an_interrupted_pass_does_not_do_its_blocks_again(whole, monkeypatch):
    folder, settings, expected = whole
    monkeypatch.setattr(sources, 'BLOCK', 4000)
    monkeypatch.setattr(filtering, '_COMMIT_BLOCKS', 1)
    seen, stopped = collections.defaultdict(list), {}
    for name, last in (('clean', 9), ('sign', 12)):
        original = getattr(filter_steps, name)

        def counted(job, block, name=name, last=last, original=original):
            if len(seen[name]) == last and name not in stopped:
                stopped[name] = block.start
                raise Stop
            seen[name].append(block.index)
            return original(job, block)

        monkeypatch.setattr(filter_steps, name, counted)
    for _ in range(2):
        with pytest.raises(Stop):
            prepare(folder, 'again', **settings)
    assert contents(prepare(folder, 'again', **settings)[0]) == expected
    for name, blocks in seen.items():
        again = collections.Counter(blocks) - collections.Counter(set(blocks))
        assert all(block >= stopped[name] for block in again), 'but for the long document that was in the making'
        assert sorted(set(blocks)) == list(range(max(blocks) + 1)) and len(blocks) > 12


def test_input_that_changed_between_is_begun_with_again(whole, tmp_path, monkeypatch):
    folder, settings, _ = whole
    original, settings = near_duplicates.duplicates_on_disk, settings | {'input': (str(tmp_path / 'in'),)}
    material.corpus(tmp_path / 'in')

    def stop(*_):
        raise Stop

    monkeypatch.setattr(near_duplicates, 'duplicates_on_disk', stop)
    with pytest.raises(Stop):
        prepare(tmp_path, **settings)
    monkeypatch.setattr(near_duplicates, 'duplicates_on_disk', original)
    material.corpus(tmp_path / 'in', seed=5)
    assert contents(prepare(tmp_path, **settings)[0]) == contents(prepare(tmp_path, 'new', **settings)[0])


@pytest.mark.parametrize('tokenizer', ['byte_bpe', 'sentencepiece'])
def test_other_tokenizers(whole, tmp_path, tokenizer):
    """Where white space is text lines stay lines."""
    folder, settings, _ = whole
    made, _ = prepare(tmp_path, input=(str(folder / 'in'),), tokenizer=tokenizer, vocab_size=300, **settings)
    assert manifest_of(made)['removed'] == manifest_of(prepare(tmp_path, 'two', input=(str(folder / 'in'),), **settings)[0])['removed']
    if tokenizer == 'byte_bpe':
        from tests.data.test_preparation_kinds import texts_of as raw_texts_of

        pages = [json.loads(line)['text'] for line in (folder / 'in/0.jsonl').read_text().splitlines()]
        assert any(text in pages and text.count('\n') > 3 for text in raw_texts_of(made))


def test_a_long_document_in_parts_keeps_its_lines_apart(tmp_path, monkeypatch):
    from tests.data.test_preparation_kinds import texts_of as raw_texts_of

    text = material.page(random.Random(7), 100)
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.txt').write_text(text)
    monkeypatch.setattr(sources, 'BLOCK', 3000)
    folder, _ = prepare(tmp_path, tokenizer='byte_bpe', vocab_size=300, documents='file', clean=('c4',), validation_fraction=0.0)
    assert [part.replace('\n', ' ') for part in raw_texts_of(folder)] == [text.replace('\n', ' ')]


@pytest.mark.parametrize('settings, message', [
    (dict(clean=('c5',)), "--clean=c5: no such rule, did you mean 'c4'"),
    (dict(clean=('bad_words',)), '--clean=bad_words: which'),
    (dict(clean=('c4',), bad_words='/absent'), '--bad_words=/absent: .*No such file'),
    (dict(deduplicate='minhsh'), "--deduplicate=minhsh: did you mean 'minhash'"),
    (dict(deduplicate='minhash', minhash_threshold=1.1), '--minhash_threshold=1.1: it must be above 0 and at most 1'),
    (dict(deduplicate='minhash', minhash_threshold=0.0), '--minhash_threshold=0.0'),
    (dict(deduplicate='minhash', minhash_bands=20), '--minhash_bands=20 does not divide --minhash_permutations=128; give 16'),
    (dict(deduplicate='minhash', minhash_bands=0), '--minhash_bands=0: it must be at least 1'),
    (dict(deduplicate='minhash', minhash_words=0), '--minhash_words=0'),
    (dict(clean=('short_lines',), min_line_words=0), '--min_line_words=0'),
])  # fmt: skip
def test_wrong_settings_are_refused_before_anything_is_read(tmp_path, settings, message):
    material.write(tmp_path / 'in', ['One.'])
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, **settings)
    assert not (tmp_path / 'out').exists()


def test_rules_that_leave_nothing(tmp_path):
    material.write(tmp_path / 'in', ['Too few words.', 'And here.'])
    with pytest.raises(UserError, match='there is no text in 3 file.s., or none that its rules leave'):
        prepare(tmp_path, clean=('c4',))


def test_corpora_of_before_are_finished_still(tmp_path):
    """A manifest without the settings that came later."""
    material.write(tmp_path / 'in', [material.page(random.Random(1)), material.page(random.Random(2))])
    folder, _ = prepare(tmp_path, validation_fraction=0.0)
    manifest = manifest_of(folder)
    for name in ('clean', 'bad_words', 'min_line_words', 'min_sentences', 'deduplicate', *(name for name in manifest['settings'] if name.startswith('minhash'))):
        del manifest['settings'][name]
    del manifest['removed']
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    assert prepare(tmp_path, validation_fraction=0.0)[1] == [f'{folder} is prepared already; nothing to do']
    with pytest.raises(UserError, match=r'other settings: clean \(\[\] there, \["c4"\] here\)'):
        prepare(tmp_path, validation_fraction=0.0, clean=('c4',))


def test_bad_words_are_a_setting_by_what_they_are(tmp_path):
    material.write(tmp_path / 'in', [material.page(random.Random(1)), material.page(random.Random(2))])
    for name, text in (('a', 'damn\nhell\n'), ('b', 'hell\nDamn\n'), ('c', 'hell\n')):
        (tmp_path / name).write_text(text)
    settings = dict(clean=('c4',), validation_fraction=0.0)
    prepare(tmp_path, bad_words=str(tmp_path / 'a'), **settings)
    assert 'nothing to do' in prepare(tmp_path, bad_words=str(tmp_path / 'b'), **settings)[1][0]
    with pytest.raises(UserError, match='other settings: bad_words'):
        prepare(tmp_path, bad_words=str(tmp_path / 'c'), **settings)


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    settings = material.corpus(tmp_path / 'in')
    original = passes.Pass.commit

    def commit(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(passes.Pass, 'commit', commit)
    with pytest.raises(UserError, match='No space left on device; .*repeat the command to go on'):
        prepare(tmp_path, **settings)
    monkeypatch.setattr(passes.Pass, 'commit', original)
    assert contents(prepare(tmp_path, **settings)[0]) == contents(prepare(tmp_path, 'new', **settings)[0])


def test_long_documents_are_judged_as_a_whole():
    """A rule that one part breaks, or sentences that only the parts together have."""
    rules = cleaning.Rules(frozenset(['few_sentences', 'curly_brackets']))

    def part(number, last, rule, count):
        return filter_steps.Cleaned(5, 3, number, last, np.zeros(0, np.int64), np.zeros(0, spans.ENTRY), rule, count, collections.Counter(), [])

    long = filtering.LongDocuments(rules)
    assert [long.verdict(part(1, False, '', 1)), long.verdict(part(2, False, '', 0)), long.verdict(part(3, True, '', 2))] == [None, None, '']
    assert [long.verdict(part(1, False, 'curly_brackets', 0)), long.verdict(part(2, True, '', 3))] == [None, 'curly_brackets']
    assert [long.verdict(part(1, False, '', 1)), long.verdict(part(2, True, '', 1))] == [None, 'few_sentences'], 'nothing is left of the document before'
