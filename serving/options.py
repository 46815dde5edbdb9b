"""What an operator may set for this process, beside the settings that every part shares."""

from typing import Literal

from pydantic import Field

from core.settings import Settings
from vlm.precision import Precision, Quantization


class ServingSettings(Settings):
    """`LENSMITH_SERVING_*`."""

    # CPU time per request of lensmith-demo with an adapter, 25 tokens of prompt and 2 of answer, alone and 8 at once, on
    # one core with AVX512-BF16: none/fp32 236 and 129 ms, none/bf16 191 and 102, nf4/fp32 314 and 181, nf4/bf16 260 and
    # 128. In fp32 a greedy answer does not depend on who shares its batch; in bf16 a near tie may fall otherwise.
    serving_quantization: Quantization = Field(
        "none", description="how bases are held while serving; none answers short prompts fastest, nf4 is smallest"
    )
    serving_dtype: Precision | Literal["auto"] = Field(
        "auto", description="auto: bf16 where the hardware has it, fp16 on older GPUs, fp32 on other CPUs"
    )
    serving_bases: int = Field(1, ge=1, le=16, description="bases kept in memory at once")
    serving_adapters: int = Field(8, ge=1, le=256, description="adapters kept attached to each base")
    serving_queue: int = Field(64, ge=1, le=10_000, description="requests that may wait; more are answered 429")
    serving_deadline_s: float = Field(300.0, gt=0, description="longest time from a request to the end of its answer")
