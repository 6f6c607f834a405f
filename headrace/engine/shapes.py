"""Limits what the runtime remembers of each shape of its inputs. It compiles kernels for each number of
tokens that it meets, about 1.3 MB, and by default keeps those of hundreds of numbers: memory grows for hours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# In the plugin: numbers of tokens, about: a step in which all of the default 32 sequences decode has no more.
# oneDNN below it would hold on to the same kernels, of which each number of tokens has several.
MOST, MOST_KERNELS = "32", "256"
PROPERTY, VARIABLE = "CPU_RUNTIME_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def limited(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties of a compilation, with the limit unless they have one. oneDNN reads its own from the
    environment at its first use; an operator's setting counts.
    """
    os.environ.setdefault(VARIABLE, MOST_KERNELS)
    return {PROPERTY: MOST, **properties}
