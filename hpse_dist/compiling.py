"""torch.compile of transformer blocks: the only file that imports torch's compiler, and late, since
it takes a second or two to import.
"""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from hpse_dist.body.free_body import cache_folder
from hpse_dist.models.blocks import TransformerBlock

log = logging.getLogger(__name__)

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
# One function serves all blocks of a kind, and is compiled anew for every shape, width and way of
# being called: an objective has a dozen at most, a plan tries several. torch stops at 8.
_VERSIONS = 64


def compile_blocks(module: nn.Module, device: torch.device) -> None:
    """Compile a module's transformer blocks in place, for training steps of fixed shapes; names of
    its tensors stay. It happens at the first step.

    A block is one graph or an error: nothing falls back in silence. ValueError where torch cannot
    compile for the device.
    """
    blocks = [part for part in module.modules() if isinstance(part, TransformerBlock)]
    if not blocks:
        log.warning(
            "machine.compile has nothing to do: %s with encoder %s has none of the transformer "
            "blocks that are compiled",
            *(type(module).__name__, type(getattr(module, "encoder", None)).__name__),
        )
        return
    _set_up(device)
    for block in blocks:
        block.compile(dynamic=False, fullgraph=True)


def _set_up(device: torch.device) -> None:
    """torch's compiler, with a cache of the user's own; ValueError for what it lacks."""
    import torch._dynamo
    import torch._inductor.config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    from torch.utils._triton import has_triton

    # torch's own is a folder in /tmp whose name anybody can tell and take; it writes that down as
    # soon as it is imported, as an optimizer may have done
    if os.environ.get(_FOLDER) in (None, default_cache_dir()):
        folder = cache_folder() / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[_FOLDER] = str(folder)
    torch._inductor.config.cpp_cache_precompile_headers = False  # they go to /tmp all the same
    torch._dynamo.config.recompile_limit = max(_VERSIONS, torch._dynamo.config.recompile_limit)
    lacks = ""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        lacks = "a C++ compiler (g++, or what CXX names)"
    if device.type == "cuda" and not has_triton():
        lacks = "the package triton, or a GPU that it can use"
    if lacks:
        raise ValueError(
            f"machine.compile: torch cannot compile for {device.type} here, for want of {lacks}; "
            "install it, or leave machine.compile false"
        )
