"""from_torch on networks as people write them: equal to torch at drawn sizes, exported at another."""

import pytest
import torch
from export_agreement import agrees
from torch_survey import SURVEY


@pytest.mark.parametrize("name", SURVEY)
def test_networks_as_people_write_them(name):
    kind, make = SURVEY[name]
    torch.manual_seed(2)
    agrees(kind(), make, name)
