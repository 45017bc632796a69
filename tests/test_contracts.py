"""`blindsr.testing`: each way to break a contract gets its own one-line message."""

import itertools

import pytest
import torch

from blindsr.estimators.base import Estimate, Estimation, Estimator, Metrics
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.plain import Joint
from blindsr.testing import (
    ContractError,
    check_estimator,
    check_image_prior,
    check_kernel_density,
    check_kernel_prior,
    check_optimizer,
)

OP = Degradation(2)


def good_kernels(n, generator):
    k = torch.rand(n, 1, 11, 11, generator=generator)
    return k / k.sum((1, 2, 3), keepdim=True)


class Prior:
    """Draws what `change` makes of good kernels."""

    kernel_size = 11

    def __init__(self, change=lambda k: k):
        self.change = change

    def sample(self, n, *, generator):
        return self.change(good_kernels(n, generator))


class Density(Prior):
    """A density that is right: one number, a standard normal, blends two kernels."""

    dim = 1

    def sample_z(self, n, *, generator):
        return torch.randn(n, 1, generator=generator)

    def log_prob(self, z):
        return -0.5 * z[:, 0] ** 2 - 0.9189385

    def kernel(self, z):
        a, b = good_kernels(2, torch.Generator().manual_seed(0))
        t = torch.sigmoid(z)[:, :, None, None]
        return t * a + (1 - t) * b


def with_(base, **methods):
    return type("Own", (base,), methods)()


def fails_on_purpose(*args, **kwargs):
    raise RuntimeError("out of kernels")


def no_gradient_in_z(self, z):
    return good_kernels(len(z), torch.Generator().manual_seed(0))


def endless_gradient(self, z):
    return (z[:, 0] * 0).sqrt() - 1


KERNEL_PRIORS = {
    "needs a method sample": object(),
    "fails: RuntimeError: out of kernels": Prior(fails_on_purpose),
    r"fails: TypeError: .*unexpected keyword argument 'generator'": with_(Prior, sample=lambda self, n: None),
    "returns ndarray, not a tensor": Prior(lambda k: k.numpy()),
    r"has shape \(7, 11, 11\); \(n, 1, K, K\) = \(7, 1, 11, 11\) is needed": Prior(lambda k: k[:, 0]),
    r"has shape \(7, 1, 9, 9\)": Prior(lambda k: k[..., :9, :9]),
    "holds values that are not finite": Prior(lambda k: k / 0),
    r"sample\(n\) holds values that are not finite": Prior(lambda k: (k * 0).long()),
    "has negative kernel values": Prior(lambda k: k - 0.01),
    "must sum to one; they are off by up to 1": Prior(lambda k: 2 * k),
    "draws from torch's global random state": with_(Prior, sample=lambda self, n, *, generator: good_kernels(n, None)),
    "a density needs dim": with_(Prior, log_prob=Density.log_prob),
}

DENSITIES = {
    "a density needs sample_z": with_(Prior, dim=1, log_prob=Density.log_prob),
    "a density needs log_prob": with_(Prior, dim=1, sample_z=Density.sample_z, kernel=Density.kernel),
    "a density needs kernel": with_(Prior, dim=1, sample_z=Density.sample_z, log_prob=Density.log_prob),
    "sample_z.* fails: RuntimeError": with_(Density, sample_z=fails_on_purpose),
    "sample_z.* returns ndarray, not a tensor": with_(
        Density, sample_z=lambda self, n, *, generator: torch.zeros(n, 1).numpy()
    ),
    r"sample_z\(n\) has shape \(7, 1\); \(n, dim\) = \(7, 2\)": with_(Density, dim=2),
    r"log_prob\(z\) fails: RuntimeError": with_(Density, log_prob=fails_on_purpose),
    r"log_prob\(z\) returns float, not a tensor": with_(Density, log_prob=lambda self, z: 0.5),
    r"log_prob\(z\) has shape \(7, 1\); \(n,\) = \(7,\)": with_(Density, log_prob=lambda self, z: -0.5 * z**2),
    "log_prob is not finite": with_(Density, log_prob=lambda self, z: z[:, 0].log() - torch.inf),
    r"log_prob\(z\) has no gradient in z": with_(Density, log_prob=lambda self, z: torch.zeros(len(z))),
    r"log_prob\(z\) has no finite gradient in z": with_(Density, log_prob=endless_gradient),
    r"kernel\(z\) fails: RuntimeError": with_(Density, kernel=fails_on_purpose),
    r"kernel\(z\) returns NoneType, not a tensor": with_(Density, kernel=lambda self, z: None),
    r"kernel\(z\) has shape \(2, 1, 11, 11\)": with_(Density, kernel=lambda self, z: Density().kernel(z)[:2]),
    r"kernel\(z\) has no gradient in z": with_(Density, kernel=no_gradient_in_z),
}


def wrong_gradient(x):
    return (x * 0).flatten(1).sum(1).sqrt()


IMAGE_PRIORS = {
    "needs a method energy": None,
    "fails: RuntimeError: out of kernels": fails_on_purpose,
    "must return one energy for each image": lambda x: x.sum(),
    "must return one energy for each image, ": lambda x: [0.0, 0.0],
    "energy.x. is not finite": lambda x: x.flatten(1).sum(1) / 0,
    "has no finite gradient": wrong_gradient,
    "has no gradient; keep to torch operations": lambda x: x.detach().flatten(1).sum(1),
}


def check_message(message, check, *arguments):
    with pytest.raises(ContractError, match=message) as caught:
        check(*arguments)
    assert "\n" not in str(caught.value)


def test_good_parts_pass():
    check_kernel_prior(Prior(), OP)
    check_kernel_prior(Density(), OP)
    check_kernel_density(Density(), OP)
    check_image_prior(with_(object, energy=lambda self, x: x.square().sum((1, 2, 3))))
    check_image_prior(with_(object, energy=lambda self, x: torch.zeros(len(x))))


def test_bad_kernel_priors():
    for message, prior in KERNEL_PRIORS.items():
        check_message(message, check_kernel_prior, prior, OP)


def test_a_prior_with_a_memory_of_its_own_is_found_out():
    calls = []

    def drift(k):
        calls.append(1)
        return torch.roll(k, len(calls), dims=0)

    check_message("other kernels for the same generator state", check_kernel_prior, Prior(drift), OP)


def test_bad_densities():
    for message, density in DENSITIES.items():
        check_message(message, check_kernel_density, density, OP)


def test_bad_image_priors():
    for message, energy in IMAGE_PRIORS.items():
        prior = object() if energy is None else with_(object, energy=lambda self, x, energy=energy: energy(x))
        check_message(message, check_image_prior, prior)


class KeepsImage(Joint):
    def step(self, run, energy):
        run.image_adam = None
        return super().step(run, energy)


class KeepsKernel(Joint):
    def step(self, run, energy):
        run.kernel_adam = None
        return super().step(run, energy)


class Explodes(Joint):
    def step(self, run, energy):
        done = super().step(run, energy)
        with torch.no_grad():
            run.image.pixels.fill_(float("nan"))
        return done


OPTIMIZERS = {
    "needs a method begin_outer": with_(object, step=lambda self, run, energy: None),
    "needs a method step": with_(object, begin_outer=lambda self, run, energy: None),
    r"begin_outer\(run, energy\) fails: RuntimeError": with_(Joint, begin_outer=fails_on_purpose),
    r"step\(run, energy\) fails: RuntimeError": with_(Joint, step=fails_on_purpose),
    r"step\(run, energy\) returns NoneType, not a blindsr Pass": with_(Joint, step=lambda self, run, energy: None),
    "makes parameters that are not finite": Explodes(),
    "80 steps leave the image block as it was": KeepsImage(),
    "80 steps leave the kernel as it was": KeepsKernel(),
}


def test_bad_optimizers():
    for message, optimizer in OPTIMIZERS.items():
        check_message(message, check_optimizer, optimizer)


class Walk(Estimation):
    """Walks from one kernel to another; all that it needs to go on is its step."""

    def __init__(self, settings, generator_state, step=0):
        self.settings, self.state, self.step = settings, generator_state, step

    def advance(self):
        self.step += 1
        return Metrics(self.step, *[0.0] * 6)

    def estimate(self):
        a, b = good_kernels(2, torch.Generator().set_state(self.state)).split(1)
        return Estimate(None, a.lerp(b, self.step / 10))

    def state_dict(self):
        return {"state": self.state, "step": self.step}


class Walker(Estimator):
    def steps_for(self, degradation):
        return 8

    def start(self, y, degradation, *, seed, device):
        return Walk(self, torch.Generator().manual_seed(seed).get_state())

    def resume(self, y, degradation, state, *, device):
        return Walk(self, state["state"], state["step"])


def walks(**methods):
    """An estimator whose estimation has other methods."""
    walk = type("OwnWalk", (Walk,), methods)

    def start(self, y, degradation, *, seed, device):
        return walk(self, torch.Generator().manual_seed(seed).get_state())

    return with_(Walker, start=start)


COUNT = itertools.count()
ESTIMATORS = {
    "derives from blindsr.estimators": object(),
    "steps_for.degradation. must return a number of steps": with_(Walker, steps_for=lambda self, d: None),
    r"start\(y, degradation, ...\) fails: RuntimeError": with_(Walker, start=fails_on_purpose),
    r"start\(\) returns NoneType, not an Estimation": with_(Walker, start=lambda self, y, d, *, seed, device: None),
    r"advance\(\) returns NoneType, not Metrics": walks(advance=lambda self: setattr(self, "step", self.step + 1)),
    r"estimate\(\) returns NoneType, not an Estimate": walks(estimate=lambda self: None),
    "makes_image is set, but": with_(Walker, makes_image=True),
    r"the image has shape \(1, 1, 4, 4\)": walks(estimate=lambda self: Estimate(torch.zeros(1, 1, 4, 4), None)),
    "has_kernel does not say": with_(Walker, has_kernel=False),
    "the estimated kernel: kernels must sum to one": walks(
        estimate=lambda self: Estimate(None, 2 * Walk.estimate(self).kernel)
    ),
    "draws from torch's global random state": walks(
        estimate=lambda self: Estimate(None, good_kernels(1, torch.default_generator))
    ),
    "the same seed gives another kernel": with_(
        Walker,
        start=lambda self, y, d, *, seed, device: Walk(self, torch.Generator().manual_seed(next(COUNT)).get_state()),
    ),
    "this estimator keeps no state to resume from": with_(Walker, resume=Estimator.resume),
    "does not end as one that was not interrupted": with_(
        Walker, resume=lambda self, y, d, state, *, device: Walk(self, state["state"], state["step"] + 3)
    ),
}


def test_bad_estimators():
    check_estimator(Walker())
    for message, estimator in ESTIMATORS.items():
        check_message(message, check_estimator, estimator)


def test_checks_leave_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    check_kernel_prior(Density(), OP)
    check_image_prior(with_(object, energy=lambda self, x: x.square().sum((1, 2, 3))))
    check_optimizer(Joint())
    check_estimator(Walker())
    assert torch.equal(before, torch.random.get_rng_state())
