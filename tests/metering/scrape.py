"""What /metrics says, read by Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.serving import Served

Labels = frozenset[tuple[str, str]]


class Scrape:
    """The samples of one answer of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples: dict[tuple[str, Labels], float] = {}
        self.names = set[str]()
        for family in text_string_to_metric_families(text):
            self.names.add(family.name)
            for sample in family.samples:
                self._samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def get(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, and perhaps others; 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self._samples.items() if found == name and wanted <= has)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        return [dict(has) for found, has in self._samples if found == name]


def scrape(server: Served, headers: dict[str, str] | None = None) -> Scrape:
    answer = server.get("/metrics", headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.text)
