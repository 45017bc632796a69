"""Samplers on the kernel posterior (a): effective draws a second, and whether they agree.

    python benchmarks/samplers.py --data DIR                       # Set5 woman and butterfly, x4
    python benchmarks/samplers.py --data DIR --samplers hmc mala rwm --images woman
    python benchmarks/samplers.py --data DIR --nuts pyro numpyro blackjax --over own map --nuts-draws 300

Every sampler runs on the same density in the same process; ours over the transport map of `posteriors.nested_laplace`.
NUTS of other libraries runs over the target's own coordinates (Pyro's scaled by the spread of the starts), or over the
same map as ours; its mass matrix is diagonal, but Pyro's is dense where the warm-up is long enough to learn one. Bulk
and tail ESS and R-hat are ArviZ's, the least over all parameters; seconds are wall time, the search for the mode, the
map and the warm-up included. NumPyro and BlackJAX, which are no dependency of this project, call the density through a
host callback, so only their trajectories are theirs; seconds include their compilation.
"mean z" and "sd z" are the largest difference from the first sampler's over all parameters, in Monte Carlo standard
errors; of a hundred parameters the largest is about 3 when both sample the same density.
Lines are printed as a Markdown table, and appended to --out as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blindsr import Degradation
from blindsr.diagnostics import arviz_io
from blindsr.io.images import read_image
from blindsr.posteriors import SpectralTarget, Transported, nested_laplace, value_and_gradient
from blindsr.random import generator
from blindsr.samplers import SAMPLERS, Chains, sample

SIZES = {
    "hmc": {"chains": 8, "draws": 320, "warmup": 90},
    "mala": {"chains": 8, "draws": 1500, "warmup": 400},
    "rwm": {"chains": 8, "draws": 8000, "warmup": 3000},
    "tempering": {"chains": 4, "draws": 100, "warmup": 60},
    "smc": {"chains": 4, "draws": 250},
}
"""Chains, draws and warm-up of ours."""


def statistics(draws: Tensor) -> dict[str, float]:
    """Least bulk and tail ESS and largest R-hat over the parameters of draws (chains, draws, dim)."""
    columns = [draws[..., j].numpy() for j in range(draws.shape[-1])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "bulk": min(arviz_io.ess_bulk(c) for c in columns),
            "tail": min(arviz_io.ess_tail(c) for c in columns),
            "rhat": max(arviz_io.rhat(c) for c in columns),
        }


def ours(target: SpectralTarget, name: str, seed: int) -> tuple[Chains, float]:
    """Chains of one of our samplers, and seconds, those of the mode included."""
    target.__dict__.pop("mode", None)
    target.__dict__.pop("_normal", None)
    start = time.perf_counter()
    over = SAMPLERS[name].uses_transport
    given = {"transport": nested_laplace(target)} if over else {"covariance": target.laplace()[1]}
    chains = sample(target, name, **SIZES[name], generator=generator(seed), **given)
    return chains, time.perf_counter() - start


def pyro_nuts(target: SpectralTarget, over: str, args: argparse.Namespace) -> tuple[Tensor, float]:
    """Draws (chains, draws, dim) of Pyro's NUTS, one chain after another."""
    start = time.perf_counter()
    chains = sample(
        target,
        "pyro-nuts",
        chains=args.nuts_chains,
        draws=args.nuts_draws,
        warmup=args.nuts_draws,
        generator=generator(args.seed + 1),
        transport=nested_laplace(target) if over == "map" else None,
    )
    return chains.draws, time.perf_counter() - start


def jax_nuts(library: str, target: SpectralTarget, over: str, args: argparse.Namespace) -> tuple[Tensor, float]:
    """Draws (1, draws, dim) of NUTS of NumPyro or BlackJAX on the same density, by host callback."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    began, dim = time.perf_counter(), len(target.names)
    space = Transported(target, nested_laplace(target)) if over == "map" else target
    shapes = (jax.ShapeDtypeStruct((), jnp.float64), jax.ShapeDtypeStruct((dim,), jnp.float64))

    density = value_and_gradient(space)

    def host(z: object) -> tuple[object, object]:
        value, gradient = density(torch.tensor(z.__array__()[None], dtype=torch.float64))
        return value[0].numpy(), gradient[0].numpy()

    @jax.custom_vjp
    def log_prob(z: object) -> object:
        return jax.pure_callback(host, shapes, z)[0]

    log_prob.defvjp(lambda z: jax.pure_callback(host, shapes, z), lambda gradient, g: (g * gradient,))
    first = jnp.asarray(space.initial(1, generator=generator(args.seed))[0].numpy())
    key = jax.random.PRNGKey(args.seed)
    if library == "numpyro":
        from numpyro.infer import MCMC, NUTS

        mcmc = MCMC(
            NUTS(potential_fn=lambda z: -log_prob(z)),
            num_warmup=args.nuts_draws,
            num_samples=args.nuts_draws,
            progress_bar=False,
        )
        mcmc.run(key, init_params=first)
        draws = mcmc.get_samples()
    else:
        import blackjax

        tune, run = jax.random.split(key)
        (state, parameters), _ = blackjax.window_adaptation(blackjax.nuts, log_prob).run(tune, first, args.nuts_draws)
        step = jax.jit(blackjax.nuts(log_prob, **parameters).step)
        rows = []
        for one in jax.random.split(run, args.nuts_draws):
            state, _ = step(one, state)
            rows.append(state.position)
        draws = jnp.stack(rows)
    found = torch.tensor(draws.__array__())[None]
    if isinstance(space, Transported):
        found = space.positions(found)[0]
    return found, time.perf_counter() - began


LIBRARIES: dict[str, Callable[[SpectralTarget, str, argparse.Namespace], tuple[Tensor, float]]] = {
    "pyro": pyro_nuts,
    "numpyro": partial(jax_nuts, "numpyro"),
    "blackjax": partial(jax_nuts, "blackjax"),
}
"""NUTS of other libraries."""


def agreement(a: Tensor, b: Tensor) -> dict[str, float]:
    """Largest difference of means and of log sds over the parameters, in Monte Carlo standard errors."""
    worst = {"mean_z": 0.0, "sd_z": 0.0}
    for j in range(a.shape[-1]):
        sides = []
        for draws in (a[..., j], b[..., j]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ess = arviz_io.ess_bulk(draws.numpy())
                spread = arviz_io.ess_bulk((draws - draws.mean()).square().numpy())
            sides.append((float(draws.mean()), float(draws.std()), ess, spread))
        (m1, s1, e1, v1), (m2, s2, e2, v2) = sides
        mean = abs(m1 - m2) / (s1**2 / e1 + s2**2 / e2) ** 0.5
        sd = abs(torch.tensor(s1 / s2).log().item()) / (0.5 / v1 + 0.5 / v2) ** 0.5
        worst = {"mean_z": max(worst["mean_z"], mean), "sd_z": max(worst["sd_z"], sd)}
    return worst


def main() -> None:
    """Print a row for each sampler and image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", nargs="+", default=["woman", "butterfly"])
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--samplers", nargs="+", default=["hmc"], choices=list(SIZES))
    parser.add_argument("--nuts", nargs="+", default=[], choices=list(LIBRARIES))
    parser.add_argument("--over", nargs="+", default=["map"], choices=["own", "map"], help="coordinates of NUTS")
    parser.add_argument("--nuts-draws", type=int, default=600, help="draws and warm-up of NUTS for each chain")
    parser.add_argument("--nuts-chains", type=int, default=1, help="chains of Pyro's NUTS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| image | sampler | draws | seconds | bulk ESS | tail ESS | R-hat | ESS/s | mean z | sd z |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for image in args.images:
        y = read_image(args.data / f"Set5_x{args.scale}" / f"{image}.png").pixels
        target = SpectralTarget(y, Degradation(args.scale))
        rows: list[tuple[str, Tensor, float]] = []
        for name in args.samplers:
            chains, seconds = ours(target, name, args.seed)
            rows.append((name, chains.draws, seconds))
        for library in args.nuts:
            for over in args.over:
                rows.append((f"{library} nuts, {over}", *LIBRARIES[library](target, over, args)))
        reference = rows[0][1]
        for name, draws, seconds in rows:
            found = statistics(draws)
            gap = agreement(reference, draws) if draws is not reference else {"mean_z": 0.0, "sd_z": 0.0}
            size = f"{draws.shape[0]} x {draws.shape[1]}"
            print(
                f"| {image} x{args.scale}, {draws.shape[-1]} parameters | {name} | {size} | {seconds:.1f} | "
                f"{found['bulk']:.0f} | {found['tail']:.0f} | {found['rhat']:.4f} | {found['bulk'] / seconds:.2f} | "
                f"{gap['mean_z']:.1f} | {gap['sd_z']:.1f} |",
                flush=True,
            )
            if args.out:
                place = {"image": image, "scale": args.scale, "sampler": name, "size": size, "seed": args.seed}
                place |= {"threads": args.threads, "date": time.strftime("%Y-%m-%d")}
                record = place | found | gap | {"seconds": seconds}
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
