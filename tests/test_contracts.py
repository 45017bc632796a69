"""`blindsr.testing`: each way to break a contract gets its own one-line message."""

from functools import partial

import pytest
import torch

from blindsr.errors import UserError
from blindsr.operators.degradation import Degradation
from blindsr.optimizers.plain import Joint
from blindsr.restorers import BicubicRestorer, CallableRestorer, MapRestorer
from blindsr.testing import (
    ContractError,
    check_image_prior,
    check_kernel_density,
    check_kernel_prior,
    check_optimizer,
    check_restorer,
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


PROXES = {
    r"prox\(x, 0.01\) fails: RuntimeError: out of kernels": fails_on_purpose,
    "returns NoneType, not a tensor": lambda x, step: None,
    r"has shape \(3, 12, 10\); that of x": lambda x, step: x[0],
    "has type torch.float32; that of x, torch.float64": lambda x, step: x.float(),
    r"prox\(x, step\) holds values that are not finite": lambda x, step: x / 0,
    "changes x": lambda x, step: x.mul_(0.5),
    "must go to x as step goes to 0": lambda x, step: 0.5 * x,
}


@pytest.mark.parametrize("message", PROXES)
def test_bad_proximal_maps(message):
    prior = with_(object, prox=lambda self, x, step: PROXES[message](x, step))
    check_message(message, partial(check_image_prior, for_map=True), prior)


def test_what_an_image_prior_lacks_is_said():
    energy, prox = with_(object, energy=lambda self, x: x.sum((1, 2, 3))), with_(object, prox=lambda self, x, step: x)
    check_image_prior(energy)
    check_image_prior(prox, for_map=True)
    check_message(r"needs a method prox\(x, step\) in MAP", partial(check_image_prior, for_map=True), energy)
    check_message(r"needs a method energy\(x\) in the joint loop", check_image_prior, prox)


def enlarged(y, scale):
    return y.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


RESTORERS = {
    "needs needs_kernel; subclass blindsr.restorers.Restorer": lambda y, k, d, n: enlarged(y, d.scale),
    "fails: RuntimeError: out of kernels": fails_on_purpose,
    "returns NoneType, not a tensor": lambda y, k, d, n: None,
    r"has shape \(1, 1, 18, 15\); \(1, C, s h, s w\) = \(1, 1, 36, 30\)": lambda y, k, d, n: y,
    "values that are not finite": lambda y, k, d, n: enlarged(y, d.scale) / 0,
    "values outside 0..1": lambda y, k, d, n: 255 * enlarged(y, d.scale),
    "changes y or the kernel": lambda y, k, d, n: enlarged(y.mul_(0.5), d.scale),
    "global random state": lambda y, k, d, n: torch.rand(1, y.shape[1], d.scale * 18, d.scale * 15),
    "needs_kernel is True, but": lambda y, k, d, n: enlarged(y, d.scale),
    "needs_noise is False, but": lambda y, k, d, n: enlarged(y, d.scale) * k.max() * (1 - n),
}


@pytest.mark.parametrize("message", RESTORERS)
def test_bad_restorers(message):
    class Own(MapRestorer):
        needs_noise = False

        def __call__(self, y, kernel, degradation, noise_std):
            return RESTORERS[message](y, kernel, degradation, noise_std)

    check_message(message, check_restorer, RESTORERS[message] if "subclass" in message else Own())


def test_restorers_that_forget_or_refuse():
    calls = []

    def fades(y, kernel, degradation, noise_std):
        calls.append(1)
        return enlarged(y, degradation.scale) / len(calls)

    def refuses(y, kernel, degradation, noise_std):
        raise UserError("no picture is good enough")

    check_message("another image for the same input", check_restorer, CallableRestorer(fades, "fades"))
    check_message("refuses every scale", check_restorer, CallableRestorer(refuses, "refuses"))
    check_restorer(BicubicRestorer())


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
