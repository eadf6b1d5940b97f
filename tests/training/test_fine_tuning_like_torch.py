"""Fine-tuning beside torch: the same weights on the same batches, without dropout, take the same steps. Needs torch and transformers (extra `parity`)."""

import jax
import numpy as np
import pytest

from configs import ner
from t5x_lite.assemble import assemble
from t5x_lite.training import driving, partitioning
from t5x_lite.training.beginning import begun
from t5x_lite.training.step import make_program
from tests.commands import material
from tests.data.tagged_material import columns, sentences

STEPS, ROWS, RATE = 10, 8, 1e-2


def test_tags_are_learnt_step_by_step_as_in_torch(transformers, tmp_path):
    import torch

    for name, seed in (('train', 0), ('dev', 1)):
        (tmp_path / f'{name}.conll').write_text(columns(sentences(40, seed)))
    config = ner.get_config()
    config.init_from, config.epochs, config.batch_size, config.optim.learning_rate = str(material.PRETRAINED), STEPS * ROWS / 40, ROWS, RATE
    config.data.train, config.data.validation, config.data.seq_len, config.data.length_buckets = f'{tmp_path}/train.conll', f'{tmp_path}/dev.conll', 16, ()
    config.model.dropout = config.model.attention_dropout = 0.0
    run = assemble(config)
    mesh = partitioning.make_mesh(run.config, jax.devices()[:1])
    one, ours, batches = driving.One(), [], [run.train.batch(step) for step in range(STEPS)]
    with jax.set_mesh(mesh):
        program = make_program(run.config, mesh)
        state = begun(program, run.initial)
        first = jax.tree.map(np.asarray, state.params['classifier'])
        for step, batch in enumerate(batches):
            asked = driving.Asked(step, program, batch, slice(0, ROWS), ROWS, state)
            one.take(asked)
            state = None
            ours.append({name: float(asked.metrics()[name]) for name in ('loss', 'grad_norm', 'learning_rate')})
        last = jax.tree.map(np.asarray, one.state.params['classifier'])

    model = transformers.AutoModelForTokenClassification.from_pretrained(
        material.PRETRAINED, num_labels=run.config.model.num_labels, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).train()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor(first['kernel'].T.copy()))
        model.classifier.bias.zero_()
    plain = [name.endswith('bias') or 'LayerNorm' in name for name, _ in model.named_parameters()]
    groups = [
        {'params': [each for each, is_plain in zip(model.parameters(), plain, strict=True) if is_plain == which], 'weight_decay': 0.0 if which else 0.01}
        for which in (False, True)
    ]
    optimiser = torch.optim.AdamW(groups, lr=RATE, eps=1e-6)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, round(0.1 * STEPS), STEPS)
    for batch, step in zip(batches, ours, strict=True):
        labels = np.where(batch['labels'] < 0, -100, batch['labels'])
        given = {'input_ids': batch['tokens'], 'attention_mask': batch['sequence_ids'] > 0, 'labels': labels}
        loss = model(**{name: torch.tensor(value.astype(np.int64)) for name, value in given.items()}).loss
        assert step['learning_rate'] == pytest.approx(optimiser.param_groups[0]['lr'], rel=1e-6)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        assert step['loss'] == pytest.approx(loss.item(), rel=2e-5) and step['grad_norm'] == pytest.approx(norm.item(), rel=2e-4)
    assert ours[-1]['loss'] < ours[0]['loss'] - 0.2
    np.testing.assert_allclose(model.classifier.weight.detach().numpy().T, last['kernel'], atol=2e-5)
    assert np.abs(last['kernel'] - first['kernel']).max() > 1e-2
