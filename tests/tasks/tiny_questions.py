"""Data sets of TFDS with the nested features of SQuAD, MultiRC and translation, built by the tests; TFDS finds builders by their module."""

import numpy as np
import tensorflow_datasets as tfds

LABELS = ('no', 'yes')


class TinyQuestions(tfds.core.GeneratorBasedBuilder):
    code_path = None  # the default asks for importlib_resources, which TFDS does not install on new Pythons
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'id': np.str_,
            'context': tfds.features.Text(),
            'question': tfds.features.Text(),
            'answers': tfds.features.Sequence({'text': tfds.features.Text(), 'answer_start': np.int32}),
            'idx': tfds.features.FeaturesDict({'question': np.int32, 'answer': np.int32}),
            'label': tfds.features.ClassLabel(names=LABELS),
            'texts': tfds.features.Translation(languages=['en', 'de']),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), description='Tiny.')

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(4), 'validation_matched': self._generate_examples(2)}

    def _generate_examples(self, count):
        for number in range(count):
            answers = [{'text': 'Bo', 'answer_start': 0}, {'text': 'Bö Ra', 'answer_start': 0}]
            yield number, {
                'id': f'q{number}', 'context': 'Bö Ra ran.', 'question': 'Who?', 'answers': answers, 'idx': {'question': 5, 'answer': number},
                'label': number % 2, 'texts': {'en': f'Line {number}.', 'de': f'Zeile {number}.'},
            }  # fmt: skip
