"""The space file as frozen, validated values. What a key means is its field's description, shown by editors.

Types are strict (the text "3" is not the number 3) and unknown keys are refused, so no typo passes.
Names of drivers, formats and objectives are checked in `mpsearch.spec.check`, which needs the registry.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator as After
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from mpsearch.core.evaluation import BASE
from mpsearch.core.goal import Goal, Limit
from mpsearch.core.site import Role, Site
from mpsearch.spec.menus import is_word
from mpsearch.spec.texts import FormatTexts, LimitText, StartTexts, Text, TimeText, distinct, parse_time_s, rising

DEFAULT_BUDGET = 200


def card_name(text: str | Path) -> str:
    """The name of the card in a file, or that a goal names: without folder and `.yaml`."""
    return re.sub(r"\.ya?ml$", "", Path(text).name)


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) and is_word(value) else value


def _as_match(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and isinstance(value.get("role"), str):
        return {**value, "role": [value["role"]]}
    return value


class Part(BaseModel):
    """A frozen part of the spec that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ObjectiveSpec(Part):
    use: Text = Field(description="A bundled objective, or a Python file[:Class] relative to the space file.")
    options: dict[StrictStr, Any] = Field(default={}, description="Keyword arguments of the class.")
    noisy: StrictBool = Field(default=False, description="Whether scoring the same model twice may differ.")


class VariantsSpec(Part):
    """Shapes of the model that are searched side by side: its widths, say."""

    option: Text = Field(description="Of the objective, in which they differ: width. Replaces what its options say.")
    values: Annotated[
        tuple[Annotated[StrictInt | StrictFloat, Field(gt=0, allow_inf_nan=False)], ...],
        Field(min_length=1),
        After(distinct),
    ] = Field(description="The first is the base: limits and ratios refer to its float model.")

    @property
    def of(self) -> dict[str, int | float]:
        """Name of each variant to its value, the base first: `base`, `width=2`."""
        names = [BASE, *(f"{self.option}={value}".removesuffix(".0") for value in self.values[1:])]
        return dict(zip(names, self.values, strict=True))


class Match(Part):
    name: Text = Field(default="*", description="Glob on the site name.")
    role: tuple[Role, ...] | None = Field(default=None, min_length=1, description="Any of these roles; null for all.")

    def accepts(self, site: Site) -> bool:
        """Whether both the name and the role fit."""
        named = any(fnmatch.fnmatchcase(name, self.name) for name in (site.name, site.whole))
        return named and (self.role is None or site.role in self.role)


MatchText = Annotated[Match, BeforeValidator(_as_match, json_schema_input_type=str | Match)]


class BinsSpec(Part):
    by: Literal["degree"] = Field(default="degree", description="What nodes are told apart by: their in-degree.")
    edges: Annotated[tuple[Annotated[StrictInt, Field(gt=0)], ...], Field(min_length=1), After(rising)] | None = Field(
        default=None, description="Degrees at which a bin begins, after the first: [4, 8] is 0-3, 4-7 and 8 on."
    )
    quantiles: Annotated[StrictInt, Field(ge=2)] | None = Field(
        default=None, description="Instead of edges: so many bins of about equally many nodes."
    )
    ranges: Literal["shared", "bin", "node"] = Field(
        default="shared",
        description="What a range is of: the nodes of all bins, those of each bin, or each node on its own (int4 is "
        "then rowrange4; formats other than integers keep a range of the bin).",
    )

    @model_validator(mode="after")
    def _one_of(self) -> BinsSpec:
        if (self.edges is None) == (self.quantiles is None):
            raise ValueError("bins need either 'edges' or 'quantiles', and not both")
        return self


class SiteRule(Part):
    match: MatchText = Field(description="Glob on the site name, or {role: ..., name: ...}; first match wins.")
    formats: Annotated[FormatTexts, BeforeValidator(_as_list, json_schema_input_type=Text | FormatTexts)] = Field(
        description="Formats to choose from, for example [int2, int4, int8]; a scheme's name is all that it offers, "
        "and all is every scheme."
    )
    bins: BinsSpec | None = Field(
        default=None,
        description="Split features, messages, attention or aggregates of a GNN: a site for each bin of nodes.",
    )


class TieRule(Part):
    group: Annotated[tuple[Text, ...], Field(min_length=2), After(distinct)] | None = Field(
        default=None, description="Sites whose names are equal but for this one component decide together."
    )
    match: Text | None = Field(default=None, description="All sites that this glob matches decide together.")

    @model_validator(mode="after")
    def _one_of(self) -> TieRule:
        if (self.group is None) == (self.match is None):
            raise ValueError("a tie needs either 'group' or 'match', and not both")
        return self


class GoalSpec(Part):
    name: Text = Field(description="A measure of the objective, or a cost such as memory_bytes.")
    accelerator: Text | None = Field(
        default=None,
        description="Card of the device that latency_s, energy_j, memory_bytes or activation_peak_bytes is meant for: "
        "a bundled name, or a YAML file relative to the space file.",
    )
    maximise: StrictBool = False
    limit: LimitText | None = Field(
        default=None, description="Members of the front must meet it: '<= 200000' or '>= baseline - 0.01'."
    )

    @property
    def measure(self) -> str:
        """Name of the measure: `latency_s@nvidia-t4` for one of an accelerator."""
        return self.name if self.accelerator is None else f"{self.name}@{card_name(self.accelerator)}"

    def goal(self) -> Goal:
        """The noun that the search works with."""
        return Goal(self.measure, self.maximise, Limit.parse(self.limit) if self.limit else None)


class DriverSpec(Part):
    use: Text = Field(default="auto", description="auto: exhaustive if the budget covers the space, else frontier.")
    budget: Annotated[StrictInt, Field(gt=0)] | None = Field(
        None,
        description=f"Distinct evaluations, controls included; {DEFAULT_BUDGET} if no time is given.",
    )
    time: TimeText | None = Field(default=None, description="Instead of a budget: 90s, 10m, 1.5h.")
    options: dict[StrictStr, Any] = Field(default={}, description="Keyword arguments of the driver.")

    @model_validator(mode="before")
    @classmethod
    def _default_budget(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("budget") is None and data.get("time") is None:
            return {**data, "budget": DEFAULT_BUDGET}
        return data

    @model_validator(mode="after")
    def _one_end(self) -> DriverSpec:
        if self.budget is not None and self.time is not None:
            raise ValueError("a run ends by 'budget' or by 'time', not both; set one of them to null")
        return self

    @property
    def time_s(self) -> float | None:
        """Wall time the search may take; None if a budget ends it."""
        return None if self.time is None else parse_time_s(self.time)


class RacingSpec(Part):
    enabled: StrictBool = Field(
        default=False,
        description="Whether an evaluation ends early once the front surely beats it; needs scores of single samples.",
    )
    confidence: Annotated[StrictFloat, Field(gt=0.5, lt=1)] = Field(
        default=0.95, description="That an assignment ended early would not have joined the front."
    )
    tolerance: Annotated[StrictFloat, Field(ge=0)] = Field(
        default=0.0,
        description="How much better than a member of the front, in its standard errors, it may still be when it ends.",
    )


class QuantizationSpec(Part):
    bias_correction: Literal["sequential", "per_site", "none"] = "sequential"


class Recipe(Part):
    """How an assignment is finetuned."""

    epochs: Annotated[StrictInt, Field(gt=0)] = Field(default=5, description="Passes over the training data.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="sgd has a momentum of 0.9.")
    learning_rate: Annotated[StrictFloat, Field(gt=0)] = Field(
        default=1e-3, description="Of the first epoch; it falls along a cosine to a hundredth in the last."
    )
    weight_decay: Annotated[StrictFloat, Field(ge=0)] = 0.0
    method: Text = Field(
        default="lsq",
        description="What stands at the sites meanwhile: lsq (steps of uniform grids are learned), ste (fitted after "
        "each epoch), prune (zeros of pruned weights are added epoch by epoch), pq (codebooks are trained); mpsearch "
        "list learners.",
    )
    options: dict[StrictStr, Any] = Field(default={}, description="Keyword arguments of the method.")
    distill: Annotated[StrictFloat, Field(ge=0, le=1)] = Field(
        default=0.0, description="Share of the loss that is the divergence from the float model's outputs."
    )
    temperature: Annotated[StrictFloat, Field(gt=0)] = Field(
        default=1.0,
        description="That logits are divided by in this divergence; less than 1 where the float model is unsure.",
    )
    patience: Annotated[StrictInt, Field(gt=0)] | None = Field(
        default=None, description="Epochs without a better validation score after which training stops; null for never."
    )

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that name the recipe in the ledger."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class FinetuneSpec(Recipe):
    """What is finetuned once the search is over."""

    top: Annotated[StrictInt, Field(gt=0)] = Field(
        default=10, description="How many assignments are finetuned: those that together have the largest hypervolume."
    )

    @property
    def recipe(self) -> Recipe:
        """By which each of them is."""
        return Recipe.model_validate(self.model_dump(include=set(Recipe.model_fields)))


class EngineSpec(Part):
    device: Annotated[StrictStr, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = Field(
        default="cpu", description="cpu, cuda, cuda:N."
    )
    threads: Annotated[StrictInt, Field(gt=0)] | None = Field(
        default=None, description="Of the CPU; null for one, or for all cores where a batch of the model is large."
    )
    cache_bytes: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None, description="For cached activations; null for a quarter of the free memory."
    )


class TrackingSpec(Part):
    enabled: StrictBool = True
    experiment: Text | None = Field(default=None, description="MLflow experiment; null for the name of the space.")
    uri: Text | None = Field(default=None, description="MLflow tracking URI; null for SQLite in the working directory.")
    required: StrictBool = Field(default=False, description="Whether a server that does not answer ends the run.")


class Resolved(Part):
    """Facts about the inputs of a run, kept with it. Files are absolute paths."""

    space_file: str
    space_sha256: str
    objective_file: str
    objective_class: str
    objective_sha256: str
    fingerprint: str = ""
    versions: dict[str, str] = {}
    limits: tuple[str, ...] = ()
    """What this way of running the model cannot do; empty for the exported graph."""
    cards: dict[str, str] = {}
    """SHA-256 of the card of each accelerator that a goal names, by the card's name."""


class Spec(Part):
    """A run as a value: everything that decides what is searched and how."""

    schema_: Literal["mpsearch.space/1"] = Field(default="mpsearch.space/1", alias="schema")
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Letters, digits, dot, dash and underscore: it names the run folder."
    )
    objective: ObjectiveSpec
    variants: VariantsSpec | None = Field(
        default=None, description="Shapes of the model that are searched side by side; null for the one."
    )
    data_root: Text | None = Field(
        default=None, description="Folder of data sets; null for the variable MPSEARCH_DATA."
    )
    sites: Annotated[tuple[SiteRule, ...], Field(min_length=1)] = Field(
        description="First match wins; sites that match no rule stay fp32."
    )
    tie: tuple[TieRule, ...] = ()
    untie: Annotated[tuple[Literal["residual", "qkv"], ...], After(distinct)] = Field(
        default=(), description="Default ties to switch off."
    )
    goals: Annotated[tuple[GoalSpec, ...], Field(min_length=1)] = Field(description="The axes of the front.")
    driver: DriverSpec = Field(default_factory=lambda: DriverSpec.model_validate({}))
    racing: RacingSpec = RacingSpec()
    seed: Annotated[StrictInt, Field(ge=0)] = 0
    quantization: QuantizationSpec = QuantizationSpec()
    finetune: FinetuneSpec | None = Field(
        default=None, description="Train the most promising assignments after the search; null for none."
    )
    engine: EngineSpec = EngineSpec()
    tracking: TrackingSpec = TrackingSpec()
    start: tuple[StartTexts, ...] = Field(
        default=(), description="Known assignments to evaluate first: {glob on sites: format}."
    )
    resolved: Resolved | None = None

    @model_validator(mode="after")
    def _distinct_goals(self) -> Spec:
        distinct(tuple(goal.measure for goal in self.goals))
        return self

    @model_validator(mode="after")
    def _races_what_repeats(self) -> Spec:
        if self.racing.enabled and self.objective.noisy:
            raise ValueError("racing compares scores sample by sample, and objective.noisy says they do not repeat")
        return self

    @model_validator(mode="after")
    def _reaches_each_variant(self) -> Spec:
        budget = self.driver.budget
        if self.variants is not None and budget is not None and budget < len(self.variants.values):
            raise ValueError(f"driver.budget {budget} is less than one evaluation of each of the variants")
        return self

    @property
    def by_variant(self) -> dict[str, Spec]:
        """What each variant is built by, the base first; this spec alone where there are no others."""
        if self.variants is None:
            return {BASE: self}
        found = {}
        for name, value in self.variants.of.items():
            options = {**self.objective.options, self.variants.option: value}
            objective = self.objective.model_copy(update={"options": options})
            found[name] = self.model_copy(update={"objective": objective, "variants": None})
        return found

    @property
    def sha256(self) -> str:
        """Digest of what decides the outcome: all but tracking and paths, with the objective's code and the cards."""
        data = self.model_dump(mode="json", by_alias=True, exclude={"tracking", "resolved", "data_root"})
        data["objective_sha256"] = self.resolved.objective_sha256 if self.resolved else ""
        for goal in data["goals"]:
            if goal["accelerator"] is None:
                del goal["accelerator"]  # as before there were any
        for later in ("finetune", "variants"):
            if data[later] is None:
                del data[later]
        for rule in data["sites"]:
            if rule["bins"] is None:
                del rule["bins"]
        if self.resolved and self.resolved.cards:
            data["cards"] = self.resolved.cards
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a space file, for editors: completion, descriptions and checks while typing."""
    schema = Spec.model_json_schema(by_alias=True)
    schema["properties"].pop("resolved")
    schema["$defs"].pop("Resolved")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "mpsearch space"}
