"""The sampler on CUDA: bf16, weights in place from a buffer on the host, log-probs near those of fp32."""

import os
from pathlib import Path

import pytest
import torch

from k15.engines.shared_memory import SharedMemoryReceiver, SharedMemorySender
from k15.engines.vllm.environment import environment
from k15.engines.weights import layout_bytes, tensor_bytes
from k15.records import SampleRequest, TensorSpec

pytestmark = [
    pytest.mark.engine,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("tied", [True, False])
def test_logprobs_follow_an_update_in_place(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(device="cuda", threads=os.cpu_count() or 1).items():
        monkeypatch.setenv(name, value)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from k15.engines.vllm.engine import VllmSampler

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=1,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    sampler = VllmSampler(
        tmp_path / "model",
        device="cuda",
        dtype="bfloat16",
        max_model_len=256,
        max_num_seqs=64,
        kv_cache_bytes=1 << 28,
        memory_share=0.5,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    tensors = list(model.named_parameters())
    layout: list[TensorSpec] = []
    for name, tensor in tensors:
        offset = layout[-1].offset + tensor_bytes(layout[-1]) if layout else 0
        layout.append(TensorSpec(name, "bfloat16", tuple(tensor.shape), offset))
    receiver = SharedMemoryReceiver(layout_bytes(layout))
    sampler.attach(receiver, layout)
    ticket = SharedMemorySender(layout).send(tensors, 1, deadline_s=30)
    sampler.update(ticket, deadline_s=30)

    requests = [SampleRequest((5 + i, 7, 9), 64, 4, seed=i) for i in range(16)]
    reference = model.float().cuda().eval()
    differences = []
    for index, segments in sampler.sample(requests, deadline_s=120):
        request = requests[index]
        for segment in segments:
            tokens = torch.tensor([[*request.prompt_token_ids, *segment.token_ids]], device="cuda")
            with torch.no_grad():
                logprobs = reference(tokens).logits[0, 2:-1].log_softmax(-1)
            of_sampled = logprobs.gather(1, tokens[0, 3:, None])[:, 0].cpu()
            differences.append((torch.tensor(segment.logprobs) - of_sampled).abs())
            assert segment.policy_version == 1
    assert torch.cat(differences).mean() < 0.05
    sampler.close()
