import pytest

from t5x_lite.errors import UserError
from t5x_lite.training import paths

TREE = {'encoder': {'layers': {'kernel': 1, 'bias': 2}}, 'head': {'kernel': 3}}


def test_the_first_match_wins():
    assert paths.values((('.*bias', 0.0), ('head/.*', 1.0), ('.*', 2.0)), TREE, 'f') == {
        'encoder': {'layers': {'kernel': 2.0, 'bias': 0.0}},
        'head': {'kernel': 1.0},
    }


@pytest.mark.parametrize(
    'rules,message',
    [
        ((('.*bias', 0.0),), 'no rule covers parameter encoder/layers/kernel'),
        ((('.*', 0.0), ('.*bias', 1.0)), r"rule '\.\*bias' decides no parameter"),
        ((('.*scael', 0.0), ('.*', 1.0)), r"rule '\.\*scael' decides no parameter"),
        ((('(', 0.0), ('.*', 1.0)), 'not a regular expression'),
    ],
)
def test_rules_that_do_not_fit_are_errors(rules, message):
    with pytest.raises(UserError, match='config.optim.decay: .*' + message):
        paths.values(rules, TREE, 'config.optim.decay')


def test_stacked_parameters_are_those_of_layers():
    assert [path for path in paths.leaves(TREE) if paths.is_stacked(path)] == ['encoder/layers/bias', 'encoder/layers/kernel']
