"""The cost model of a spec: measures of memory, of operations, and of each accelerator that a goal names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

from mpsearch.core.errors import BadInput
from mpsearch.core.space import Space
from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.arena import arena_bytes
from mpsearch.cost.device import energy, latency
from mpsearch.cost.graph_memory import Structure, graph_measures, notes_measures
from mpsearch.cost.kv_cache import cache_measures
from mpsearch.cost.layout import device_memory, device_peak
from mpsearch.cost.memory import PackedAt, Parameter, Value, chosen_measures, memory_measures
from mpsearch.cost.model import CostModel, Measure
from mpsearch.cost.operations import operation_measures
from mpsearch.cost.promotions import promotions
from mpsearch.cost.workload import Held, Workload
from mpsearch.spec.card import InPlace, Layout
from mpsearch.spec.find import find_card
from mpsearch.spec.schema import Spec


def accelerators(spec: Spec) -> dict[str, Accelerator]:
    """The accelerators that goals of `spec` name, by the text that names them. Raises `BadInput` on faulty cards."""
    resolved = spec.resolved
    beside = Path(resolved.space_file).parent if resolved is not None and resolved.space_file else Path.cwd()
    texts = dict.fromkeys(goal.accelerator for goal in spec.goals if goal.accelerator is not None)
    return {text: load_accelerator(find_card(text, beside)) for text in texts}


@dataclass(frozen=True)
class Computed:
    """What a graph computes on one batch, stores, holds, keeps between calls, and is about; and what SGQuant's authors
    count of it."""

    workload: Workload
    parameters: Sequence[Parameter]
    values: Sequence[Value]
    kept: Sequence[Held]
    structure: Structure | None
    noted: Sequence[tuple[Held, Fraction]]


def graph_costs(spec: Spec, space: Space, computed: Computed, packed: PackedAt) -> CostModel:
    """Every measure that follows from an assignment by arithmetic, for a model whose graph is known.

    Raises `BadInput` where a card does not fit the model.
    """
    measures = {
        **memory_measures(computed.parameters, computed.values, packed),
        **chosen_measures(computed.values, packed, chosen(space)),
        **cache_measures(computed.kept, packed),
        **graph_measures(computed.structure, computed.parameters, computed.values, packed),
        **notes_measures(computed.noted, packed),
        **operation_measures(computed.workload),
    }
    status, notes = {}, []
    devices = accelerators(spec)
    for goal in spec.goals:
        if goal.accelerator is not None:
            device = devices[goal.accelerator]
            measures[goal.measure] = _measure(goal.name, device, computed, packed)
            status[goal.measure] = device.card.status
    for device in devices.values():
        for capacity in device.capacities:  # whether an assignment fits is told, a goal or not
            name = f"{capacity.measure}@{device.card.name}"
            measures.setdefault(name, _measure(capacity.measure, device, computed, packed))
            status.setdefault(name, device.card.status)
        notes += promotions(device, computed.workload, space)
    planned = partial(arena_bytes, Layout(), InPlace(elementwise=False), computed.values, packed)
    return CostModel(measures, status, tuple(notes), computed.workload, planned)


def hooked_costs(
    spec: Spec, space: Space, parameters: Sequence[Parameter], values: Sequence[Value], packed: PackedAt, why: str
) -> CostModel:
    """The measures that are known of a model that runs by module hooks: memory alone.

    Args:
        why: the model cannot be exported.

    Raises `BadInput` where a goal names an accelerator.
    """
    named = [f"goals: {goal.name} on {goal.accelerator}" for goal in spec.goals if goal.accelerator is not None]
    if named:
        raise BadInput(f"{', '.join(named)}: it is computed from the exported graph, and there is none. {why}")
    memory = memory_measures(parameters, values, packed, knows_lifetimes=False)
    return CostModel({**memory, **chosen_measures(values, packed, chosen(space))})


def chosen(space: Space) -> frozenset[str]:
    """The sites that have several formats to choose from."""
    return frozenset(site for choice in space.choices if len(choice.options) > 1 for site in choice.sites)


def _measure(name: str, device: Accelerator, computed: Computed, packed: PackedAt) -> Measure:
    card = device.card
    match name:
        case "latency_s":
            return latency(device, computed.workload, packed)
        case "energy_j":
            return energy(device, computed.workload, packed)
        case "memory_bytes":
            return device_memory(card.layout, computed.parameters, computed.values, packed)
        case "activation_peak_bytes":
            return device_peak(card.layout, card.inplace, computed.values, packed)
    raise BadInput(f"goals: {name} has no accelerator; leave out accelerator: {card.name}.")
