"""The reader of prepared corpora: spans, sizes checked against the manifest, and broken folders named."""

import json
import pickle

import numpy as np
import pytest

from t5x_lite.data import corpus, shards
from t5x_lite.errors import UserError

# Per split: documents of sentences of token ids.
TRAIN = [[[5, 6, 7], [8, 9]], [[1, 2, 3, 4]], [[7]], [[6, 6], [5], [4, 4, 4]], [[9, 9]]]
VALIDATION = [[[3], [2, 1]]]


def write(path, dtype='uint16', shard_tokens=6, index=True):
    """A corpus of the above, made with the writer that `prepare` uses."""
    (path / 'unfinished').mkdir(parents=True)
    splits = {}
    for split, documents in (('train', TRAIN), ('validation', VALIDATION)):
        writer = shards.ShardWriter(str(path), split, np.dtype(dtype), shard_tokens)
        sentences = [sentence for document in documents for sentence in document]
        lengths = [sum(map(len, document)) for document in documents]
        writer.add(
            0,
            shards.Documents(
                tokens=np.array([token for sentence in sentences for token in sentence], dtype),
                sentences=np.array(list(map(len, sentences)), np.int32),
                documents=np.array(list(map(len, documents)), np.int32),
                lengths=np.array(lengths, np.int64),
                characters=np.array(lengths, np.int64) * 5,
                places=np.arange(len(documents)),
            ),
        )
        writer.finish((1, 0))
        records = [{key: value for key, value in record.items() if key != 'end'} for record in writer.records]
        if index:
            shards.write_index(str(path), split, records)
        if split == 'train':
            shards.write_npy(str(path / 'unigram_counts.npy'), shards.count_tokens(str(path), records, np.dtype(dtype), 10))
        splits[split] = {key: sum(record[key] for record in records) for key in ('documents', 'sentences', 'tokens', 'characters')} | {
            'shards': records
        }
    manifest = {'format': 1, 'tokenizer_sha256': '', 'vocab_size': 10, 'dtype': dtype, 'settings': {}, 'splits': splits}
    shards.write_json(str(path / 'manifest.json'), manifest)
    return str(path)


@pytest.mark.parametrize('index', [True, False])
@pytest.mark.parametrize('dtype', ['uint16', 'uint32'])
def test_documents_and_sentences_come_back(tmp_path, dtype, index):
    path = write(tmp_path, dtype, index=index)
    for split, documents in (('train', TRAIN), ('validation', VALIDATION)):
        read = corpus.Corpus(path, split)
        assert (read.num_documents, read.num_sentences) == (len(documents), sum(map(len, documents)))
        assert read.sentence_starts.dtype == read.document_starts.dtype == np.int64
        assert len(read.sentence_starts) == read.num_sentences + 1 and len(read.document_starts) == read.num_documents + 1
        found = [
            [
                read.tokens(*read.sentence_starts[sentence : sentence + 2]).tolist()
                for sentence in range(*read.document_starts[number : number + 2])
            ]
            for number in range(read.num_documents)
        ]
        assert found == documents
        for number, document in enumerate(documents):
            first, last = read.sentence_starts[read.document_starts[number : number + 2]]
            whole = read.tokens(first, last)
            assert whole.dtype == np.int32 and whole.tolist() == [token for sentence in document for token in sentence]
        counts = np.bincount([token for document in TRAIN for sentence in document for token in sentence], minlength=10)
        assert read.unigram_counts.tolist() == counts.tolist()


def test_shards_hold_whole_documents(tmp_path):
    read = corpus.Corpus(write(tmp_path), 'train')
    # Of 5, 4, 1, 6 and 2 tokens: the one that reaches six ends a shard.
    assert [shard['tokens'] for shard in read.manifest['splits']['train']['shards']] == [9, 7, 2]
    assert [shard['documents'] for shard in read.manifest['splits']['train']['shards']] == [2, 2, 1]


def test_spans(tmp_path):
    read = corpus.Corpus(write(tmp_path), 'train')
    assert read.tokens(1, 4).tolist() == [6, 7, 8] and read.tokens(4, 4).shape == (0,)
    with pytest.raises(IndexError, match='cross'):
        read.tokens(8, 11)
    for start, stop in ((-1, 2), (3, 2), (0, 99)):
        with pytest.raises(IndexError):
            read.tokens(start, stop)


def test_travels_to_other_processes_by_name(tmp_path):
    read = corpus.Corpus(write(tmp_path), 'train')
    read.tokens(0, 3)
    data = pickle.dumps(read)
    assert len(data) < 1000
    assert pickle.loads(data).tokens(0, 3).tolist() == [5, 6, 7]


def test_opening_reads_no_shard(tmp_path):
    read = corpus.Corpus(write(tmp_path), 'train')
    assert isinstance(read.sentence_starts, np.memmap) and isinstance(read.document_starts, np.memmap)
    assert not read._maps
    read.tokens(0, 1)
    assert list(read._maps) == [0]


def damage(name, change):
    def apply(path):
        file = path / name
        content = file.read_bytes()
        file.unlink()
        if change is not None:
            file.write_bytes(change(content))

    return apply


def edit_manifest(change):
    def apply(path):
        manifest = json.loads((path / 'manifest.json').read_text())
        change(manifest)
        (path / 'manifest.json').write_text(json.dumps(manifest))

    return apply


BROKEN = [
    (damage('manifest.json', None), 'not a prepared corpus .*its preparation was interrupted: repeat that command'),
    (damage('manifest.json', lambda data: data[:50]), 'manifest.json: not JSON'),
    (damage('manifest.json', lambda data: b'[]'), 'format None, this version reads 1'),
    (edit_manifest(lambda manifest: manifest.update(format=2)), 'format 2, this version reads 1'),
    (edit_manifest(lambda manifest: manifest['splits'].pop('train')), 'no train part, only validation'),
    (edit_manifest(lambda manifest: manifest['splits']['train'].update(tokens=0)), 'the train part is empty'),
    (edit_manifest(lambda manifest: manifest['splits']['train'].update(tokens=19)), 'do not add up'),
    (
        edit_manifest(lambda manifest: manifest['splits']['train'].update(sentences=19)),
        '8 sentences in the files of the train part, 19 in manifest',
    ),
    (damage('train-00001.tokens', lambda data: data[:-2]), r'train-00001\.tokens: 12 bytes, expected 14'),
    (damage('train-00001.tokens', None), r'train-00001\.tokens: missing'),
    (damage('train.sentence_starts.npy', lambda data: data[:-3]), r'train\.sentence_starts\.npy: broken or truncated'),
    (damage('train.document_starts.npy', lambda data: b''), r'train\.document_starts\.npy: broken or truncated'),
]


@pytest.mark.parametrize('break_it, message', BROKEN, ids=range(len(BROKEN)))
def test_broken_corpora_are_named(tmp_path, break_it, message):
    path = write(tmp_path)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        corpus.Corpus(path, 'train')
    assert path in str(error.value)


def test_broken_counts_are_named(tmp_path):
    path = write(tmp_path)
    damage('unigram_counts.npy', lambda data: data[:-1])(tmp_path)
    with pytest.raises(UserError, match='unigram_counts.npy: broken or truncated'):
        _ = corpus.Corpus(path, 'train').unigram_counts


def test_other_folders_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / 'absent'):
        with pytest.raises(UserError, match='not a prepared corpus .*give a folder that python -m t5x_lite.prepare wrote'):
            corpus.Corpus(str(path), 'train')
