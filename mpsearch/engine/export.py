"""Members of a front as files that run or that other programs read, and the proof that these score what was said."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput, ObjectiveFailed, OutOfResources
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.site import Role
from mpsearch.deploy.packed import load_packed, write_packed
from mpsearch.deploy.packed_file import Sizes
from mpsearch.deploy.packed_module import PackedModule
from mpsearch.deploy.tool_configs import Told, modelopt, torchao
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import refuse_other_weights
from mpsearch.engine.result import RunResult
from mpsearch.engine.variants import build_variants, fingerprint
from mpsearch.problem.build import batches_of, build_problem, make_objective, prepare_machine
from mpsearch.problem.finetune import means
from mpsearch.problem.frozen import FrozenModel, frozen, frozen_trained
from mpsearch.problem.inputs import example
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Objective, Split
from mpsearch.problem.trained import Trained

JSON_SCHEMA = "mpsearch.assignment/1"
TEXTS = {"json": "assignment.json", "torchao": "torchao.json", "modelopt": "modelopt.yaml"}
"""Formats that are texts, by the file that they are written to."""
_MEMORY = "memory_bytes"


@dataclass(frozen=True)
class Claim:
    """One number that the run gives for a member, beside what its packed file gives.

    Args:
        measure: its name.
        split: that it was scored on; None where it follows from the file alone.
        claimed: by the run.
        found: again.
    """

    measure: str
    split: str | None
    claimed: float
    found: float

    @property
    def holds(self) -> bool:
        """Whether both are the same number."""
        return self.claimed == self.found


def export_packed(
    result: RunResult, member: Evaluation, folder: Path, problems: Mapping[str, ModelProblem] | None = None
) -> Sizes:
    """Write `member` as a packed file into `folder`.

    Args:
        problems: of the run by variant, where they were built before.

    Raises:
        BadInput: the model, its weights or those of the member are not there any more, or cannot be packed.
        OutOfResources: the folder cannot be written.
    """
    model = frozen_member(result, member, (problems or problems_of(result))[member.variant])
    return write_packed(folder, model, facts(result, member))


def export_text(result: RunResult, member: Evaluation, folder: Path, kind: str) -> Path:
    """Write the formats of `member`: as a plain map (`json`), or as the configuration of a tool (`tool_configs`).

    Raises `BadInput` where the file is there already or the tool cannot express a site, `OutOfResources` where it
    cannot be written.
    """
    path = folder / TEXTS[kind]
    if path.exists():
        raise BadInput(f"{path} exists and is kept; name another folder.")
    if kind == "json":
        text = json.dumps(_map(result, member), indent=1, allow_nan=False) + "\n"
    else:
        entries = {e["name"]: e for e in _entries(result, member)}
        told = {
            name: Told(fmt, Role(entries[name]["role"]), tuple(entries[name]["shape"]))
            for name, fmt in member.assignment.items()
        }
        text = json.dumps(torchao(told), indent=1) + "\n" if kind == "torchao" else yaml.safe_dump(modelopt(told))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutOfResources(f"{path}: cannot be written ({error.strerror}); name another folder.") from error
    return path


def _map(result: RunResult, member: Evaluation) -> dict[str, Any]:
    """Format, bits, role and shape of every site that has a choice, and what was measured."""
    sites = {
        entry["name"]: {
            "format": str(fmt := member.assignment.at(entry["name"])),
            "bits": fmt.bits,
            "role": entry["role"],
            "shape": entry["shape"],
        }
        for entry in _entries(result, member)
        if entry["choice"] is not None
    }
    return {"schema": JSON_SCHEMA, **facts(result, member), "sites": sites}


def _entries(result: RunResult, member: Evaluation) -> list[dict[str, Any]]:
    """The sites of the member's model, as the run folder tells of them."""
    path = Folder(result.folder).of(member.variant).sites
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); resume the run to make it again.") from error


def problems_of(result: RunResult) -> dict[str, ModelProblem]:
    """The problems of a run by variant, built again.

    Raises `BadInput` where a model or its weights are not what they were.
    """
    files, spec = Folder(result.folder), result.spec
    prepare_machine(spec)
    trains = make_objective(spec).trains
    for variant in spec.by_variant:
        weights = files.of(variant).weights
        if trains and not weights.is_file():
            raise BadInput(
                f"{weights} is missing: the run has lost the float weights it was searched with; restore the file, or "
                "search again."
            )
    problems = build_variants(spec, build_problem, files)
    refuse_other_weights(result.folder, spec, fingerprint(problems))
    return problems


def frozen_member(result: RunResult, member: Evaluation, problem: ModelProblem) -> FrozenModel:
    """The model of `problem` as the run scored it at `member`."""
    if member.recipe is None:
        return frozen(problem, member.assignment)
    weights = Folder(result.folder).member_weights(member.key)
    if not weights.is_file():
        raise BadInput(f"{weights} is missing: the run has lost the weights of this member; restore the file.")
    return frozen_trained(problem, Trained.load(weights))


def facts(result: RunResult, member: Evaluation) -> dict[str, Any]:
    """Which member of which run it is, and what that measured."""
    spec, test = result.spec, result.test.get(member.key)
    resolved = spec.resolved
    return {
        "member": {
            "key": member.key,
            "recipe": member.recipe,
            "variant": member.variant,
            "assignment": member.assignment.texts(),
            "measures": dict(member.measures),
            "stderr": dict(member.stderr),
            "test": dict(test.measures) if test is not None and test.failure is None else None,
        },
        "run": {
            "folder": str(result.folder.absolute()),
            "space": spec.name,
            "driver": spec.driver.use,
            "seed": spec.seed,
            "spec_sha256": spec.sha256,
            "space_sha256": resolved.space_sha256 if resolved else None,
            "objective": spec.objective.use,
            "objective_sha256": resolved.objective_sha256 if resolved else None,
            "weights_sha256": resolved.fingerprint if resolved else None,
        },
    }


def verify(result: RunResult, member: Evaluation, packed: Path | None = None) -> list[Claim]:
    """Score the packed file of `member` on the validation and the test split of the run.

    Args:
        packed: the file, or the folder that has it; None to pack it now.

    Raises:
        BadInput: there is no such file, it is damaged, or of another member; the objective is gone.
        ObjectiveFailed: the objective does not score it.
    """
    if packed is not None:
        return _claims(result, member, load_packed(packed), packed)
    with tempfile.TemporaryDirectory() as folder:
        export_packed(result, member, Path(folder))
        return _claims(result, member, load_packed(folder), Path(folder))


def _claims(result: RunResult, member: Evaluation, module: PackedModule, packed: Path) -> list[Claim]:
    told = {part: module.manifest.get(part, {}) for part in ("member", "run")}
    recorded = facts(result, member)
    if told["member"].get("key") != member.key:
        raise BadInput(
            f"{packed} is member {told['member'].get('key')}, and the pick is {member.key}; export that one."
        )
    if told["run"].get("weights_sha256") != recorded["run"]["weights_sha256"]:
        raise BadInput(f"{packed} was made of other float weights than those of {result.folder}; export it again.")
    device = prepare_machine(result.spec)
    torch.set_num_threads(module.manifest["threads"])
    module.to(device)
    objective = make_objective(result.spec.by_variant[member.variant])
    claims = [Claim(_MEMORY, None, member.measures[_MEMORY], module.sizes.tensor_bytes)]
    splits: dict[Split, Mapping[str, float] | None] = {
        "validation": member.measures,
        "test": recorded["member"]["test"],
    }
    for split, claimed in splits.items():
        if claimed is not None:
            found = score(module, objective, split, device)
            claims += [Claim(name, split, claimed[name], found[name]) for name in found if name in claimed]
    return claims


def score(module: PackedModule, objective: Objective, split: Split, device: torch.device) -> dict[str, float]:
    """What `objective` measures of `module` on a split."""
    batches, outputs = batches_of(objective, split), []
    for batch in batches:
        given = example(batch, device)
        degrees = {} if given.degrees is None else {"degrees": given.degrees}
        output = module(*given.args, **given.kwargs, **(degrees if module.takes_degrees else {}))
        outputs.append(pytree.tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, output))
    try:
        return means(objective.metric(outputs, [batch.target for batch in batches]))
    except Exception as error:  # the objective is the user's code
        raise ObjectiveFailed(
            f"the objective's metric raised {type(error).__name__} on the packed model's outputs: {error}"
        ) from error
