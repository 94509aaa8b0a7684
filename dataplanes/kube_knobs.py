"""The knobs of kube-proxy, which mean the same in each of its modes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class KubeKnobs(Struct, frozen=True):
    """What kube-proxy is started with."""

    liberal: Annotated[
        bool, Meta(description="--conntrack-tcp-be-liberal: no segment is INVALID for lying outside its window")
    ] = False


class KubeNftKnobs(KubeKnobs, frozen=True):
    """What kube-proxy is started with, and which of its layouts is programmed."""

    layout: Annotated[
        Literal["chains", "maps", "one-map"],
        Meta(description="a chain for each endpoint (1.31 to 1.35), a map for each service (1.36), or one map for all"),
    ] = "chains"
