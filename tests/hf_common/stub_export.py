"""Stand-in for Hugging Face's export tests: torch.export static, strict and dynamic, TorchScript, compilation."""

import torch


class ExportTesterMixin:
    def _export_parts(self):
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            yield model_class(config).eval(), self._prepare_for_class(inputs, model_class)

    def _same(self, program, model, inputs):
        with torch.no_grad():
            want, have = model(**inputs), program(**inputs)
        have = (
            have[1] if isinstance(have, (tuple, list)) else have["audio_values"] if "audio_values" in have else have[1]
        )
        torch.testing.assert_close(have, want["audio_values"], atol=1e-4, rtol=1e-3)

    def test_torch_export_static(self):
        for model, inputs in self._export_parts():
            self._same(torch.export.export(model, (), inputs, strict=False).module(), model, inputs)

    def test_torch_export_strict(self):
        for model, inputs in self._export_parts():
            self._same(torch.export.export(model, (), inputs, strict=True).module(), model, inputs)

    def test_torch_export_dynamic(self):
        for model, inputs in self._export_parts():
            shapes = {
                k: {0: torch.export.Dim.AUTO, v.ndim - 1: torch.export.Dim.AUTO}
                for k, v in inputs.items()
                if isinstance(v, torch.Tensor)
            }
            program = torch.export.export(model, (), inputs, strict=False, dynamic_shapes=shapes).module()
            longer = {k: torch.cat([v, v], -1) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            self._same(program, model, longer)

    def test_torchscript_trace(self):
        for model, inputs in self._export_parts():
            example = inputs["input_values"]

            class Audio(torch.nn.Module):
                def __init__(self, inner):
                    super().__init__()
                    self.inner = inner

                def forward(self, x):
                    return self.inner(x)["audio_values"]

            with torch.no_grad():
                traced = torch.jit.trace(Audio(model), (example,), check_trace=False)
            torch.testing.assert_close(traced(example), model(example)["audio_values"], atol=1e-4, rtol=1e-3)

    def test_torch_compile_fullgraph(self):
        for model, inputs in self._export_parts():
            compiled = torch.compile(model, fullgraph=True, backend="eager")
            torch.testing.assert_close(
                compiled(**inputs)["audio_values"], model(**inputs)["audio_values"], atol=1e-4, rtol=1e-3
            )

    def test_forward_carries_gradient(self):
        for model, inputs in self._export_parts():
            self.assertTrue(model(**inputs)["audio_values"].requires_grad)
