"""`blindsr.testing`: each way to break a contract gets its own one-line message."""

import pytest
import torch

from blindsr.operators.degradation import Degradation
from blindsr.optimizers.plain import Joint
from blindsr.testing import (
    ContractError,
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


def late_negative(k):
    """The 50th kernel of a draw, if there are as many, has a negative pixel, and still sums to one."""
    k = k.clone()
    k[49:50, 0, 0, 0] -= 0.1
    k[49:50, 0, 0, 1] += 0.1
    return k


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
    r"sample\(100\) has negative kernel values .*, in 1 of 100 kernels\)": Prior(late_negative),
    r"sample\(1\) has shape \(1, 11, 11\)": Prior(lambda k: k.squeeze(0)),
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


@pytest.mark.parametrize("message", KERNEL_PRIORS)
def test_bad_kernel_priors(message):
    check_message(message, check_kernel_prior, KERNEL_PRIORS[message], OP)


def test_a_prior_with_a_memory_of_its_own_is_found_out():
    calls = []

    def drift(k):
        calls.append(1)
        return torch.roll(k, len(calls), dims=0)

    check_message("other kernels for the same generator state", check_kernel_prior, Prior(drift), OP)


@pytest.mark.parametrize("message", DENSITIES)
def test_bad_densities(message):
    check_message(message, check_kernel_density, DENSITIES[message], OP)


@pytest.mark.parametrize("message", IMAGE_PRIORS)
def test_bad_image_priors(message):
    energy = IMAGE_PRIORS[message]
    prior = object() if energy is None else with_(object, energy=lambda self, x: energy(x))
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


@pytest.mark.parametrize("message", OPTIMIZERS)
def test_bad_optimizers(message):
    check_message(message, check_optimizer, OPTIMIZERS[message])


def test_checks_leave_the_global_random_state_alone():
    before = torch.random.get_rng_state()
    check_kernel_prior(Density(), OP)
    check_image_prior(with_(object, energy=lambda self, x: x.square().sum((1, 2, 3))))
    check_optimizer(Joint())
    assert torch.equal(before, torch.random.get_rng_state())
