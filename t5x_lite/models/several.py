"""Several heads on one body (t5x_lite/several.py).

Each head is the module that it is alone, applied to the body's parameters and its own, so that nothing about a head has to be known here:

    encoder/layers/mlp/wi/kernel            the body's, once, where its pre-training module has them
    heads/mood/classifier/kernel            what a head has beside the body, under its name
"""

from typing import Any

import jax

from t5x_lite import several
from t5x_lite.config import Config, Layout, ModelConfig
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.heads import Batch, Head

HEADS = 'heads'  # where their parameters lie


class SeveralHeads:
    """In place of a module: `init` and `apply` as linen has them.

    Attributes:
      modules: {name: the module of a head alone}.
    """

    body = ''

    def __init__(self, config: ModelConfig, modules: dict[str, Head]):
        self._config, self.modules = config, modules

    @classmethod
    def of_run(cls, config: Config) -> 'SeveralHeads':
        """
        Raises:
          UserError: there are no heads, or what is named is none.
        """
        if not config.heads:
            raise UserError(
                f'config.heads is empty, and {config.model.module} is made of several; name them, each with the config that it would have alone: '
                '--config.heads.mood=configs/classify.py --config.heads.mood.data.train=FILE'
            )
        modules = {}
        for name, one in several.apart(config).items():
            with several.errors_of(name):
                made = resolve(one.model.module, 'config.model.module', 'apply')
                if not hasattr(made, 'body_class') or made is cls:
                    raise UserError(f'config.model.module={one.model.module} is no head; name one, such as t5x_lite.models.heads:SequenceHead')
                modules[name] = made(one.model)
        return cls(config.model, modules)

    @staticmethod
    def body_class(config: ModelConfig) -> Any:
        return Head.body_class(config)

    @classmethod
    def layout_of(cls, config: ModelConfig) -> Layout:
        return cls.body_class(config).layout

    @classmethod
    def forward_flops(cls, config: ModelConfig, length: int, predictions: int) -> int:
        """Of the body, for one sequence; those of a head are its own."""
        del predictions
        return cls.body_class(config).states_flops(config, length)

    def init(self, key: jax.Array, batch: Batch) -> dict[str, Any]:
        """Parameters as each head alone would begin with; the body's are those of all heads together (a pooler where one of them uses it)."""
        trees = {name: module.init(key, batch)['params'] for name, module in self.modules.items()}
        of_body = jax.eval_shape(lambda: _Body(self._config).init(key, batch)['params']).keys()
        body: dict[str, Any] = {}
        for tree in trees.values():
            body = _together(body, {part: tree[part] for part in tree if part in of_body})
        return {'params': body | {HEADS: {name: {part: tree[part] for part in tree if part not in of_body} for name, tree in trees.items()}}}

    def apply(self, variables: dict[str, Any], batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        """The outputs of the head that the batch is of."""
        name = several.name_in(batch)
        return self.modules[name].apply({'params': params_of(variables['params'], name)}, batch, dropout=dropout)


class _Body(Head):
    """A body as heads have it, and no head."""

    def setup(self):
        self._make_body()

    def __call__(self, batch: Batch) -> Batch:
        return self._states(batch, None)


def params_of(params: dict[str, Any], name: str) -> dict[str, Any]:
    """The parameters of one head, as it has them alone."""
    return {part: tree for part, tree in params.items() if part != HEADS} | params[HEADS][name]


def made(config: Config) -> Any:
    """The module of a run."""
    module = resolve(config.model.module, 'config.model.module', 'apply')
    if hasattr(module, 'of_run'):
        return module.of_run(config)
    if config.heads:
        names = ', '.join(head.name for head in config.heads)
        raise UserError(f'config.heads names {names}, and config.model.module={config.model.module} is one model; take --config=configs/several.py')
    return module(config.model)


def find_body(config: Config) -> str:
    """The body that heads say they are made for, where config.model.body does not say it; '' where none does.

    Raises:
      UserError: two of them differ.
    """
    named = {name: getattr(resolve(one.model.module, f'config.heads.{name}.model.module', 'apply'), 'body', '') for name, one in several.apart(config).items()}
    named = {name: body for name, body in named.items() if body}
    if len(set(named.values())) > 1:
        said = ', '.join(f'{name} for {body}' for name, body in named.items())
        raise UserError(f'config.heads are made for different bodies: {said}; several heads stand on one, which --config.model.body may name')
    return next(iter(named.values()), '')


def _together(ours: Any, theirs: Any) -> Any:
    """What either of two trees has."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ours
    return {part: _together(ours[part], theirs[part]) if part in ours and part in theirs else (ours | theirs)[part] for part in ours | theirs}
