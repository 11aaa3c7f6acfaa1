"""Ray Train's trainer without what no run here needs: every start and restart waits for it.

Ray's own for torch has its controller import torch, for which all workers wait, only to tell them
where to meet; and it starts actors that deal out Ray's datasets, ask an autoscaler for machines
and free a lost controller's places.

It can be left, too: a thread that waits in Ray's own for its controller cannot, and where the
connection to Ray ends meanwhile, as by Ctrl-C, Ray's C++ crashes the process some time later.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import ray
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

LOOK_S = 0.2  # how often a trainer looks whether it is to be left
_ABORT_S = 5.0
_DATASETS, _PLACES = "DatasetsCallback", "PlacementGroupCleanerCallback"


class Meeting(BackendConfig):
    """Tells the workers where rank 0 waits for them; `hpse_dist.engine.join` makes the group."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Meeting


class _Meeting(Backend):
    share_cuda_visible_devices = True  # a worker's device is its local rank's, as for torchrun

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_meet, address, str(port))


def _meet(address: str, port: str) -> None:
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}


class _Settled(FixedScalingPolicy):
    """For a cluster that no machine will join: nobody is asked for one."""

    def after_controller_start(self, *_: Any, **__: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):
    """A trainer in a cluster that ends with this command if it is its `own`; `left` ends its fit,
    and its workers, without waiting for them."""

    def __init__(self, own: bool, left: threading.Event, *args: Any, **options: Any) -> None:
        super().__init__(*args, backend_config=Meeting(), **options)
        self._own, self._left = own, left

    def _create_default_callbacks(self) -> list[Any]:
        needless = {_DATASETS, _PLACES} if self._own else {_DATASETS}
        made = super()._create_default_callbacks()
        return [one for one in made if type(one).__name__ not in needless]

    def _settled(self, parts: dict[str, Any]) -> dict[str, Any]:
        """What Ray's controller is made of, in a cluster that no machine will join."""
        config: Any = self.scaling_config  # typed as V1's
        return parts | ({"scaling_policy": _Settled(config)} if self._own else {})

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        here = ray.get_runtime_context().get_node_id()
        actor: Any = ray.remote(
            num_cpus=0,
            label_selector={"ray.io/node-id": here},
            runtime_env={"env_vars": get_env_vars_to_propagate()},
        )(TrainController)
        controller = actor.remote(**self._settled(parts))
        running = controller.run.remote()
        while not ray.wait([running], timeout=LOOK_S)[0]:
            if self._left.is_set():
                # its workers and their places are its own to give back, if it still can
                ray.wait([controller.abort.remote()], timeout=_ABORT_S)
                ray.kill(controller)
                raise InterruptedError
        ray.get(running)
        return ray.get(controller.get_result.remote())
