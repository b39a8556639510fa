"""Every operation of the OpenAPI document, with what schemathesis makes of it: the document is true, nothing breaks."""

import json
import zlib
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .operations import document

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# Filters within filters make some 3,600 boundary cases of an operation: all of the first, then one of many.
ALL_OF_THE_FIRST, THEN_ONE_OF = 60, 40

schemathesis.serializer.alias("application/x-tar", "application/octet-stream")
schema = schemathesis.openapi.from_dict(document())
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
_boundary_cases: Counter[str] = Counter()


def is_passed_over(case: schemathesis.Case) -> bool:
    """Whether a boundary case is left out, so that all of them together take seconds and not minutes."""
    if case.meta is None or case.meta.phase.name != TestPhase.COVERAGE:
        return False
    _boundary_cases[case.operation.label] += 1
    if _boundary_cases[case.operation.label] <= ALL_OF_THE_FIRST:
        return False
    drawn = zlib.crc32(json.dumps([case.body, case.query, case.headers], default=repr, sort_keys=True).encode())
    return drawn % THEN_ONE_OF != 0


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_operation(case: schemathesis.Case, disposable: str) -> None:
    if not is_passed_over(case):
        case.call_and_validate(base_url=disposable, checks=CHECKS, timeout=60)
