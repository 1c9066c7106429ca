"""The networks, what is searched in each, and how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Spec

ROOT = Path(__file__).resolve().parents[3]
_WEIGHTS = {
    8: "",
    6: "",
    4: "int4:mse, int4:affine, int4:g64, esb4, nvfp4, sub4",
    3: "int3:mse, int3:affine, int3:g64, pow3",
    2: "",
}
_VALUES = {8: "", 6: "", 4: "int4:p99.9, esb4, nvfp4", 3: "int3:p99.9, pow3", 2: ""}
_FEW_WEIGHTS = {8: "", 4: "int4:affine, esb4, nvfp4", 3: "int3:affine"}
_FEW_VALUES = {8: "", 4: "nvfp4", 3: ""}


@dataclass(frozen=True)
class Case:
    """A network.

    Args:
        space: file of the objective and the ties; its rules and goals give way to those below.
        title: of the page.
        data: the network and its splits, in sentences.
        loss: the measure that is searched.
        limit: on it, for the front.
        shown: the measure that people quote of the network.
        bits: of weights and of values, on average, at most: each is a search.
        budget: evaluations of one search, controls included.
        seeds: of the searches.
        weights, values: formats to choose from.
        tested: members of the front that are scored on the test split.
        fixed: (match, format) of sites that are not searched.
        note: what the page says of them.
        settings: further overrides of the space, as of `--set`.
        swept_weights, swept_values: formats that are tried everywhere beside integers, by bits.
    """

    space: str
    title: str
    data: str
    loss: str
    limit: str
    shown: str
    budget: int
    bits: Sequence[float] = (4, 3)
    seeds: Sequence[int] = (0,)
    weights: str = "int3, int4, int6, int8"
    values: str = "int3, int4, int6, int8"
    tested: int = 3
    fixed: Sequence[tuple[str, str]] = ()
    note: str = ""
    settings: Sequence[str] = ()
    swept_weights: Mapping[int, str] = field(default_factory=lambda: _WEIGHTS)
    swept_values: Mapping[int, str] = field(default_factory=lambda: _VALUES)

    @property
    def maximises(self) -> bool:
        """Whether more of what is shown is better."""
        return self.shown != "perplexity"

    def spec(self, weights: str, values: str, *more: str) -> Spec:
        """The space, with these formats for what is searched."""
        rules = [*self.fixed, ("{role: [weight, embedding]}", weights), ("{role: [activation, cache]}", values)]
        sites = ", ".join(f"{{match: {match}, formats: [{formats}]}}" for match, formats in rules)
        up = str(self.loss != "log_loss").lower()
        loss = f"{{name: {self.loss}, maximise: {up}, limit: '{self.limit}'}}"
        settings = [f"sites=[{sites}]", f"goals=[{loss}, {{name: bops}}]", "engine.threads=1", *self.settings, *more]
        return load_spec(ROOT / "search_spaces" / f"{self.space}.yaml", settings)


_SUMS = (('"*:out"', "int8"), ('"*norm:in"', "int8"), ('"*LayerNorm:in"', "int8"), ('"*:sum*"', "int8"))
CASES = {
    "stories260k": Case(
        space="stories_lm",
        title="stories260K, a Llama of 260,032 weights, on TinyStories",
        data="Stories of at most 256 tokens: 8 calibrate, 24 validate, 60 test.",
        loss="log_loss",
        limit="<= baseline + 2",
        shown="perplexity",
        budget=40,
        weights="int2:affine:mse, int3:affine:mse, int4:affine:mse, int5:affine:mse, int6:affine:mse, int8:affine:mse",
        values="int2, int3, int4, int5, int6, int8, nvfp4, rowrange3, rowrange4",
        fixed=(_SUMS[0], _SUMS[1], _SUMS[3]),
        note="Residual sums, which the normalisations read, have 8 bits; scores and probabilities of attention are "
        "float.",
        settings=("objective.options.length=256", "objective.options.batch_size=8"),
    ),
    "resnet20": Case(
        space="cifar_resnet20",
        title="ResNet-20 on CIFAR-10",
        data="Weights fine-tuned on images in JPEG (`resnet20_jpegft`). 250 training images calibrate; of the test "
        "images 500 of the first half validate, and the 5,000 of the second half test.",
        loss="log_loss",
        limit="<= baseline + 0.6",
        shown="accuracy",
        budget=40,
        weights="int2:affine, int3:affine, int4:affine, int5:affine, int6:affine, int8:affine",
        values="int2, int3, int4, int5, int6, int8",
        tested=3,
        note="First and last layer are quantized as all others, and so are residual sums and the image. The float "
        "network is overconfident: a little noise lowers its log-loss, so that what is wider than 4 bits is not on the "
        "front.",
        settings=("objective.options.validation=500", "objective.options.batch_size=50"),
    ),
    "minilm": Case(
        space="minilm_sts",
        title="all-MiniLM-L6-v2 on the STS Benchmark",
        data="64 training pairs calibrate, 60 pairs of the dev part, evenly spaced by length, validate, all 1,379 of "
        "the test part test.",
        loss="spearman",
        limit=">= baseline - 0.5",
        shown="spearman",
        budget=40,
        weights="int2:affine, int3:affine, int4:affine, int6:affine, int8:affine",
        values="int2, int3, int4, int6, int8, nvfp4, rowrange3, rowrange4",
        tested=0,
        fixed=(('"*embeddings.weight"', "int4"), _SUMS[0], _SUMS[2]),
        note="Embeddings have 4 bits and residual sums, which the normalisations read, 8; scores and probabilities of "
        "attention are float.",
        swept_weights=_FEW_WEIGHTS,
        swept_values=_FEW_VALUES,
        settings=("objective.options.validation=60", "objective.options.batch_size=20"),
    ),
    "efficientnet_lite0": Case(
        space="imagenet_efficientnet_lite0",
        title="EfficientNet-Lite0 on 1,000 images of ImageNet",
        data="One image of each class, and no other data: in a fixed random order 50 calibrate, the next 450 are for "
        "validation (the search scores 60 of them), the last 500 test. The splits are disjoint but small, and most "
        "images are probably of the training set of ImageNet.",
        loss="log_loss",
        limit="<= baseline + 4",
        shown="accuracy",
        budget=30,
        weights="int2:affine, int3:affine, int4:affine, int6, int8",
        values="int2, int3, int4, int6, int8",
        tested=0,
        note="All layers are quantized, first, last and depthwise ones too.",
        swept_weights=_FEW_WEIGHTS,
        swept_values=_FEW_VALUES,
        settings=("objective.options.validation=60", "tie=[]"),
    ),
}
