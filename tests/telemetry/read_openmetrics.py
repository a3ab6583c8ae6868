#!/usr/bin/env python3
"""Reads an OpenMetrics page on standard input as strictly as prometheus_client does, and tells its
exemplars as JSON lines. Fails where the page is no OpenMetrics."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(sys.stdin.read()))
for family in families:
    for sample in family.samples:
        if sample.exemplar:
            told = {"name": sample.name, "labels": sample.labels, "value": sample.exemplar.value}
            print(json.dumps(told | sample.exemplar.labels))
print(json.dumps({"families": len(families)}))
