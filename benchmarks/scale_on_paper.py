"""What a step would take on many GPUs, from formulas alone: bytes that each collective moves, memory of a rank, time.

Nothing here was measured. What is assumed stands in ASSUMED, each with where it is from; memory is the project's own plan.
"""

from dataclasses import asdict, dataclass, replace

from benchmarks.real_sizes import CONFIGS
from pipeline.plan.memory import card, stage_need
from pipeline.plan.memory.need import Need, Phase
from pipeline.plan.memory.setting import Setting
from pipeline.plan.memory.shape import Shape, shape_of
from pipeline.plan.memory.tuned import tuned
from pipeline.plan.memory.weights import BYTES
from pipeline.recipe.fields import effective
from pipeline.stage import specs

MODELS = {"8B": "Llama-3.1-8B", "70B": "Llama-3.1-70B"}
STRATEGIES = ("ddp", "zero1", "zero2", "fsdp/zero3")
ROWS, LENGTH, A_PASS = 128, 2048, 1  # of a whole step, whatever the number of GPUs; tokens of a row; rows of a pass
DTYPE = "bfloat16"

ASSUMED = {
    "flops": (989e12, "H100 SXM, bf16, without sparsity: NVIDIA's H100 data sheet"),
    "utilization": (0.40, "of that: Llama 3 405B had 0.38 to 0.43 on 16,384 H100 (arXiv:2407.21783, table 4)"),
    "memory_gb": (80, "H100 SXM: NVIDIA's H100 data sheet"),
    "nvlink": (450e9, "bytes/s a direction of a GPU, 900 GB/s both ways: NVIDIA's H100 data sheet"),
    "network": (50e9, "bytes/s a direction: one 400 Gb/s card for each GPU, as in DGX H100 (its user guide)"),
    "a_machine": (8, "GPUs: DGX H100"),
    "of_the_link": (0.8, "what large collectives get of a link: a guess; nccl-tests tells it of a real one"),
    "hop": (5e-6, "seconds of latency for each hop of a ring: a guess"),
}


@dataclass(frozen=True)
class Cluster:
    """So many equal GPUs, and what their links carry. Bytes and operations a second, seconds."""

    gpus: int
    flops: float = ASSUMED["flops"][0]
    utilization: float = ASSUMED["utilization"][0]
    nvlink: float = ASSUMED["nvlink"][0]
    network: float = ASSUMED["network"][0]
    a_machine: int = ASSUMED["a_machine"][0]
    cards: int = ASSUMED["a_machine"][0]  # network cards of a machine
    of_the_link: float = ASSUMED["of_the_link"][0]
    hop: float = ASSUMED["hop"][0]

    @property
    def bandwidth(self) -> float:
        """Of the slowest link of a ring. NCCL lays as many rings as a machine has network cards, each over another one, so
        that together they carry what the cards do.
        """
        between = self.network * self.cards
        return self.of_the_link * (min(self.nvlink, between) if self.gpus > self.a_machine else self.nvlink)

    def seconds(self, sent: float, collectives: int, rings: int = 1) -> float:
        """For so many bytes sent by each GPU, in so many collectives that each go round `rings` times."""
        return sent / self.bandwidth + collectives * rings * (self.gpus - 1) * self.hop


def all_reduce(size: float, n: int) -> float:
    """Bytes that each of n ranks sends, of a ring over `size` bytes: 2 (n - 1) / n of them (Patarasuk and Yuan,
    doi:10.1016/j.jpdc.2008.09.002): a reduce-scatter and an all-gather.
    """
    return 2 * half_of_it(size, n)


def half_of_it(size: float, n: int) -> float:
    """The same of an all-gather, or a reduce-scatter, of `size` bytes in all: (n - 1) / n of them."""
    return size * (n - 1) / n


@dataclass(frozen=True)
class Work:
    """One step of SFT."""

    model: str
    method: str  # lora or full

    @property
    def shape(self) -> Shape:
        return shape_of(CONFIGS[MODELS[self.model]])

    @property
    def setting(self) -> Setting:
        spec, shape = specs()["sft"], self.shape
        fields = {"r": 16, "target_modules": "all-linear"}
        given = {"per_device_train_batch_size": A_PASS, "gradient_checkpointing": True, "max_length": LENGTH}
        return Setting(
            spec=spec,
            shape=shape,
            tuned=tuned(self.method, fields, shape, BYTES[DTYPE]),
            train=effective(spec.config, given | {"gradient_accumulation_steps": 2, "optim": "adamw_torch_fused"}),
            dtype=DTYPE,
            bits=None,
            length=LENGTH,
            prompt=LENGTH // 2,
        )

    @property
    def flops_of_token(self) -> float:
        """2 for each weight that is multiplied and 2 L s d of causal attention, forward; as much again for the gradients
        of activations, and of weights where these are trained; and the forward once more, for checkpointing. (arXiv:2204.02311,
        appendix B, counts 12 L s d for attention that is not causal, forward and backward.)
        """
        shape = self.shape
        weights = 2 * (shape.parameters - shape.embeddings)
        attention = 2 * shape.layers * LENGTH * shape.queries
        of_weights = weights if self.method == "full" else 0  # attention has none
        # forward, again, backward: attention's products each have two gradients
        return 2 * (weights + attention) + weights + 2 * attention + of_weights


@dataclass(frozen=True)
class Step:
    """What one step takes of each rank: bytes and seconds."""

    gpus: int
    strategy: str
    memory: int
    fits: bool
    sent: float
    computing: float
    sending: float
    with_overlap: float
    without_overlap: float

    @property
    def efficiency(self) -> float:
        """Of the time in which the GPUs compute, with overlap."""
        return self.computing / self.with_overlap

    def to_json(self) -> dict:
        tokens = ROWS * LENGTH
        return asdict(self) | {
            "tokens_per_second": tokens / self.with_overlap,
            "tokens_per_second_without_overlap": tokens / self.without_overlap,
            "efficiency": self.efficiency,
            "efficiency_without_overlap": self.computing / self.without_overlap,
        }


def memory(work: Work, strategy: str, n: int) -> int:
    """Bytes of a rank: the plan's for one process, with its parts divided as the strategy does (ZeRO, arXiv:1910.02054;
    FSDP, arXiv:2304.11277), and what it holds beside: DDP and ZeRO-1 a second copy of the gradients, sharded weights two
    layers and what is outside of the layers, gathered.
    """
    setting = work.setting
    shape, own = setting.shape, setting.tuned.bytes
    divided = {
        "ddp": (),
        "zero1": ("optimizer",),
        "zero2": ("optimizer", "gradients"),
        "fsdp/zero3": ("optimizer", "gradients", "base", "adapter"),
    }[strategy]
    beside = own if strategy in ("ddp", "zero1") else 0
    if strategy == "fsdp/zero3":
        beside = BYTES[DTYPE] * (2 * shape.in_a_layer + shape.outside)
    need = stage_need.need_of(setting)
    phases = [
        Phase(one.name, {name: size // (n if name in divided else 1) for name, size in one.parts.items()})
        for one in need.phases
    ]
    phases = [replace(one, parts=one.parts | {"beside": beside}) for one in phases]
    return Need(tuple(phases)).bytes


def step(work: Work, strategy: str, cluster: Cluster) -> Step:
    """A step of ROWS rows, dealt out to all GPUs: those of each go through in passes of A_PASS."""
    n, setting = cluster.gpus, work.setting
    passes = ROWS // (n * A_PASS)
    if not passes:
        raise ValueError(f"{ROWS} rows are too few for {n} GPUs")
    of_pass = A_PASS * LENGTH * work.flops_of_token / (cluster.flops * cluster.utilization)
    # of a pass the share that is backward, with the forward that is done again
    backward = of_pass * (1 - (work_forward(work) / work.flops_of_token))
    layers, trained = setting.shape.layers, setting.tuned.bytes
    weights = trained if work.method == "full" else BYTES[DTYPE] * setting.shape.parameters + trained
    computing = passes * of_pass
    if strategy == "fsdp/zero3":
        # Each pass gathers the weights twice, and reduces the gradients that there are.
        sent = passes * (2 * half_of_it(weights, n) + half_of_it(trained, n))
        sending = cluster.seconds(sent, passes * 3 * layers)
        exposed = max(sending - computing, 0) + sending / (passes * 3 * layers)
    elif strategy == "zero2":
        # Gradients are reduced in each pass; the trained weights are gathered after the update, with nothing to hide behind.
        reduced, gathered = passes * half_of_it(trained, n), half_of_it(trained, n)
        sent = reduced + gathered
        first, last = cluster.seconds(reduced, passes * layers), cluster.seconds(gathered, layers)
        sending, exposed = first + last, max(first - passes * backward, 0) + last
    elif strategy == "zero1":
        reduced, gathered = half_of_it(trained, n), half_of_it(trained, n)
        sent = reduced + gathered
        first, last = cluster.seconds(reduced, layers), cluster.seconds(gathered, layers)
        sending, exposed = first + last, max(first - backward, 0) + last
    else:
        sent = all_reduce(trained, n)
        sending = cluster.seconds(sent, layers, rings=2)
        exposed = max(sending - backward, 0) + sending / layers
    held = memory(work, strategy, n)
    fits = held <= card.named(ASSUMED["memory_gb"][0]).bytes
    return Step(n, strategy, held, fits, sent, computing, sending, computing + exposed, computing + sending)


def work_forward(work: Work) -> float:
    """Operations of a token's first forward."""
    shape = work.shape
    return 2 * (shape.parameters - shape.embeddings) + 2 * shape.layers * LENGTH * shape.queries


def hidden_from(work: Work, cluster: Cluster) -> float:
    """Tokens of a pass of each GPU at which sharded weights are gathered as fast as the pass before computes: with fewer, it
    waits, however well the two overlap.
    """
    one = step(work, "fsdp/zero3", cluster)
    return A_PASS * LENGTH * one.sending / one.computing


def pays_until(work: Work, strategy: str, cluster: Cluster, least: float = 0.8, *, overlap: bool = True) -> int | None:
    """The most GPUs (8, 16, ... up to one row each) at which the step fits and at least this share of the time is computing."""
    found = None
    for gpus in (2**power for power in range(3, 20) if 2**power <= ROWS // A_PASS):
        one = step(work, strategy, replace(cluster, gpus=gpus))
        if one.fits and one.computing >= least * (one.with_overlap if overlap else one.without_overlap):
            found = gpus
    return found
