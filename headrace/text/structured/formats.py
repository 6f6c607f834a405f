"""The values of `format` that are enforced: the library's, and ours where its own let through what is none
(29 February 2023).
"""

from __future__ import annotations

_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_DAY = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|" + _LEAP + ")"
)
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"  # a library's dates begin with year 1
_CLOCK = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
# all of which must be found in the text
FORMATS: dict[str, tuple[str, ...]] = {
    "date": (f"^{_DAY}$", f"^{_YEAR}-"),
    "time": (f"^{_CLOCK}$",),
    "date-time": (f"^{_DAY}T{_CLOCK}$", f"^{_YEAR}-"),
}
LIBRARY_FORMATS = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
KNOWN_FORMATS = sorted((*FORMATS, *LIBRARY_FORMATS))
