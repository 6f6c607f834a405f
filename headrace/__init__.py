"""Headrace: one OpenAI-compatible server for every model a person can reach. Importing it loads no engine
library.
"""

import sys

__version__ = "0.3.0"

# OpenVINO reports each import to an analytics host through the package `openvino_telemetry`. A module that is
# None cannot be imported, and OpenVINO then takes the stub that it brings for machines without the package.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
