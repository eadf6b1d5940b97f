"""A TFDS data set of a few documents, built by the tests; in a module of its own because TFDS finds builders by their module."""

import numpy as np
import tensorflow_datasets as tfds

DOCUMENTS = [f'Document number {number} is short. It has two sentences, and the word w{number}.' for number in range(40)]


class TinyText(tfds.core.GeneratorBasedBuilder):
    code_path = None  # the default asks for importlib_resources, which TFDS does not install on new Pythons
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({'body': tfds.features.Text(), 'number': tfds.features.Scalar(dtype=np.int64)}),
            description='Tiny.',
        )

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        for number, text in enumerate(DOCUMENTS):
            yield number, {'body': text, 'number': number}


def build(folder: str, file_format: str = 'array_record') -> None:
    TinyText(data_dir=folder, file_format=file_format).download_and_prepare()
