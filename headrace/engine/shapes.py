"""Limits what the runtime remembers of each shape of its inputs. It compiles kernels for each number of
tokens that it meets, about 1.3 MB, and by default keeps those of hundreds of numbers: memory grows for hours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# The plugin counts numbers of tokens, about. oneDNN below it would hold on to the same kernels, of which each
# number of tokens has several.
LEAST, KERNELS = 32, 8
PROPERTY, VARIABLE = "CPU_RUNTIME_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def limited(properties: Mapping[str, str], max_num_seqs: int = LEAST) -> dict[str, str]:
    """The properties of a compilation, with the limit unless they have one: as many numbers as sequences may
    decode in a step. oneDNN reads its own limit from the environment at its first use; an operator's counts.
    """
    most = max(LEAST, max_num_seqs)
    os.environ.setdefault(VARIABLE, str(KERNELS * most))
    return {PROPERTY: str(most), **properties}
