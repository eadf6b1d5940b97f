from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / 'fixtures'
SINGLE, SHARDED, ENCODER, CLASSIFIER = (FIXTURES / name for name in ('bert_pretraining', 'bert_sharded', 'bert_encoder', 'bert_classifier'))
