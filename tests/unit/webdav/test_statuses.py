"""The table from errors to HTTP codes is whole."""

from __future__ import annotations

from serpentfs import errors
from serpentfs.gateways.webdav.door import STATUS_OF, refusal_of
from serpentfs.gateways.webdav.messages import REASONS


def test_every_error_has_a_status() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.SerpentError):
            assert refusal_of(kind("x")).status in REASONS
    assert refusal_of(errors.NameTooLong("x")).status == 400
    assert refusal_of(errors.Unavailable("x")).status == 503
    assert refusal_of(errors.RevisionGone("x")).status == 503
    assert refusal_of(errors.NoSpace("x")).status == 507
    limited = refusal_of(errors.RateLimited("x", 17.2))
    assert ("Retry-After", "18") in limited.headers
    assert set(STATUS_OF.values()) <= set(REASONS)
