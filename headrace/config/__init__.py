"""Configuration: one frozen tree, read once: defaults < TOML file < environment < flags.

section, providers, sections (the tree) → options (the names of each key) → tables (providers and routes) →
load. Unknown keys, invalid values and two aliases with different values raise ConfigError, which names the
key, the value and what would be valid. The environment is read nowhere else.
"""

from headrace.config.extras import install_command
from headrace.config.load import DEFAULT_FILE, Loaded, is_loopback, load
from headrace.config.models import EngineConfig, ModelsConfig
from headrace.config.options import PREFIX, Option, options
from headrace.config.providers import FallbackReason, PriceConfig, ProviderConfig, RouteConfig, TargetConfig
from headrace.config.section import Names
from headrace.config.sections import (
    Config,
    ConversationsConfig,
    LimitsConfig,
    PathsConfig,
    StoreConfig,
    TelemetryConfig,
)
from headrace.config.server import ServerConfig
from headrace.config.tables import VARIABLES as PROVIDER_VARIABLES

__all__ = [
    "DEFAULT_FILE", "PREFIX", "PROVIDER_VARIABLES", "Config", "ConversationsConfig", "EngineConfig",
    "FallbackReason", "LimitsConfig", "Loaded", "ModelsConfig", "Names", "Option", "PathsConfig",
    "PriceConfig", "ProviderConfig", "RouteConfig", "ServerConfig", "StoreConfig", "TargetConfig",
    "TelemetryConfig", "install_command", "is_loopback", "load", "options",
]  # fmt: skip
