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
from tests.bench.images import LAYOUT, OUT, PACKAGE, Program, Tool, find_program, script
from tests.bench.limits import CONNECTIONS, link_build_s, link_push_s
from tests.bench.measure import Command, Peer, Place, Proof, Scenario, Verify, run
from tests.bench.musts import MUSTS
from tests.bench.ours import Workspace
from tests.bench.rig import Rig
from tests.bench.right import (
    OURS,
    delta_is_right,
    each_tar_is_there,
    every_file_is_there,
    new_bytes,
    nothing,
    out_is_there,
    package_is_right,
    registry_is_right,
    sink_is_right,
    tar_is_right,
)
from tests.bench.servers import LINK_LATENCY_S, OwnRegistry, Server

PULLS: Mapping[str, Tool] = {
    "skopeo": images.pulled(images.skopeo_pull),
    "crane": images.pulled(images.crane_pull),
    "oras": images.pulled(images.oras_pull),
    "regctl": images.pulled(images.regctl_pull),
    "skcopy": images.pulled(images.skcopy_pull),
    "zarf": images.zarf_create,
}
PUSHES: Mapping[str, Tool] = {
    "skopeo": images.skopeo_push,
    "crane": images.crane_push,
    "oras": images.oras_push,
    "regctl": images.regctl_push,
    "skcopy": images.skcopy_push,
    "zarf": images.zarf_mirror,
}
BUCKET, SHA256 = "bench", "sha256"
NOWHERE = Server(address="")
UNPACKED = "unpacked"


def peers_of(
    scenario: str, tools: Mapping[str, Tool], make: Callable[[Program, Tool], Command], verify: Callable[[str], Verify]
) -> list[Peer]:
    """A peer for each tool that the scenario names: installed, or missing.

    Args:
        scenario: one of MUSTS.
        tools: what each program does.
        make: the command of a program.
        verify: whether the result of a peer is right.
    """
    musts = {name: must for name, must in MUSTS[scenario].items() if name in tools}
    programs = {name: find_program(name) for name in musts}
    return [
        Peer(
            name=name,
            version=programs[name].version,
            command=None if programs[name].path is None else make(programs[name], tools[name]),
            verify=verify(name),
            must=must,
        )
        for name, must in musts.items()
    ]


def build(
    rig: Rig,
    name: str,
    source: OwnRegistry,
    *,
    limit_s: Callable[[], float] | None,
    is_small: bool = False,
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

    def right(who: str) -> Verify:
        return partial(package_is_right, corpus) if who == "zarf" else partial(tar_is_right, corpus, OUT)

    return Scenario(
        name=name,
        ours=lambda place: workspace.build(out=place.folder),
        verify=partial(tar_is_right, corpus, workspace.archive),
        peers=(*peers_of(name, PULLS, make, right), *sha256_of(name, corpus)),
        where=where,
        limit_s=limit_s,
        moved=lambda place: source.stats()["BytesOut"] / corpus.total_bytes,
    )


def build_local(rig: Rig) -> Scenario:
    """Also against those that make a file for each image, and against the limits."""
    made = build(rig, "build-local", rig.source, limit_s=lambda: rig.limits.build_s)
    corpus, skopeo, curl = rig.corpus, find_program("skopeo"), find_program("curl")
    musts, none = MUSTS["build-local"], Program(name="", path="", version="")

    def of(tool: Tool, program: Program) -> Command | None:
        return None if program.path is None else lambda place: script(tool(program, corpus, rig.source))

    found = (
        ("skopeo oci-archive:", images.skopeo_pull_each, skopeo, partial(each_tar_is_there, corpus)),
        ("skopeo sync", images.skopeo_sync, skopeo, out_is_there),
        ("curl -Z, no hash", images.curl_pull, curl, partial(every_file_is_there, corpus)),
        ("cat of the blobs", images.cat, none, out_is_there),
    )
    more = [
        Peer(name=name, version=program.version, command=of(tool, program), verify=verify, must=musts[name])
        for name, tool, program, verify in found
    ]
    return replace(made, peers=(*made.peers, *more))


def sha256_of(scenario: str, corpus: Corpus) -> Sequence[Peer]:
    """CPU seconds of hashing the same bytes once; nobody where it is not asked for."""
    if SHA256 not in MUSTS[scenario]:
        return ()
    nobody = Program(name="", path="", version="")

    def command(place: Place) -> Sequence[str]:
        return script(images.sha256(nobody, corpus, NOWHERE))

    must = MUSTS[scenario][SHA256]
    return (Peer(name=SHA256, version="CPU", command=command, verify=nothing, must=must, of_cpu=True),)


def push(
    rig: Rig,
    name: str,
    sink: OwnRegistry,
    *,
    limit_s: Callable[[], float] | None,
    is_small: bool = False,
    again: bool = False,
) -> Scenario:
    """Archive file -> registry, empty, or (`again`) with all of it there.

    A proof, and what fills it, is not behind the link; to hash in every run would cost the time that is measured.
    """
    corpus, workspace = (rig.small, rig.small_workspace) if is_small else (rig.corpus, rig.workspace)
    archive = rig.small_built if is_small else rig.built
    layouts = rig.small_layouts if is_small else {**rig.layouts, **rig.package}
    variables = {**workspace.environment(rig.source, sink=sink), **layouts}
    if sink.tls:
        variables["SSL_CERT_FILE"] = rig.authority

    def ours(place: Place) -> Sequence[str]:
        return workspace.push(archive, sink)

    @contextmanager
    def where(command: Command, *, proof: bool = False) -> Iterator[Place]:
        sink.reset(verify=proof, free=proof)
        workspace.environment(rig.source, sink=sink)
        with rig.fresh(**variables) as place:
            yield place

    filled: set[Command] = set()

    @contextmanager
    def full(command: Command) -> Iterator[Place]:
        if command not in filled:
            sink.reset(keep=bool(filled), verify=True, free=True)
            workspace.environment(rig.source, sink=sink)
            with rig.fresh(**variables) as place:
                run(command(place), place, nothing)
            filled.add(command)
        sink.reset(keep=True)
        with rig.fresh(**variables) as place:
            yield place

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, sink))

    def right(who: str) -> Verify:
        return partial(sink_is_right, corpus, sink, who)

    return Scenario(
        name=name,
        ours=ours,
        verify=right(OURS),
        peers=(*peers_of(name, PUSHES, make, right), *sha256_of(name, corpus)),
        where=full if again else where,
        limit_s=limit_s,
        moved=lambda place: sink.stats()["BytesIn"] / corpus.total_bytes,
        proof=None if again else Proof(partial(where, proof=True)),
    )


def push_docker_registry(rig: Rig) -> Scenario:
    """Archive file -> Debian's docker-registry, which hashes and writes all of it, on the same two cores."""
    corpus, workspace, archive = rig.corpus, rig.workspace, rig.built
    registry = rig.docker_registry
    variables = {**workspace.environment(rig.source), **rig.layouts, **rig.package}

    @contextmanager
    def where(command: Command) -> Iterator[Place]:
        registry.reset()
        with rig.fresh(**variables) as place:
            yield replace(place, stub={"registry": registry.url})

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, registry))

    def right(who: str) -> Verify:
        return partial(registry_is_right, corpus, who)

    return Scenario(
        name="push-docker-registry",
        ours=lambda place: workspace.push(archive, registry),
        verify=right(OURS),
        peers=peers_of("push-docker-registry", PUSHES, make, right),
        where=where,
        limit_s=lambda: rig.limits.push_s,
    )


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

    def skopeo(program: Program, corpus: Corpus, source: Server) -> images.Lines:
        yield from PULLS["skopeo"](program, corpus, source)
        yield f"rm -r {LAYOUT}; mkdir {UNPACKED}; tar -xf {OUT} -C {UNPACKED}"
        yield from images.skopeo_push(program, corpus, sink, UNPACKED)

    def oras(program: Program, corpus: Corpus, source: Server) -> images.Lines:
        yield from PULLS["oras"](program, corpus, source)
        yield f"rm -r {LAYOUT}"
        yield from images.oras_push(program, corpus, sink, OUT)

    def zarf(program: Program, corpus: Corpus, source: Server) -> images.Lines:
        yield from images.zarf_create(program, corpus, source)
        yield from images.zarf_mirror(program, corpus, sink, PACKAGE)

    def make(program: Program, tool: Tool) -> Command:
        return lambda place: script(tool(program, corpus, source))

    def right(who: str) -> Verify:
        return partial(sink_is_right, corpus, sink, who)

    return Scenario(
        name="round-trip",
        ours=ours,
        verify=right(OURS),
        peers=peers_of("round-trip", {"skopeo": skopeo, "oras": oras, "zarf": zarf}, make, right),
        where=where,
        limit_s=lambda: rig.limits.build_s + rig.limits.push_s,
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

    right = partial(sink_is_right, corpus, sink, OURS)
    ((name, must),) = MUSTS["s3-install"].items()
    peer = Peer(name=name, version=f"boto3 {boto3.__version__}", command=downloaded, verify=right, must=must)
    return Scenario(
        name="s3-install",
        ours=lambda place: workspace.push(address, sink),
        verify=right,
        peers=(peer,),
        where=where,
        limit_s=lambda: link_push_s(corpus),
        moved=lambda place: sink.stats()["BytesIn"] / corpus.total_bytes,
    )


def delta(rig: Rig) -> Scenario:
    """The next release against the archive before it, beside our own build of all of it."""
    corpus, workspace, source = rig.following, rig.following_workspace, rig.following_source
    whole = build(rig, "delta", source, limit_s=None, release=(corpus, workspace))
    right = partial(tar_is_right, corpus, workspace.archive)
    ((name, must),) = MUSTS["delta"].items()
    return replace(
        whole,
        ours=lambda place: workspace.build(out=place.folder, more=["--against", str(rig.built)]),
        verify=partial(delta_is_right, corpus, rig.corpus, workspace.archive),
        peers=(Peer(name=name, version="ours", command=whole.ours, verify=right, must=must),),
        moved=lambda place: source.stats()["BytesOut"] / new_bytes(corpus, rig.corpus),
    )


Make = Callable[[Rig], Scenario]
SCENARIOS: Mapping[str, Make] = {
    "build-local": build_local,
    "build-tls": lambda rig: build(rig, "build-tls", rig.tls_source, limit_s=lambda: rig.limits.build_s),
    "build-latency": lambda rig: build(
        rig, "build-latency", rig.link_source, limit_s=lambda: link_build_s(rig.corpus)
    ),
    "push-local": lambda rig: push(rig, "push-local", rig.sink, limit_s=lambda: rig.limits.push_s),
    "push-tls": lambda rig: push(rig, "push-tls", rig.tls_sink, limit_s=lambda: rig.limits.push_s),
    "push-docker-registry": push_docker_registry,
    "push-latency": lambda rig: push(rig, "push-latency", rig.link_sink, limit_s=lambda: link_push_s(rig.corpus)),
    "push-unchanged": lambda rig: push(
        rig, "push-unchanged", rig.link_sink, again=True,
        limit_s=lambda: LINK_LATENCY_S * -(-len(rig.corpus.images) // CONNECTIONS),
    ),
    "round-trip": round_trip,
    "small-build": lambda rig: build(rig, "small-build", rig.small_source, limit_s=None, is_small=True),
    "small-push": lambda rig: push(rig, "small-push", rig.sink, limit_s=None, is_small=True),
    "delta": delta,
    "s3-install": s3_install,
}  # fmt: skip
