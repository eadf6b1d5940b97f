"""Preparation as an Apache Beam pipeline: the same bytes as the local form. What needs Beam is skipped without it."""

import builtins
import gzip
import importlib.util
import json
import random
import zlib

import pytest

from t5x_lite.data import checksums, sources
from t5x_lite.errors import UserError
from tests.data import filtering_material as material
from tests.data.preparation_material import contents, mixed_input, paragraphs, prepare, write_text

needs_beam = pytest.mark.skipif(importlib.util.find_spec('apache_beam') is None, reason="needs pip install 't5x-lite[beam]'")


@pytest.mark.parametrize('settings, message', [
    (dict(runner='DirectRuner'), "--runner=DirectRuner: did you mean 'DirectRunner'"),
    (dict(runner='Samza'), '--runner=Samza: known: DataflowRunner, DirectRunner, FlinkRunner, SparkRunner'),
    (dict(beam_options=('--project=p',)), '--beam_options=--project=p: no runner takes them; give --runner'),
])  # fmt: skip
def test_runners_that_are_not(tmp_path, settings, message):
    write_text(tmp_path / 'in/a.txt', paragraphs(5))
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, **settings)
    assert not (tmp_path / 'out').exists()


def test_without_beam_it_is_said_before_anything_is_read(tmp_path, monkeypatch):
    write_text(tmp_path / 'in/a.txt', paragraphs(5))
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith('apache_beam'):
            raise ImportError('No module named apache_beam')
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', missing)
    monkeypatch.setattr(sources.Reader, 'blocks', None)
    with pytest.raises(UserError, match=r"--runner=DirectRunner needs Apache Beam.*pip install 't5x-lite\[beam\]'"):
        prepare(tmp_path, runner='DirectRunner')
    assert not (tmp_path / 'out').exists()


@needs_beam
def test_unknown_options_are_refused(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(5))
    with pytest.raises(UserError, match='--beam_options: Beam knows no projekt'):
        prepare(tmp_path, runner='DirectRunner', beam_options=('--projekt=p --region=r',))


def test_checksums_of_parts_make_that_of_all():
    source = random.Random(0)
    for sizes in ((0, 0), (0, 5), (5, 0), (1, 1), (1000, 3), (70_001, 123_457)):
        left, right = (source.randbytes(size) for size in sizes)
        assert checksums.joined(zlib.crc32(left), zlib.crc32(right), len(right)) == zlib.crc32(left + right)


def test_pieces_are_packed_alike_with_their_data_and_without(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 2000)
    mixed_input(tmp_path)
    found = sources.find([str(tmp_path / 'in')])
    blocks = list(sources.Reader(found, 'paragraph', False, 0).blocks())
    packer, packed = sources.Packer(), []
    for source in found:
        for _, piece, part, last in sources.Reader([source], 'paragraph', False, 0).pieces():
            packed += packer.add(source, piece, len(piece.data), part, last, sources.document_key(piece.data, 0) if part == 1 else 0)
    assert packed + list(packer.end()) == blocks and len(blocks) > 20 and max(len(block.pieces) for block in blocks) > 1 and any(block.part > 1 for block in blocks)


@needs_beam
def test_equal_to_the_local_form(tmp_path, monkeypatch):
    """Long documents, packed files, several shards and both splits, all rules: one worker."""
    settings = material.corpus(tmp_path / 'in', 30)
    monkeypatch.setattr(sources, 'BLOCK', 4000)
    whole, _ = prepare(tmp_path, 'local', **settings)
    beam, lines = prepare(tmp_path, 'beam', runner='DirectRunner', **settings)
    assert contents(beam) == contents(whole)
    manifest = json.loads((beam / 'manifest.json').read_text())
    assert len(manifest['splits']['train']['shards']) > 1 and {'repeated_spans', 'near_duplicates'} <= manifest['removed'].keys()
    assert 'nothing to do' in prepare(tmp_path, 'beam', **settings)[1][0] and 'nothing to do' in prepare(tmp_path, 'local', runner='DirectRunner', **settings)[1][0]
    assert lines[0].startswith('DirectRunner: 6 file(s)')


@needs_beam
def test_several_workers_and_a_given_tokenizer(tmp_path):
    settings = material.corpus(tmp_path / 'in', 20)
    whole, _ = prepare(tmp_path, 'local', **settings)
    given = settings | dict(tokenizer=str(whole / 'tokenizer'), vocab_size=None)
    expected = contents(prepare(tmp_path, 'taken', **given)[0])
    beam, _ = prepare(tmp_path, 'beam', runner='DirectRunner', workers=2, **given)
    assert contents(beam) == expected


@needs_beam
def test_what_the_local_form_refuses_is_refused_in_the_same_words(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(20))
    (tmp_path / 'in/b.txt').write_bytes(b'Fine.\n\ncaf\xe9\n\nAlso fine.\n')
    packed = gzip.compress(('Packed.\n\n' + ' '.join(map(str, range(1000)))).encode())
    (tmp_path / 'in/d.txt.gz').write_bytes(packed[: len(packed) // 2])
    settings = dict(runner='DirectRunner', validation_fraction=0.0, vocab_size=300)
    with pytest.raises(UserError, match=r'^[^\n]*in/b\.txt:3: not UTF-8 at byte 4 of the line; mend it, or leave such lines out with --skip_broken$'):
        prepare(tmp_path, **settings)
    beam, _ = prepare(tmp_path, skip_broken=True, **settings)
    assert contents(beam) == contents(prepare(tmp_path, 'local', skip_broken=True, **settings | dict(runner=''))[0])
    assert json.loads((beam / 'manifest.json').read_text())['broken'] == 2
