from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / 'fixtures'
SINGLE, SHARDED, ENCODER, CLASSIFIER = (FIXTURES / name for name in ('bert_pretraining', 'bert_sharded', 'bert_encoder', 'bert_classifier'))
GPT1, GPT2, T5, T5_1_1 = (FIXTURES / name for name in ('openai_gpt', 'gpt2', 't5', 't5_v1_1'))
