"""From a plan to other numbers of machines: pairs/s, memory, hours and cost, by arithmetic alone.

A step is its micro-steps as they were measured, and what ends it; with more trainers the exchange
takes longer by what a ring takes longer. On CPUs, where decoding and training share the cores, a
machine gives no more than its cores' time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hpse_dist.planning.plan import WAITING, Link, Plan, Setting, Together, Trial
from hpse_dist.recipe import TrainingRecipe


@dataclass(frozen=True)
class Prices:
    """What is known of the machines that are planned for."""

    link_gb_s: float | None = None
    """Between the GPUs of a node, GB/s; None: as measured."""
    network_gb_s: float | None = None
    """Between nodes, GB/s of one direction."""
    gpu_hour: float | None = None
    """Price of a GPU (on CPUs, of a trainer) for an hour, in any currency."""


@dataclass(frozen=True)
class Forecast:
    """One number of machines."""

    nodes: int
    gpus: int
    """On each node."""
    setting: Setting
    samples_per_s: float
    step_s: float
    exchange_share: float
    """Share of a step in which the trainers wait for one another's gradients."""
    wait_share: float
    """Share of a step spent waiting for data."""
    hours: float
    """Of the whole run, evaluations included; start-up is not."""
    cost: float | None
    measured: bool
    """Whether this very number of trainers was measured."""


def forecast(
    plan: Plan, recipe: TrainingRecipe, nodes: int, gpus: int, prices: Prices | None = None
) -> Forecast:
    """What the recipe will do on `nodes` machines of `gpus` each.

    ValueError where the trainers cannot share the global batch, or a link was neither measured nor
    given.
    """
    prices = prices or Prices()
    world = nodes * gpus
    setting = fitting(plan, world)
    trial = scaled(plan, setting)
    accumulation = plan.global_batch // (world * setting.micro_batch)
    sent = exchange_s(plan, trial, accumulation, world, link_of(plan, nodes, gpus, prices))
    measured = (world, gpus) == (plan.world_size, plan.local_size) and prices.link_gb_s is None
    if measured:
        step = plan.global_batch / plan.together.samples_per_s
        waiting = plan.together.wait_share
    else:
        step, waiting = _step(plan, trial, accumulation, nodes, gpus, sent)
    hours = (recipe.steps * step + _evaluating(plan, recipe, world)) / 3600
    return Forecast(
        nodes,
        gpus,
        setting,
        plan.global_batch / step,
        step,
        exchange_share=min(1.0, sent / step),
        wait_share=waiting,
        hours=hours,
        cost=None if prices.gpu_hour is None else hours * world * prices.gpu_hour,
        measured=measured,
    )


def _step(
    plan: Plan, trial: Trial, accumulation: int, nodes: int, gpus: int, sent: float
) -> tuple[float, float]:
    """Seconds of a step that was not measured, and the share of it spent waiting for data."""
    before = exchange_s(plan, trial, accumulation, plan.world_size, plan.link)
    share = plan.global_batch / (nodes * gpus)  # samples of a step and trainer
    made = max(trial.step_s(accumulation) + sent - before, accumulation * trial.micro_s)
    computing = _real(plan, made, share)
    if plan.device == "cpu":
        cores = plan.global_batch * plan.together.core_s / (nodes * plan.cores)
        computing = max(computing, cores)
    step = max(computing, share / _decoded(plan, gpus))
    return step, 1 - computing / step


def fitting(plan: Plan, world: int) -> Setting:
    """The plan's setting, with a smaller micro-batch where the global batch needs one."""
    share, rest = divmod(plan.global_batch, world)
    if rest:
        raise ValueError(
            f"global_batch {plan.global_batch} cannot be shared by {world} trainers; plan for a "
            "number that divides it"
        )
    chosen = plan.chosen
    micro = max(m for m in range(1, min(chosen.micro_batch, share) + 1) if share % m == 0)
    alone = {"plain": "ddp"} if world > 1 else {"ddp": "plain"}
    engine = alone.get(chosen.engine, chosen.engine)
    return replace(chosen, engine=engine, micro_batch=micro)


def scaled(plan: Plan, setting: Setting) -> Trial:
    """The chosen setting's measurement, for another micro-batch by the nearest that was tried of
    those that compute alike."""
    chosen = plan.trial(plan.chosen)
    if setting.micro_batch == plan.chosen.micro_batch:
        return Trial(setting, chosen.micro_s, chosen.update_s, chosen.peak_bytes)
    wanted = (setting.recompute, setting.compile)
    fine = [t for t in plan.trials if not t.failed and t.setting.engine != "zero"]
    simple = [t for t in fine if (t.setting.recompute, t.setting.compile) == wanted] or [chosen]
    near = min(simple, key=lambda t: abs(math.log(t.setting.micro_batch / setting.micro_batch)))
    micro = near.micro_s * setting.micro_batch / near.setting.micro_batch
    return Trial(setting, micro, chosen.update_s)


def link_of(plan: Plan, nodes: int, gpus: int, prices: Prices) -> Link | None:
    """The slowest stretch of the ring through all trainers."""
    if nodes * gpus == 1:
        return None
    latency = plan.link.latency_s if plan.link else 0.0
    rates = []
    if gpus > 1:
        inside = plan.link.bytes_per_s if plan.link else None
        if prices.link_gb_s is not None:
            inside = 1e9 * prices.link_gb_s
        if inside is None:
            raise ValueError(
                "how fast trainers of one machine reach one another was not measured, for the plan "
                "is of one process: plan with machine.workers=2 or more, or give --link GB/s"
            )
        rates.append(inside)
    if nodes > 1:
        if prices.network_gb_s is None:
            raise ValueError("more than one node: give the network's speed with --network GB/s")
        rates.append(1e9 * prices.network_gb_s)
    return Link(min(rates), latency)


def exchange_s(plan: Plan, trial: Trial, accumulation: int, world: int, link: Link | None) -> float:
    """Seconds of a step that gradients (at stage 3 weights too) are waited for.

    An all-reduce is a reduce-scatter and an all-gather of (W - 1) / W of the bytes each. ddp sends
    while it computes; the part of that which the measurement saw hidden stays hidden as long as
    there is a backward pass, two thirds of a micro-step, to hide it.
    """
    if world == 1 or link is None:
        return 0.0
    whole = link.all_reduce_s(plan.parameter_bytes, world)
    setting = trial.setting
    if setting.engine == "zero" and setting.zero_stage == 2:
        return whole / 2 * (accumulation + 1)
    if setting.engine == "zero" and setting.zero_stage == 3:
        return whole / 2 * 3 * accumulation
    if setting.engine == "zero" or plan.link is None or plan.world_size == 1:
        return whole
    measured = plan.link.all_reduce_s(plan.parameter_bytes, plan.world_size)
    hidden = max(0.0, 1 - trial.update_s / measured)
    return whole - min(hidden * whole, 2 / 3 * trial.micro_s)


def _real(plan: Plan, step: float, share: float) -> float:
    """A step of made batches as it is beside the loader: slower by as much as the measurement of
    both together was."""
    accumulation = plan.global_batch // (plan.world_size * plan.chosen.micro_batch)
    made = plan.trial(plan.chosen).step_s(accumulation)
    samples = plan.global_batch / plan.world_size
    return step * plan.together.compute_s * samples / made


def _decoded(plan: Plan, gpus: int) -> float:
    """Samples/s that one trainer's loader gives where `gpus` of them share a machine's cores."""
    if plan.together.loader == "resident":
        return math.inf  # nothing is decoded any more
    of_threads = {one.threads: one.samples_per_s for one in plan.loading}
    rate = of_threads.get(plan.loader_threads) or max(of_threads.values())
    cores_each = plan.cores / gpus
    return rate * min(1.0, cores_each / plan.loader_threads)


def _evaluating(plan: Plan, recipe: TrainingRecipe, world: int) -> float:
    """Seconds of all evaluations of the run, and of its tests in the end."""
    together = recipe.evaluation_batch * world
    times = math.ceil(recipe.steps / recipe.evaluate_every)
    batches = times * math.ceil(plan.evaluation_rows / together)
    return (batches + math.ceil(plan.test_rows / together)) * plan.evaluation_s


def readable(plan: Plan, recipe: TrainingRecipe, ahead: list[Forecast], memory: list[str]) -> str:
    """The plan as text: what was measured, and what follows."""
    accumulation = plan.global_batch // plan.world_size
    wide = 2 + max(len(str(trial.setting)) for trial in plan.trials)
    lines = [
        f"{plan.name} on {plan.world_size} x {plan.machine}, {plan.made}, in {plan.seconds:.0f} s",
        "",
        f"  {'':{wide}s}{'micro-step':>12s}{'update':>11s}{'samples/s':>11s}",
    ]
    for trial in plan.trials:
        mark = "*" if trial.setting == plan.chosen else " "
        if trial.failed:
            lines.append(f"{mark} {trial.setting!s:{wide}s}{trial.failed}")
            continue
        steps = accumulation // trial.setting.micro_batch
        rate = plan.global_batch / trial.step_s(steps)
        times = f"{1e3 * trial.micro_s:9.1f} ms{1e3 * trial.update_s:8.1f} ms"
        compiling = f"  (compiling: {trial.compile_s:.0f} s)" if trial.setting.compile else ""
        lines.append(f"{mark} {trial.setting!s:{wide}s}{times}{rate:11.1f}{compiling}")
    rates = (f"{one.threads}: {one.samples_per_s:.0f}" for one in plan.loading)
    lines.append(f"\nloader, samples/s of one trainer by threads: {', '.join(rates)}")
    if plan.link:
        lines.append(
            f"link: {plan.link.bytes_per_s / 1e9:.2f} GB/s, {1e3 * plan.link.latency_s:.2f} ms; "
            f"a gradient has {plan.parameter_bytes / 2**20:.1f} MiB"
        )
    tried = (plan.together, *plan.other_loaders)
    lines += [_with_loader(one) for one in tried] + [_decoding(plan)]
    lines += [
        "",
        f"  nodes x trainers  {'setting':{wide}s}{'samples/s':>10s}{'exchange':>10s}{'waiting':>9s}"
        f"{'memory':>11s}{'hours':>9s}{'cost':>10s}",
    ]
    for one, held in zip(ahead, memory, strict=True):
        cost = "" if one.cost is None else f"{one.cost:,.2f}"
        where = f"{one.nodes} x {one.gpus}{' (measured)' if one.measured else ''}"
        lines.append(
            f"  {where:16s}  {one.setting!s:{wide}s}{one.samples_per_s:10,.1f}"
            f"{one.exchange_share:10.1%}{one.wait_share:9.1%}{held:>11s}{one.hours:9.2f}{cost:>10s}"
        )
    return "\n".join(lines)


def _with_loader(one: Together) -> str:
    return (
        f"together, loader {one.loader}: {one.samples_per_s:.1f} samples/s "
        f"(+-{one.spread:.0%} between steps), {one.wait_share:.1%} waiting for data, "
        f"{1e3 * one.core_s:.1f} core-ms a sample"
    )


def _decoding(plan: Plan) -> str:
    """Cores that decoding takes of each trainer, and what to do where they are too few."""
    one, needed = plan.loading[0], 1 / plan.together.compute_s
    cores = one.threads * needed / one.samples_per_s
    share = plan.cores / plan.local_size
    text = (
        f"a trainer computes {needed:.0f} samples/s, whose decoding takes {cores:.2g} of the "
        f"{share:g} cores that there are for each"
    )
    waits = plan.together.loader == "inline" and plan.together.wait_share >= WAITING
    if not waits or cores < share / 2:
        return text
    return (
        f"{text}, and it waits: machine.loader=workers decodes on other machines' cores too, with "
        f"machine.data_workers={math.ceil(1.5 * cores)}"
    )
