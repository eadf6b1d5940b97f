"""Tables of questions about texts that are to be answered: a question a row, with the text that answers it. (numpy only)

    id,question,context                  the columns of config.data.text_columns, the question's first, else usual names: question or query, and
    q1,who left?,Ann left at noon.       context, passage, text, document or paragraph. What a column `id` has comes back with the answer.
"""

from collections.abc import Iterator

from t5x_lite.data import table_columns, table_files
from t5x_lite.data.squad_files import Question
from t5x_lite.data.table_columns import TEXT_FLAG
from t5x_lite.data.table_files import Table
from t5x_lite.errors import UserError

_QUESTIONS, _TEXTS, _ID = ('question', 'query'), ('context', 'passage', 'text', 'document', 'paragraph'), 'id'


def read(path: str, columns: tuple[str, ...] = ()) -> Iterator[Question]:
    """The questions of a .csv or .jsonl file, in its order; `id` is '' where the table has none.

    Args:
      columns: of the question and of its text; (): usual names.

    Raises:
      UserError: no such file or columns, or a cell that is no text.
    """
    if len(columns) not in (0, 2):
        raise UserError(f'{TEXT_FLAG}={",".join(columns)} names {len(columns)}; give the column of the question and that of its text')
    table = table_files.read(path, columns, complete=bool(columns))
    lower = {name.lower(): place for place, name in reversed(list(enumerate(table.columns)))}
    places = [table.column(name, TEXT_FLAG) for name in columns] or [_usual(table, lower, names) for names in (_QUESTIONS, _TEXTS)]
    for row in range(len(table.rows)):
        question, context = (table_columns.text_cell(table, row, place) for place in places)
        name = table_columns.label_text(table.rows[row][lower[_ID]]) if _ID in lower else ''
        yield Question(name, '', context, question, (), table.where(row))


def _usual(table: Table, lower: dict[str, int], names: tuple[str, ...]) -> int:
    for name in names:
        if name in lower:
            return lower[name]
    raise UserError(
        f'{table.name}: no column {" or ".join(names)}; name those of the question and of its text with {TEXT_FLAG}=QUESTION,TEXT '
        f'(columns: {", ".join(table.columns)})'
    )
