"""LLMCodec under the common tests of transformers; MimiModel, DacModel, EncodecModel as controls, same plain harness.

`python -m tests.hf_common` runs it; pytest does not collect it by itself.
"""

import itertools
import os
import random
import unittest

import numpy as np
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor
from tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin
from transformers.testing_utils import torch_device

WHICH = os.environ.get("HF_COMMON_MODEL", "llmcodec")
BATCH, SAMPLES = 3, 1600
EXPECTED = {
    "test_model_get_set_embeddings": "a codec has no text embeddings",
    "test_retain_grad_hidden_states_attentions": "asks for a gradient of the first output, which is codes",
}
"""Tests that fail, for DacModel and MimiModel too."""


def kind():
    if WHICH == "mimi":
        from transformers import EncodecFeatureExtractor, MimiConfig, MimiModel

        return (
            MimiModel,
            MimiConfig,
            EncodecFeatureExtractor,
            dict(
                audio_channels=1,
                hidden_size=32,
                num_filters=8,
                num_residual_layers=1,
                upsampling_ratios=[8, 4],
                codebook_size=64,
                vector_quantization_hidden_dimension=64,
                codebook_dim=64,
                upsample_groups=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                sliding_window=4,
                max_position_embeddings=512,
                use_cache=False,
            ),
        )
    if WHICH == "dac":
        from transformers import DacConfig, DacFeatureExtractor, DacModel

        return (
            DacModel,
            DacConfig,
            DacFeatureExtractor,
            dict(
                encoder_hidden_size=16,
                downsampling_ratios=[2, 4, 4],
                decoder_hidden_size=16,
                n_codebooks=6,
                codebook_size=512,
                codebook_dim=4,
            ),
        )
    if WHICH == "encodec":
        from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

        return (
            EncodecModel,
            EncodecConfig,
            EncodecFeatureExtractor,
            dict(
                audio_channels=1,
                num_filters=8,
                num_residual_layers=1,
                upsampling_ratios=[8, 4],
                codebook_size=64,
                hidden_size=32,
                codebook_dim=32,
            ),
        )
    from llmcodec.codec import LLMCodec, LLMCodecConfig, LLMCodecFeatureExtractor

    return (
        LLMCodec,
        LLMCodecConfig,
        LLMCodecFeatureExtractor,
        dict(
            hidden_size=32,
            encoder_layers=2,
            decoder_layers=2,
            head_dim=16,
            codebook_size=64,
            hop_samples=40,
            n_fft=160,
            conv_kernel_size=7,
        ),
    )


MODEL, CONFIG, EXTRACTOR, SIZES = kind()


class CodecTester:
    is_training = True
    batch_size = BATCH
    num_hidden_layers = 2
    num_attention_heads = 2
    hidden_size = 32
    seq_length = SAMPLES // 40  # frames of LLMCodec

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return CONFIG(**SIZES)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_values": floats_tensor([BATCH, 1, SAMPLES], scale=1.0).to(torch_device)}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class TestModel(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MODEL,)
    is_encoder_decoder = False
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True  # the year is read from a copyright line in the source
    test_all_params_have_gradient = False  # of `loss`, which as DacModel's is the quantiser's and not the decoder's

    def setUp(self):
        self.model_tester = CodecTester(self)
        self.config_tester = ConfigTester(
            self,
            config_class=CONFIG,
            hidden_size=32,
            common_properties=[],
            has_text_modality=False,
            **({"head_dim": 16} if WHICH == "llmcodec" else {}),
        )

    # ConfigTester's parts, one test each
    def test_config_json_string(self):
        self.config_tester.create_and_test_config_to_json_string()

    def test_config_json_file(self):
        self.config_tester.create_and_test_config_to_json_file()

    def test_config_save_load(self):
        self.config_tester.create_and_test_config_from_and_save_pretrained()

    def test_config_subfolder(self):
        self.config_tester.create_and_test_config_from_and_save_pretrained_subfolder()

    def test_config_composite(self):
        self.config_tester.create_and_test_config_from_and_save_pretrained_composite()

    def test_config_num_labels(self):
        self.config_tester.create_and_test_config_with_num_labels()

    def test_config_no_params(self):
        self.config_tester.check_config_can_be_init_without_params()

    def test_config_arguments(self):
        self.config_tester.check_config_arguments_init()

    def test_config_custom_kwargs(self):
        self.config_tester.create_and_test_config_from_pretrained_custom_kwargs()


def _expect_failures():
    for name, reason in EXPECTED.items() if WHICH != "encodec" else ():
        test = getattr(TestModel, name)

        def fails(self, test=test):
            test(self)

        fails.__doc__ = reason
        setattr(TestModel, name, unittest.expectedFailure(fails))


_expect_failures()


def _flat(rows):
    return list(itertools.chain(*rows))


def _rows(n, m):
    return [[random.random() for _ in range(m)] for _ in range(n)]


class ExtractorTester:
    batch_size, min_seq_length, max_seq_length, feature_size, padding_value, sampling_rate = 7, 400, 2000, 1, 0.0, 16000
    seq_length_diff = (2000 - 400) // 6

    def prepare_feat_extract_dict(self):
        return dict(feature_size=1, padding_value=0.0, sampling_rate=16000)

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        if equal_length:
            clips = [_flat(_rows(self.max_seq_length, 1)) for _ in range(self.batch_size)]
        else:
            clips = [_flat(_rows(n, 1)) for n in range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)]
        return [np.asarray(c) for c in clips] if numpify else clips


class TestFeatureExtractor(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = EXTRACTOR

    def setUp(self):
        self.feat_extract_tester = ExtractorTester()
