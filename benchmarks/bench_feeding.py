"""Polar images for another program, straight out of a stack, against the transform alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from measure import Comparison, Way, compare, main, scratch_folder, time_in_turn
from references import transform_alone
from sets import one_stack_set, plan_of
from torch.utils.data import DataLoader

from cryolike import ParticleDataset, iter_polar
from cryolike.threads import n_usable_cores


def run(
    n_pixels: int = 128, n_images: int = 20_000, batch_size: int = 128, n_runs: int = 3
) -> list[Comparison]:
    """Compare with the stack in the system's cache; nothing is done with the batches."""
    with scratch_folder() as folder:
        plan = plan_of(one_stack_set(folder, n_images, n_pixels))
        dataset = ParticleDataset(plan, ctf=False)
        here = DataLoader(dataset, batch_size)
        # Processes of their own, which live as long as the loader
        elsewhere = DataLoader(
            dataset,
            batch_size,
            num_workers=n_usable_cores(),
            multiprocessing_context="spawn",
            persistent_workers=True,
        )

        def iterate(*, ctf: bool) -> Iterable[object]:
            return iter_polar(plan.table, plan.descriptor, batch_size=batch_size, ctf=ctf)

        def way(name: str, batches: Callable[[], Iterable[object]]) -> Way:
            def work() -> None:
                for _ in batches():
                    pass

            return Way(name=name, work=work, amount=n_images)

        *ways, transform = time_in_turn(
            way("iter_polar, polar images", lambda: iterate(ctf=False)),
            way("iter_polar, polar images and CTF", lambda: iterate(ctf=True)),
            way("ParticleDataset by DataLoader in the same process", lambda: here),
            way(f"the same in {n_usable_cores()} processes", lambda: elsewhere),
            transform_alone(plan.descriptor, n_images),
            n_runs=n_runs,
        )
    return [compare(timed, transform, at_least=0.8) for timed in ways]


if __name__ == "__main__":
    main(run)
