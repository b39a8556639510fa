"""Curvature and the parameters that live on it: exact, positive, copied and saved whole."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from hyperbolic import lorentz
from hyperbolic.curvature import Curvature, LorentzParameter


class Proxies(nn.Module):
    def __init__(self, c=0.5, seed=0):
        super().__init__()
        self.curvature = Curvature(c)
        z = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        self.points = LorentzParameter(lorentz.expmap0(z, self.curvature()), self.curvature)


def test_one_is_exactly_one():
    assert float(Curvature(1.0)().detach()) == 1.0
    assert float(Curvature(1.0, learnable=False)()) == 1.0


@settings(max_examples=50)
@given(st.floats(1e-6, 1e4))
def test_the_start_is_exact_to_float32(initial):
    assert torch.equal(Curvature(initial)().detach(), torch.tensor(initial, dtype=torch.float32))


@settings(max_examples=50)
@given(st.floats(-80.0, 80.0))
def test_c_stays_positive_and_moves_by_exponentials(step):
    curvature = Curvature(0.1)
    with torch.no_grad():
        curvature.log_ratio.fill_(step)
    c = curvature().detach()
    assert float(c) > 0
    assert torch.allclose(c.double(), 0.1 * torch.tensor(step, dtype=torch.float64).exp(), rtol=1e-4)


def test_gradient_and_frozen():
    curvature = Curvature(0.3)
    curvature().backward()
    assert float(curvature.log_ratio.grad) == pytest.approx(0.3)
    frozen = Curvature(0.3, learnable=False)
    assert not frozen().requires_grad
    assert [name for name, _ in frozen.named_parameters()] == ["log_ratio"]
    assert "c=0.3, learnable=False" in repr(frozen)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_curvatures_are_refused(bad):
    with pytest.raises(ValueError, match="pass c, not -c"):
        Curvature(bad)


def test_state_dict_carries_the_learned_c_into_any_start():
    learned = Curvature(0.1)
    with torch.no_grad():
        learned.log_ratio.fill_(0.37)
    other = Curvature(1.0)
    other.load_state_dict(learned.state_dict())
    assert torch.equal(other(), learned())


def check_together(model, like):
    assert isinstance(model.points, LorentzParameter)
    assert model.points.curvature is model.curvature
    assert torch.equal(model.points.detach(), like.points.detach())
    assert model.points.requires_grad
    assert dict(model.named_parameters()).keys() == {"points", "curvature.log_ratio"}


def test_deepcopy_and_pickle_keep_points_and_curvature_together():
    model = Proxies()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 - our own bytes
        check_together(copied, model)
        assert copied.curvature is not model.curvature
        assert copied.points.data_ptr() != model.points.data_ptr()


def test_state_dict_and_safetensors(tmp_path):
    model = Proxies()
    with torch.no_grad():
        model.curvature.log_ratio.fill_(0.2)
    state = model.state_dict()
    assert type(state["points"]) is torch.Tensor
    save_file(state, tmp_path / "m.safetensors")
    other = Proxies(c=2.0, seed=1)
    points = other.points
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert other.points is points
    check_together(other, model)
    assert torch.equal(other.curvature(), model.curvature())
    torch.save(state, tmp_path / "m.pt")
    assert torch.equal(torch.load(tmp_path / "m.pt", weights_only=True)["points"], model.points.detach())


def test_moving_a_module_keeps_the_parameter_a_lorentz_parameter():
    model = Proxies().double().to("cpu")
    assert isinstance(model.points, LorentzParameter)
    assert model.points.curvature is model.curvature
    assert model.points.dtype == torch.float64
    assert type(model.points + 0) is torch.Tensor


def test_points_must_have_a_time_and_a_space_part():
    with pytest.raises(ValueError, match=r"expected points of shape"):
        LorentzParameter(torch.zeros(3, 1), Curvature(1.0))
