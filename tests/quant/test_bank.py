"""The bank makes each thing once while it fits, and the same again when it does not."""

import pytest
import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.quant.bank import Bank

FORMATS = [Format("int", 2), Format("int", 4), Format("fp", 16), Format("int", 4, ("g8",))]
SITES = [Site(f"w{i}", Role.WEIGHT, (4, 25)) for i in range(3)]
BYTES = 400


class Samples:
    """Floats by name, counting how often they are fetched."""

    def __init__(self) -> None:
        self.fetched = 0

    def __call__(self, name: str) -> Tensor:
        self.fetched += 1
        return torch.randn(4, 25, generator=torch.Generator().manual_seed(ord(name[-1])))


def test_all_fits_is_made_once() -> None:
    samples = Samples()
    bank = Bank(samples, limit_bytes=BYTES * len(SITES) * len(FORMATS))
    first = {(site.name, fmt): bank.get(site, fmt) for site in SITES for fmt in FORMATS}
    fetched = samples.fetched
    for site in SITES:
        for fmt in FORMATS:
            tensor, grid = bank.get(site, fmt)
            assert (tensor, grid) == first[site.name, fmt]
            assert tensor is first[site.name, fmt][0]
            assert torch.equal(tensor, grid.round_trip(samples(site.name)))
    assert samples.fetched == fetched + len(SITES) * len(FORMATS)  # the test's own
    assert bank.held_bytes == BYTES * len(SITES) * len(FORMATS)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_limit_holds_and_changes_no_value(kept: int) -> None:
    bank, ample = Bank(Samples(), kept * BYTES + 1), Bank(Samples(), 1 << 20)
    for _ in range(2):
        for site in SITES:
            for fmt in FORMATS:
                tensor, grid = bank.get(site, fmt)
                assert torch.equal(tensor, ample.get(site, fmt)[0])
                assert bank.grid(site, fmt) is grid, "grids are never dropped"
                assert bank.held_bytes <= kept * BYTES


def test_the_least_recently_used_goes_first() -> None:
    bank = Bank(Samples(), 2 * BYTES)
    a, _ = bank.get(SITES[0], FORMATS[0])
    b, _ = bank.get(SITES[1], FORMATS[0])
    assert bank.get(SITES[0], FORMATS[0])[0] is a
    bank.get(SITES[2], FORMATS[0])
    assert bank.get(SITES[0], FORMATS[0])[0] is a
    assert bank.get(SITES[1], FORMATS[0])[0] is not b


def test_a_bad_format_is_named() -> None:
    bank = Bank(Samples(), BYTES)
    with pytest.raises(BadInput, match="unknown quantizer 'imt'"):
        bank.get(SITES[0], Format("imt", 4))
    with pytest.raises(BadInput, match="no 9 bits"):
        bank.get(SITES[0], Format("int", 9))
