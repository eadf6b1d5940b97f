"""Reading raw text: files, folders, globs, gz, jsonl and TFDS, as a stream of blocks of bytes, and blocks into documents.

The reader (`Reader`, one process) only reads, unpacks and cuts: it costs little, and its cuts depend on nothing but the input. What is
costly, `documents` and everything after it, is a function of one block, for any number of processes. A block is a quarter of a megabyte of
whole documents, or one part of a document that is larger: neither a huge file nor a single endless line is ever held in memory.
"""

import dataclasses
import glob
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from t5x_lite import remote
from t5x_lite.errors import UserError, nearest

BLOCK = 1 << 18  # bytes
_MOST_PIECES = 1 << 12  # in a block: of tiny or empty files
LONGEST_JSON_LINE = 1 << 26  # bytes
DOCUMENTS = ('file', 'paragraph', 'line')
TFDS = 'tfds:'
_BLANK = re.compile(rb'\n[ \t\r\f\v]*\n')
_SENTENCE_END = re.compile(rb'(?<![.!?])[.!?]++["\')\]]*+[ \t\r\n]')


@dataclasses.dataclass(frozen=True)
class Source:
    """One file, or one TFDS data set."""

    name: str
    kind: str  # text, jsonl, tfds
    size: int  # bytes on disk
    split: str = ''  # '': divided by validation_fraction


@dataclasses.dataclass(frozen=True)
class Piece:
    """Bytes from one place: whole documents of a file, or a part of one; `line` is that of the first byte (TFDS: the record)."""

    name: str
    line: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Removed:
    """What of a block is left out (`t5x_lite.data.filtering`)."""

    documents: tuple[int, ...]  # numbers of documents in it
    sentences: np.ndarray  # int64, rising: places of sentences in it, as `t5x_lite.data.spans` numbers them


@dataclasses.dataclass(frozen=True)
class Block:
    index: int
    kind: str  # text, jsonl, tfds
    split: str
    pieces: tuple[Piece, ...]
    start: int  # index of the block where this document began; its own for whole documents
    part: int = 0  # 0: whole documents; 1, 2, ...: parts of a long one
    last: bool = True  # this part ends the document
    key: int = 0  # of the long document, as `document_key`
    removed: Removed | None = None  # None: nothing


@dataclasses.dataclass(frozen=True)
class Problem:
    """Broken input, at a line of a file."""

    name: str
    line: int
    what: str

    def error(self) -> UserError:
        return UserError(f'{self.name}:{self.line}: {self.what}; mend it, or leave such lines out with --skip_broken')


def find(inputs: Sequence[str], tfds_dir: str = '', split: str = '', flag: str = '--input') -> list[Source]:
    """The sources behind file names, globs, folders (all files below that are not hidden) and tfds:NAME/CONFIG:VERSION, sorted within each.

    Raises:
      UserError: nothing matches, or a data set is not there.
    """
    found: dict[str, Source] = {}
    for item in inputs:
        if item.startswith(TFDS):
            found[item] = Source(item, 'tfds', int(_tfds_builder(item, tfds_dir).info.splits['train'].num_bytes), split)
            continue
        if remote.is_remote(item):
            raise UserError(f'{flag}={item}: text is read from a file system; copy it to one (gcloud storage cp -r), or mount the bucket')
        if os.path.isdir(item):
            names = sorted(_files_below(item))
        elif os.path.isfile(item):
            names = [item]
        else:
            names = sorted(name for name in glob.glob(item, recursive=True) if os.path.isfile(name))
        if not names:
            what = 'the folder holds no files' if os.path.isdir(item) else 'no such file, and as a pattern it matches none'
            raise UserError(f'{flag}={item}: {what}')
        for name in names:
            stem = name.removesuffix('.gz')
            kind = 'jsonl' if stem.endswith(('.jsonl', '.ndjson', '.json')) else 'text'
            found[name] = Source(name, kind, os.path.getsize(name), split)
    if not found:
        raise UserError(f'{flag} is empty; give files, folders, patterns or tfds:NAME, separated by commas')
    return list(found.values())


def _files_below(folder: str) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (os.path.join(root, name) for name in names if not name.startswith('.'))


class Packer:
    """Gathers pieces in the order of the input into blocks, for which it needs to know no more of them than their sizes."""

    def __init__(self):
        self.num_blocks = 0  # given out
        self._pending: list = []
        self._pending_kind, self._pending_size, self._start, self._key = ('', ''), 0, 0, 0

    def add(self, source: Source, piece: Any, size: int, part: int, last: bool, key: int) -> Iterator[Block]:
        """Blocks that the next piece completes. `part`, `last` and `key` are those of Block; the key counts where part is 1."""
        kind = (source.kind, source.split)
        if part or self._pending_size + size > BLOCK or len(self._pending) >= _MOST_PIECES or self._pending_kind != kind:
            yield from self.end()
        if not part:
            self._pending.append(piece)
            self._pending_size += size
            self._pending_kind = kind
            return
        if part == 1:
            self._start, self._key = self.num_blocks, key
        yield Block(self.num_blocks, *kind, (piece,), self._start, part, last, self._key)
        self.num_blocks += 1

    def end(self) -> Iterator[Block]:
        """The last block, if any."""
        if self._pending:
            yield Block(self.num_blocks, *self._pending_kind, tuple(self._pending), self.num_blocks)
            self.num_blocks += 1
            self._pending, self._pending_size = [], 0


class Reader:
    """Cuts sources into blocks. The same sources give the same blocks, whatever is done with them.

    Attributes, as they stand after the blocks taken so far:
      bytes_read: unpacked.
      bytes_on_disk: of files, as they lie there, for the share done.
      checksum: crc32 of everything read.
      num_blocks: given out by `blocks`.
      problems: broken input found while reading (truncated gz), to be treated as those that `documents` finds.
    """

    def __init__(self, sources: Sequence[Source], documents: str, lines: bool, seed: int, field: str = 'text', tfds_dir: str = ''):
        self._sources, self._documents, self._lines, self._seed, self._field, self._tfds_dir = (
            sources,
            documents,
            lines,
            seed,
            field,
            tfds_dir,
        )
        self.bytes_read = self.bytes_on_disk = self.checksum = 0
        self.problems: list[Problem] = []
        self._packer = Packer()

    @property
    def num_blocks(self) -> int:
        return self._packer.num_blocks

    def blocks(self) -> Iterator[Block]:
        for source, piece, part, last in self.pieces():
            key = document_key(piece.data, self._seed) if part == 1 else 0
            yield from self._packer.add(source, piece, len(piece.data), part, last, key)
        yield from self._packer.end()

    def pieces(self) -> Iterator[tuple[Source, Piece, int, bool]]:
        """(source, piece, which part of a long document it is, as in Block, whether it ends it): what blocks are made of."""
        for source in self._sources:
            base = self.bytes_on_disk
            for piece, part, last in self._records(source) if source.kind == 'tfds' else self._file(source):
                yield source, piece, part, last
            self.bytes_on_disk = base + source.size

    def _took(self, data: bytes, on_disk: int) -> None:
        self.bytes_read += len(data)
        self.bytes_on_disk = on_disk
        self.checksum = zlib.crc32(data, self.checksum)

    def _file(self, source: Source) -> Iterator[tuple[Piece, int, bool]]:
        """(piece, part, whether it ends the document) of one file."""
        with _Window(source, self) as window:
            part, size = 0, BLOCK
            while data := window.fill(size):
                size, line = BLOCK, window.line
                if part:
                    end = self._document_end(data) or (len(data) if window.ended else 0)
                    cut = end or self._soft_cut(data)
                elif window.ended:
                    cut = len(data)
                elif cut := data.rfind(b'\n') + 1 if source.kind == 'jsonl' else self._last_boundary(data):
                    pass
                elif source.kind == 'text':
                    part, end, cut = 1, 0, self._soft_cut(data)
                elif len(data) < LONGEST_JSON_LINE:
                    size = 2 * len(data)
                    continue
                else:
                    self.problems.append(Problem(source.name, line, f'a line of more than {LONGEST_JSON_LINE >> 20} MiB'))
                    window.skip_line()
                    continue
                last = bool(part and end)
                yield Piece(source.name, line, window.take(cut)), part, last
                part = part + 1 if part and not last else 0
            if part:
                yield Piece(source.name, window.line, b''), part, True

    def _last_boundary(self, data: bytes) -> int:
        """Where the last document that ends in these bytes ends; 0 where none does."""
        if self._documents == 'line':
            return data.rfind(b'\n') + 1
        end = 0
        if self._documents == 'paragraph':
            for match in _BLANK.finditer(data):
                end = match.end()
        return end

    def _document_end(self, data: bytes) -> int:
        """Where a long document that goes on in these bytes ends; 0 where it does not."""
        if self._documents == 'line':
            return data.find(b'\n') + 1
        match = _BLANK.search(data) if self._documents == 'paragraph' else None
        return match.end() if match else 0

    def _soft_cut(self, data: bytes) -> int:
        """Where to cut a long document: before the last blank line, else end of a sentence, else white space, else between characters."""
        cut = 0
        for match in _BLANK.finditer(data):
            cut = match.start()
        if not cut and self._lines:
            cut = max(data.rstrip().rfind(b'\n'), 0)
        if not cut:
            for match in _SENTENCE_END.finditer(data):
                cut = match.end() - 1
        if not cut:
            text = data.rstrip()
            cut = len(text) if len(text) < len(data) else max(text.rfind(space) for space in (b' ', b'\n', b'\t'))
        if cut <= 0:
            cut = len(data)
            while cut > len(data) - 4 and data[cut - 1] & 0xC0 == 0x80:
                cut -= 1
            cut = cut - 1 if data[cut - 1] >= 0xC0 else len(data)
        return cut - 1 if data[max(cut - 1, 0) : cut + 1] == b'\r\n' and cut > 1 else cut  # one line end, not two

    def _records(self, source: Source) -> Iterator[tuple[Piece, int, bool]]:
        base = self.bytes_on_disk
        builder = _tfds_builder(source.name, self._tfds_dir)
        try:
            data = builder.as_data_source(split='train')
        except Exception as error:  # tfds raises whatever it likes
            raise UserError(
                f'{source.name}: cannot be read without TensorFlow ({_first_line(error)}); '
                'prepare it with tfds build --file_format=array_record'
            ) from error
        if self._field not in builder.info.features:
            raise UserError(
                f'{source.name}: no feature {self._field!r}, {nearest(self._field, builder.info.features)}; set it with --field'
            )
        for index in range(len(data)):
            text = data[index][self._field]
            if not isinstance(text, (bytes, str)):
                raise UserError(
                    f'{source.name}: feature {self._field!r} holds {type(text).__name__}, not text; choose another with --field'
                )
            text = text.encode('utf-8', 'surrogatepass') if isinstance(text, str) else text
            self._took(text, base + source.size * (index + 1) // len(data))
            yield Piece(source.name, index, text), 0, True


class _Window:
    """The next bytes of a file, unpacked, and the line at which they begin."""

    def __init__(self, source: Source, reader: Reader):
        self.line, self.ended = 1, False
        self._source, self._reader, self._base = source, reader, reader.bytes_on_disk
        self._data = b''

    def __enter__(self):
        self._raw = open(self._source.name, 'rb')
        start = self._raw.read(3)
        self._raw.seek(3 if start == b'\xef\xbb\xbf' else 0)  # a byte order mark is no text
        packed = start[:2] == b'\x1f\x8b'
        self._file = gzip.GzipFile(fileobj=self._raw) if packed else self._raw
        if self._source.name.endswith('.gz') and start and not packed:
            self._broken('not a gzip file, whatever its name says')
        return self

    def __exit__(self, *_):
        self._raw.close()

    def fill(self, size: int) -> bytes:
        """Up to `size` bytes from where `take` left off; fewer only at the end of the file."""
        parts, have = [self._data], len(self._data)
        while have < size and not self.ended:
            try:
                data = self._file.read1(min(size - have, BLOCK))  # read would lose what precedes the damage
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                # What was whole stays, the line that broke off goes.
                whole = b''.join(parts)
                parts = [whole[: whole.rfind(b'\n') + 1]]
                self._broken(f'the gz file is {"truncated" if isinstance(error, EOFError) else "damaged"} here ({error})', whole)
                break
            self.ended = not data
            parts.append(data)
            have += len(data)
            self._reader._took(data, self._base + min(self._raw.tell(), self._source.size))
        self._data = b''.join(parts)
        return self._data

    def take(self, count: int) -> bytes:
        data, self._data = self._data[:count], self._data[count:]
        self.line += data.count(b'\n')
        return data

    def skip_line(self) -> None:
        while (data := self.fill(BLOCK)) and b'\n' not in data:
            self.take(len(data))
        self.take(data.find(b'\n') + 1)

    def _broken(self, what: str, before: bytes = b'') -> None:
        self.ended = True
        self._reader.problems.append(Problem(self._source.name, self.line + before.count(b'\n'), what))


def documents(block: Block, kind: str, field: str, whole: bool = False) -> Iterator[str | Problem]:
    """The texts of the documents of a block that are not blank, or of the one part that it holds, and what is broken in between.

    Line ends are newlines, whatever they were in the file.

    Args:
      kind: one of DOCUMENTS, what a document is in a text file. A jsonl line or TFDS record is always one document.
      field: of jsonl lines, the one that holds the text.
      whole: white space counts. Blank parts of a long document stay, and what separates documents (newlines before, white space after)
        belongs to none.
    """
    for piece in block.pieces:
        if block.kind == 'jsonl':
            found: Iterable[str | Problem] = _json_documents(piece, field)
        else:
            text, problems = _decode(piece)
            yield from problems
            if block.kind == 'tfds' or block.part or kind == 'file':
                found = (text,)
            elif kind == 'line':
                found = text.split('\n')
            else:
                found = re.split(r'\n[ \t\f\v]*\n', text)
            if whole and block.kind == 'text' and kind != 'file':
                found = [_between(item, block.part < 2, block.last) for item in found]
        yield from (item for item in found if isinstance(item, Problem) or item.strip() or (whole and block.part and item))


def _between(text: str, first: bool, last: bool) -> str:
    """A document, or its first, last or a middle part, without what separates it from its neighbours."""
    text = text.lstrip('\n') if first else text
    return text.rstrip() if last else text


def document_key(data: bytes, seed: int) -> int:
    """A uniform 64-bit number from the contents: what is held out follows from it, so equal documents are never on both sides."""
    return int.from_bytes(hashlib.blake2b(data.strip(), digest_size=8, key=str(seed).encode()).digest(), 'little')


def _decode(piece: Piece) -> tuple[str, list[Problem]]:
    """The text, with lines that are not UTF-8 left out, and named."""
    try:
        return _newlines(piece.data.decode('utf-8')), []
    except UnicodeDecodeError:
        kept, problems = [], []
        for number, line in enumerate(piece.data.split(b'\n')):
            try:
                kept.append(line.decode('utf-8'))
            except UnicodeDecodeError as error:
                hint = ' (a UTF-16 file? convert it with iconv)' if piece.data[:2] in (b'\xff\xfe', b'\xfe\xff') else ''
                problems.append(Problem(piece.name, piece.line + number, f'not UTF-8 at byte {error.start + 1} of the line{hint}'))
        return _newlines('\n'.join(kept)), problems


def _json_documents(piece: Piece, field: str) -> Iterator[str | Problem]:
    for number, line in enumerate(piece.data.split(b'\n'), piece.line):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                yield Problem(piece.name, number, f'not a JSON object but {type(record).__name__}')
            elif field not in record:
                yield Problem(piece.name, number, f'no field {field!r}, {nearest(field, record)}; set it with --field')
            elif not isinstance(record[field], str):
                yield Problem(piece.name, number, f'field {field!r} holds {type(record[field]).__name__}, not text')
            else:
                record[field].encode('utf-8')
                yield _newlines(record[field])
        except UnicodeError:
            yield Problem(piece.name, number, 'not UTF-8')
        except (ValueError, RecursionError) as error:
            yield Problem(piece.name, number, f'not JSON ({error})')


def _newlines(text: str) -> str:
    return text.replace('\r\n', '\n').replace('\r', '\n') if '\r' in text else text


def _tfds_builder(name: str, tfds_dir: str):
    import tensorflow_datasets as tfds  # here: costs a second, and nobody else needs it
    import tensorflow_datasets.text  # noqa: F401  (glue and its like fail without it)

    try:
        builder = tfds.builder(name.removeprefix(TFDS), data_dir=tfds_dir or None, file_format='array_record')
        if not os.path.exists(os.path.join(builder.data_path, 'dataset_info.json')):
            builder.download_and_prepare()
    except Exception as error:  # tfds raises whatever it likes
        raise UserError(
            f'{name}: TFDS cannot provide it from {tfds_dir or "its default folder"} ({_first_line(error)}); is --tfds_dir right?'
        ) from error
    if 'train' not in builder.info.splits:
        raise UserError(f'{name}: has no split train, only {", ".join(builder.info.splits)}')
    return builder


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ""}'
