"""`bundle build` and `bundle push` on a corpus, beside those who move images too."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import images
from tests.bench.corpus import Corpus
from tests.bench.images import LAYOUT, OUT, Program, Tool, find_program, script
from tests.bench.limits import CONNECTIONS
from tests.bench.measure import Command, Peer, Place, Scenario, Verify, run
from tests.bench.ours import Workspace
from tests.bench.rig import Rig
from tests.bench.right import (
    OURS_BELOW,
    delta_is_right,
    each_tar_is_there,
    every_file_is_there,
    new_bytes,
    nothing,
    out_is_there,
    registry_is_right,
    sink_is_right,
    tar_is_right,
)
from tests.bench.servers import LINK_LATENCY_S, OwnRegistry, Server, docker_registry

PULLS: Mapping[str, Tool] = {
    "skopeo": images.pulled(images.skopeo_pull),
    "crane": images.pulled(images.crane_pull),
    "oras": images.pulled(images.oras_pull),
    "regctl": images.pulled(images.regctl_pull),
}
PUSHES: Mapping[str, Tool] = {
    "skopeo": images.skopeo_push,
    "crane": images.crane_push,
    "oras": images.oras_push,
    "regctl": images.regctl_push,
}
ROUND_TRIPS: Mapping[str, tuple[Tool, Tool]] = {
    "skopeo": (images.skopeo_pull, images.skopeo_push),
    "regctl": (images.regctl_pull, images.regctl_push),
    "oras": (images.oras_pull, images.oras_push),
}
BUCKET = "bench"
NOWHERE = Server(address="")
UNPACKED = "unpacked"


def peers_of(
    tools: Mapping[str, Tool], musts: Mapping[str, float], make: Callable[[Program, Tool], Command], verify: Verify
) -> list[Peer]:
    """A peer for each tool that is installed, and for each that is not; zarf has no tool here."""
    found = []
    for name in tools:
        program = find_program(name)
        command = None if program.path is None else make(program, tools[name])
        found.append(Peer(name=name, version=program.version, command=command, verify=verify, must=musts.get(name)))
    if "zarf" in musts:
        program = find_program("zarf")
        version = program.version if program.path is None else f"{program.version}: no command is written for it"
        found.append(Peer(name="zarf", version=version, command=None, verify=verify, must=musts["zarf"]))
    return found


def build(
    rig: Rig,
    name: str,
    source: OwnRegistry,
    *,
    musts: Mapping[str, float],
    limit_s: float | None,
    is_small: bool = False,
    sha256: float | None = None,
    release: tuple[Corpus, Workspace] | None = None,
) -> Scenario:
    """Registry -> one archive file; the lock is there, and the cache holds what locking left."""
    corpus, workspace = release or (rig.corpus, rig.workspace)
    if is_small:
        corpus, workspace = rig.small, rig.small_workspace
    variables = {"SSL_CERT_FILE": rig.authority} if source.tls else {}

    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        source.reset()
        with tempfile.TemporaryDirectory(prefix="run-", dir=rig.folder) as place:
            cache = Path(place) / "cache"
            shutil.copytree(workspace.folder / "locked", cache)
            more = workspace.environment(source, cache=cache) | variables
            yield Place(stub={}, prepared=rig.folder, folder=Path(place), environment=more)

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, source))

    tools = {peer: PULLS[peer] for peer in PULLS if peer in musts}
    return Scenario(
        name=name,
        ours=lambda place: workspace.build(out=place.folder),
        verify=partial(tar_is_right, corpus, workspace.archive),
        peers=(*peers_of(tools, musts, make, partial(tar_is_right, corpus, OUT)), *sha256_of(corpus, sha256)),
        where=where,
        limit_s=limit_s,
        moved=lambda place: source.stats()["BytesOut"] / corpus.total_bytes,
    )


def build_local(rig: Rig) -> Scenario:
    """Also against those that make a file for each image, and against the limits."""
    musts = {"skopeo": 3.2, "crane": 1.9, "oras": 1.5, "regctl": 2.3, "zarf": 4.5}
    made = build(rig, "build-local", rig.source, musts=musts, limit_s=rig.limits.build_s, sha256=1 / 2.7)
    corpus, skopeo, curl = rig.corpus, find_program("skopeo"), find_program("curl")
    none = Program(name="", path="", version="")

    def of(tool: Tool, program: Program) -> Command | None:
        return None if program.path is None else lambda place: script(tool(program, corpus, rig.source))

    each = partial(each_tar_is_there, corpus)
    more = (
        Peer(name="skopeo oci-archive:", version=skopeo.version, command=of(images.skopeo_pull_each, skopeo),
             verify=each, must=9),
        Peer(name="skopeo sync", version=skopeo.version, command=of(images.skopeo_sync, skopeo),
             verify=out_is_there, must=7),
        Peer(name="curl -Z, no hash", version=curl.version, command=of(images.curl_pull, curl),
             verify=partial(every_file_is_there, corpus), must=1 / 0.9),
        Peer(name="cat of the blobs", version="", command=of(images.cat, none), verify=out_is_there, must=1 / 1.5),
    )  # fmt: skip
    return replace(made, peers=(*made.peers, *more))


def sha256_of(corpus: Corpus, must: float | None) -> Sequence[Peer]:
    """CPU seconds of hashing the same bytes once; nobody where it is not asked for."""
    if must is None:
        return ()
    nobody = Program(name="", path="", version="")

    def command(place: Place) -> Sequence[str]:
        return script(images.sha256(nobody, corpus, NOWHERE))

    return (Peer(name="sha256", version="CPU", command=command, verify=nothing, must=must, of_cpu=True),)


def push(
    rig: Rig,
    name: str,
    sink: OwnRegistry,
    *,
    musts: Mapping[str, float],
    limit_s: float | None,
    is_small: bool = False,
    again: bool = False,
    sha256: float | None = None,
) -> Scenario:
    """Archive file -> registry, empty, or (`again`) with all of it there."""
    corpus, workspace = (rig.small, rig.small_workspace) if is_small else (rig.corpus, rig.workspace)
    archive = rig.small_built if is_small else rig.built
    layouts = rig.small_layouts if is_small else rig.layouts
    variables = {**workspace.environment(rig.source, sink=sink), **layouts}
    if sink.tls:
        variables["SSL_CERT_FILE"] = rig.authority

    def ours(place: Place) -> Sequence[str]:
        return workspace.push(archive, sink)

    @contextmanager
    def where(command: Command, *, verify: bool = False) -> Iterator[Place]:
        sink.reset(verify=verify)
        workspace.environment(rig.source, sink=sink)
        if again:
            with rig.fresh(**variables) as place:
                run(command(place), place, nothing)
        with rig.fresh(**variables) as place:
            yield place

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, sink))

    tools = {peer: PUSHES[peer] for peer in PUSHES if peer in musts}
    return Scenario(
        name=name,
        ours=ours,
        verify=partial(sink_is_right, corpus, sink, OURS_BELOW),
        peers=(*peers_of(tools, musts, make, partial(sink_is_right, corpus, sink, "")), *sha256_of(corpus, sha256)),
        where=where,
        limit_s=limit_s,
        moved=None if again else lambda place: sink.stats()["BytesIn"] / corpus.total_bytes,
        prove=None if again else partial(where, verify=True),
    )


def push_docker_registry(rig: Rig) -> Scenario:
    """Archive file -> Debian's docker-registry, which hashes and writes all of it, on the same two cores."""
    corpus, workspace, archive = rig.corpus, rig.workspace, rig.built
    variables = {**workspace.environment(rig.source), **rig.layouts}

    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        with docker_registry() as registry, rig.fresh(**variables) as place:
            yield replace(place, stub={"registry": registry.url})

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, _registry(place)))

    musts = {"skopeo": 1.5, "crane": 2.0, "zarf": 2.5}
    tools = {peer: PUSHES[peer] for peer in PUSHES if peer in musts}
    return Scenario(
        name="push-docker-registry",
        ours=lambda place: workspace.push(archive, _registry(place)),
        verify=partial(registry_is_right, corpus, OURS_BELOW),
        peers=peers_of(tools, musts, make, partial(registry_is_right, corpus, "")),
        where=where,
        limit_s=rig.limits.push_s,
    )


def _registry(place: Place) -> Server:
    return Server(address=str(place.stub["registry"]).removeprefix("http://"))


def round_trip(rig: Rig) -> Scenario:
    """Registry -> one file -> empty registry; who cannot push from a tar unpacks it first."""
    corpus, workspace, source, sink = rig.corpus, rig.workspace, rig.source, rig.sink

    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        sink.reset()
        with tempfile.TemporaryDirectory(prefix="run-", dir=rig.folder) as name:
            folder = Path(name)
            shutil.copytree(workspace.folder / "locked", folder / "cache")
            variables = workspace.environment(source, cache=folder / "cache")
            yield Place(stub={}, prepared=rig.folder, folder=folder, environment=variables)

    def ours(place: Place) -> Sequence[str]:
        commands = workspace.build(out=place.folder), workspace.push(place.folder / workspace.archive, sink)
        return script(shlex.join(command) for command in commands)

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, source))

    def both(name: str) -> Tool:
        pull, give = ROUND_TRIPS[name]
        in_place = name == "oras"

        def lines(program: Program, corpus: Corpus, source: Server) -> images.Lines:
            yield from images.pulled(pull)(program, corpus, source)
            yield f"rm -r {LAYOUT}"
            if not in_place:
                yield f"mkdir {UNPACKED}; tar -xf {OUT} -C {UNPACKED}"
            yield from give(program, corpus, sink, OUT if in_place else UNPACKED)

        return lines

    tools = {name: both(name) for name in ROUND_TRIPS}
    return Scenario(
        name="round-trip",
        ours=ours,
        verify=partial(sink_is_right, corpus, sink, OURS_BELOW),
        peers=peers_of(
            tools, {"zarf": 4.5, "skopeo": 3.0, "oras": 2.0}, make, partial(sink_is_right, corpus, sink, "")
        ),
        where=where,
        limit_s=rig.limits.build_s + rig.limits.push_s,
    )


def s3_install(rig: Rig) -> Scenario:
    """Archive in S3 -> registry by ranges, against downloading it (boto3) and pushing then."""
    corpus, workspace, sink = rig.corpus, rig.workspace, rig.link_sink
    address = f"s3://{BUCKET}/{rig.built.name}"
    variables = {**workspace.environment(rig.source), "AWS_ENDPOINT_URL_S3": rig.bucket.url}

    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        sink.reset()
        with rig.fresh(**variables) as place:
            yield place

    def downloaded(place: Place) -> Sequence[str]:
        local = place.folder / rig.built.name
        download = [sys.executable, "-m", "tests.bench.sides", "boto3-download", address, str(local)]
        return script(shlex.join(command) for command in (download, workspace.push(local, sink)))

    import boto3

    right = partial(sink_is_right, corpus, sink, OURS_BELOW)
    peer = Peer(
        name="download, then push", version=f"boto3 {boto3.__version__}", command=downloaded, verify=right, must=1.4
    )
    return Scenario(
        name="s3-install",
        ours=lambda place: workspace.push(address, sink),
        verify=right,
        peers=(peer,),
        where=where,
        limit_s=rig.limits.link_push_s,
        moved=lambda place: sink.stats()["BytesIn"] / corpus.total_bytes,
    )


def delta(rig: Rig) -> Scenario:
    """The next release against the archive before it, beside our own build of all of it."""
    corpus, workspace, source = rig.following, rig.following_workspace, rig.following_source
    whole = build(rig, "delta", source, musts={}, limit_s=None, release=(corpus, workspace))
    right = partial(tar_is_right, corpus, workspace.archive)
    return replace(
        whole,
        ours=lambda place: workspace.build(out=place.folder, more=["--against", str(rig.built)]),
        verify=partial(delta_is_right, corpus, rig.corpus, workspace.archive),
        peers=(Peer(name="the whole build", version="ours", command=whole.ours, verify=right, must=1.3),),
        moved=lambda place: source.stats()["BytesOut"] / new_bytes(corpus, rig.corpus),
    )


Make = Callable[[Rig], Scenario]
SCENARIOS: Mapping[str, Make] = {
    "build-local": build_local,
    "build-tls": lambda rig: build(
        rig, "build-tls", rig.tls_source, limit_s=rig.limits.build_s,
        musts={"skopeo": 3.0, "crane": 2.0, "oras": 1.5, "regctl": 2.3}, sha256=1 / 4.2,
    ),
    "build-latency": lambda rig: build(
        rig, "build-latency", rig.link_source, limit_s=rig.limits.link_build_s,
        musts={"skopeo": 8, "crane": 6, "oras": 5, "regctl": 5, "zarf": 8},
    ),
    "push-local": lambda rig: push(
        rig, "push-local", rig.sink, limit_s=rig.limits.push_s,
        musts={"skopeo": 4, "crane": 1.3, "oras": 1.7, "regctl": 4.0, "zarf": 4.3}, sha256=1 / 1.9,
    ),
    "push-tls": lambda rig: push(
        rig, "push-tls", rig.tls_sink, limit_s=rig.limits.push_s, musts={"skopeo": 2.0, "crane": 2.2, "oras": 2.2}
    ),
    "push-docker-registry": push_docker_registry,
    "push-latency": lambda rig: push(
        rig, "push-latency", rig.link_sink, limit_s=rig.limits.link_push_s,
        musts={"skopeo": 15, "crane": 8, "oras": 11, "regctl": 12, "zarf": 15},
    ),
    "push-unchanged": lambda rig: push(
        rig, "push-unchanged", rig.link_sink, musts={"skopeo": 15}, again=True,
        limit_s=LINK_LATENCY_S * -(-len(rig.corpus.images) // CONNECTIONS),
    ),
    "round-trip": round_trip,
    "small-build": lambda rig: build(
        rig, "small-build", rig.small_source, musts={"crane": 1.8, "skopeo": 25}, limit_s=None, is_small=True
    ),
    "small-push": lambda rig: push(
        rig, "small-push", rig.sink, musts={"oras": 2, "skopeo": 7}, limit_s=None, is_small=True
    ),
    "delta": delta,
    "s3-install": s3_install,
}  # fmt: skip
