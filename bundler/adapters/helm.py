"""Helm 3 and 4 as programs, shut off from the user's own Helm: private homes, no plugins but ours, limits."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bundler.adapters.chart_archive import read_chart
from bundler.adapters.cluster_failures import cluster_failure
from bundler.adapters.post_render import JOB_VARIABLE, job_bytes, read_report
from bundler.adapters.process import Completed, TimedOutError, run
from bundler.domain.events import Emit, Waiting, silent
from bundler.domain.image_map import ImageMap
from bundler.domain.image_values import ChartDefaults
from bundler.domain.release import Installing, Rendering, Revision
from bundler.domain.rewrite import closure_error
from bundler.errors import (
    ClosureError,
    DefinitionError,
    FormatError,
    LimitError,
    PolicyError,
    ProgramError,
    TargetError,
)

RENDER_LIMIT_S = 120.0
READ_LIMIT_S = 60.0
MAX_MEMORY_BYTES = 1 << 30
"""Four may run at once. Helm 4 with a post-renderer takes 0.42 GiB for manifests of 80 000 lines."""
_COLLECT_BYTES = MAX_MEMORY_BYTES * 3 // 4
"""From here on Go collects garbage in earnest, instead of letting its heap double."""
_STARVED = re.compile(
    rb"^(?:fatal error|runtime): .*(?:out of memory|cannot allocate|new OS thread)|cannot allocate memory", re.MULTILINE
)
OLDEST = (3, 17, 3)
"""The first without CVE-2025-32386 and -32387: charts and schemas that eat all memory."""
HISTORY = 5
_GREEDY = "Look at the chart's templates (loops, strings that grow) and at what its values make of them."
_PLUGIN = "bundle-images"
_MODULE = ("-P", "-m", "bundler.adapters.post_render")
_VERSION = re.compile(rb"v([0-9]+)\.([0-9]+)\.([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class HelmSettings:
    """Where Helm is and what it may know.

    Attributes:
        binary: the program.
        work: a folder of ours (0700) for homes and temporary files.
        kubeconfig: of the cluster; None where Helm only renders.
        environ: what the token plugin in the kubeconfig needs; nothing else of it reaches Helm.
        emit: hears of waits for releases to become ready.
    """

    binary: Path
    work: Path
    kubeconfig: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    emit: Emit = silent


class Helm:
    """One helm program; the cluster is reached only by the methods that say so."""

    def __init__(self, settings: HelmSettings) -> None:
        self._settings = settings
        self._major: int | None = None

    def version(self) -> tuple[int, int, int]:
        """Return major, minor and patch version.

        Raises:
            MissingToolError: it is not there, or not for this machine.
            PolicyError: neither Helm 3 nor 4, or older than 3.17.3.
        """
        done = self._run(["version", "--short"], limit_s=READ_LIMIT_S)
        match = _VERSION.search(done.stdout)
        if done.returncode != 0 or match is None:
            raise done.error(str(self._settings.binary))
        version = (int(match[1]), int(match[2]), int(match[3]))
        if version < OLDEST or version[0] > 4:
            text = ".".join(map(str, version))
            raise PolicyError(f"helm {text}", "is not supported; 3.17.3 to 4 are", hint="Name another in `tools.helm`.")
        return version

    def render(self, chart: bytes, rendering: Rendering, *, images: ImageMap | None = None) -> str:
        """Return the manifests of the chart, hooks and CRDs included (port ChartRenderer); no cluster is asked.

        With `images` they come out as an install would apply them; Helm 3 leaves hooks as they were rendered.

        Raises:
            LimitError: it takes more memory, time or room than any honest chart.
            DefinitionError: it does not render with these values.
        """
        subject = f"release {rendering.release}"
        with self._prepared(chart, rendering, images) as prepared:
            argv = ["template", rendering.release, *prepared.flags, "--include-crds"]
            argv += ["--kube-version", _full_version(rendering.kubernetes_version)]
            argv += [f"--api-versions={name}" for name in rendering.api_versions]
            try:
                done = self._run(argv, limit_s=RENDER_LIMIT_S, environ=prepared.environ)
            except LimitError as error:
                raise LimitError(subject, f"does not render: helm {error.cause}", hint=_GREEDY) from error
            except TimedOutError as error:
                raise LimitError(subject, f"does not render within {RENDER_LIMIT_S:g} s", hint=_GREEDY) from error
            if done.returncode != 0:
                _refuse_starved(done, subject)
                self._refuse_missing(prepared, rendering)
                raise DefinitionError(subject, f"does not render: {done.tail}", hint="Correct its values.")
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(subject, "renders to something that is not UTF-8") from error

    def defaults(self, chart: bytes) -> ChartDefaults:
        """Return the chart's own values, subcharts included."""
        return read_chart(chart, subject="the chart").defaults

    def history(self, release: str, namespace: str) -> tuple[Revision, ...]:
        """Return the revisions that the cluster keeps of a release, oldest first; none when it is not installed."""
        done = self._cluster(["history", release, "--namespace", namespace, "--max", "100", "--output", "json"])
        if done.returncode != 0 and b"release: not found" in done.stderr:
            return ()
        self._check(done, f"release {release}")
        return tuple(
            Revision(
                number=int(str(entry["revision"])),
                status=str(entry["status"]),
                chart=str(entry.get("chart", "")),
                description=str(entry.get("description", "")),
            )
            for entry in _json(done, f"history of {release}")
        )

    def upgrade_install(self, chart: bytes, rendering: Rendering, *, images: ImageMap, installing: Installing) -> None:
        """Install the chart, or upgrade what is there, with private references.

        Raises:
            ClosureError: a pod would run an image that the bundle does not hold; nothing was applied.
            TargetError: applied, but not ready in time, or refused by the API server.
            AccessError, NetworkError, ConflictError: as the cluster answers.
        """
        with self._prepared(chart, rendering, images) as prepared:
            argv = ["upgrade", "--install", rendering.release, *prepared.flags]
            argv += ["--create-namespace", "--reset-values", "--hide-notes", "--history-max", str(HISTORY)]
            argv += ["--description", installing.description, "--timeout", f"{installing.timeout_s:.0f}s"]
            argv += ["--wait"] if installing.wait else []
            argv += ["--take-ownership"] if installing.take_ownership else []
            done = self._cluster(
                [*argv, *self._client_side()],
                environ=prepared.environ,
                limit_s=installing.timeout_s + READ_LIMIT_S,
                tick=self._teller(rendering.release, installing),
            )
            if done.returncode != 0:
                self._refuse_missing(prepared, rendering)
                _refuse_starved(done, f"release {rendering.release}")
        self._check(done, f"release {rendering.release}")

    def rollback(self, release: str, namespace: str, revision: int) -> None:
        """Return to an earlier revision, without its hooks: puts a release in order that a killed Helm left."""
        argv = ["rollback", release, str(revision), "--namespace", namespace, "--no-hooks"]
        self._check(self._cluster([*argv, *self._client_side()], limit_s=RENDER_LIMIT_S), f"release {release}")

    def uninstall(self, release: str, namespace: str, *, timeout_s: float = RENDER_LIMIT_S) -> None:
        """Remove a release that was never whole, without its hooks, and wait until its objects are gone."""
        argv = ["uninstall", release, "--namespace", namespace, "--no-hooks", "--wait"]
        done = self._cluster([*argv, "--timeout", f"{timeout_s:.0f}s"], limit_s=timeout_s + READ_LIMIT_S)
        self._check(done, f"release {release}")

    def _client_side(self) -> list[str]:
        """Helm 4 merges in the client as Helm 3 does, so that the outcome does not depend on which one is carried.

        Its server-side apply stops at any field that somebody set by hand.
        """
        return ["--server-side=false"] if self._is_helm4() else []

    def _is_helm4(self) -> bool:
        if self._major is None:
            self._major = self.version()[0]
        return self._major >= 4

    @contextmanager
    def _prepared(self, chart: bytes, rendering: Rendering, images: ImageMap | None) -> Iterator[_Prepared]:
        """Lay chart and values out as files, where no other user reads them, for the time of one command."""
        with tempfile.TemporaryDirectory(dir=self._settings.work, prefix="helm-") as name:
            folder = Path(name)
            (folder / "chart.tgz").write_bytes(chart)
            # Helm reads it as YAML, which has no surrogate pairs: characters stand as themselves.
            (folder / "values.json").write_bytes(json.dumps(rendering.values, ensure_ascii=False).encode())
            flags = [str(folder / "chart.tgz"), "--namespace", rendering.namespace]
            flags += ["--values", str(folder / "values.json")]
            if images is None:
                yield _Prepared(flags=flags, environ={}, report=folder / "report.json")
                return
            (folder / "job.json").write_bytes(job_bytes(images, report=folder / "report.json"))
            environ = {JOB_VARIABLE: str(folder / "job.json")}
            if self._is_helm4():
                flags += ["--post-renderer", _PLUGIN]
                environ["HELM_PLUGINS"] = str(_write_plugin(folder / "plugins"))
            else:
                flags += ["--post-renderer", sys.executable, *(f"--post-renderer-args={word}" for word in _MODULE)]
            yield _Prepared(flags=flags, environ=environ, report=folder / "report.json")

    def _refuse_missing(self, prepared: _Prepared, rendering: Rendering) -> None:
        report = read_report(prepared.report)
        if report is not None and report.missing:
            raise closure_error(report.missing, subject=f"release {rendering.release}")
        if report is not None and report.problem:
            raise ClosureError(f"release {rendering.release}", report.problem)

    def _teller(self, release: str, installing: Installing) -> Callable[[float], None]:
        def tell(elapsed_s: float) -> None:
            self._settings.emit(
                Waiting(
                    subject=f"release {release}",
                    state="helm waits until it is ready" if installing.wait else "helm applies it",
                    elapsed_s=elapsed_s,
                    limit_s=installing.timeout_s,
                )
            )

        return tell

    def _cluster(
        self,
        argv: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        limit_s: float = READ_LIMIT_S,
        tick: Callable[[float], None] | None = None,
    ) -> Completed:
        kubeconfig = self._settings.kubeconfig
        if kubeconfig is None:
            raise ProgramError("helm", "was given no cluster")
        return self._run(
            [*argv, "--kubeconfig", str(kubeconfig)],
            limit_s=limit_s,
            environ={**self._settings.environ, **_homes(self._home), **(environ or {})},
            tick=tick,
        )

    def _run(
        self,
        argv: Sequence[str],
        *,
        limit_s: float,
        environ: Mapping[str, str] | None = None,
        tick: Callable[[float], None] | None = None,
    ) -> Completed:
        fixed = {"HOME": str(self._home), **_homes(self._home), "GOMEMLIMIT": str(_COLLECT_BYTES)}
        return run(
            [str(self._settings.binary), *argv],
            timeout_s=limit_s,
            env={**fixed, **(environ or {})},
            cwd=self._settings.work,
            max_memory_bytes=MAX_MEMORY_BYTES,
            tick=tick,
        )

    @property
    def _home(self) -> Path:
        return self._settings.work / "helm-home"

    def _check(self, done: Completed, subject: str) -> None:
        if done.returncode == 0:
            return
        failure = cluster_failure(done, subject)
        if failure is not None:
            raise failure
        raise TargetError(
            subject, f"helm: {done.tail}", hint="Look at it: bundle status; then run bundle install again."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    flags: list[str]
    environ: Mapping[str, str]
    report: Path


def _refuse_starved(done: Completed, subject: str) -> None:
    """Say in plain words what Go says with the stacks of all its goroutines."""
    if _STARVED.search(done.stderr):
        cause = f"does not render: its templates need more than {MAX_MEMORY_BYTES >> 20} MiB of memory"
        raise LimitError(subject, cause, hint=_GREEDY)


def _homes(home: Path) -> dict[str, str]:
    """What Helm would else read from the user's own folders and variables, where there is nothing."""
    return {
        "HELM_CACHE_HOME": str(home / "cache"),
        "HELM_CONFIG_HOME": str(home / "config"),
        "HELM_DATA_HOME": str(home / "data"),
        "KUBECACHEDIR": str(home / "kube-cache"),
        "KUBECONFIG": str(home / "kubeconfig"),
        "LANG": "C.UTF-8",
    }


def _write_plugin(folder: Path) -> Path:
    """Lay our post-renderer out as the plugin that Helm 4 wants; JSON is YAML."""
    plugin = {
        "apiVersion": "v1",
        "type": "postrenderer/v1",
        "name": _PLUGIN,
        "version": "1.0.0",
        "runtime": "subprocess",
        "runtimeConfig": {"platformCommand": [{"command": sys.executable, "args": list(_MODULE)}]},
    }
    (folder / _PLUGIN).mkdir(parents=True)
    (folder / _PLUGIN / "plugin.yaml").write_text(json.dumps(plugin))
    return folder


def _full_version(kubernetes_version: str) -> str:
    return f"{kubernetes_version}.0" if kubernetes_version.count(".") == 1 else kubernetes_version


def _json(done: Completed, subject: str) -> list[dict[str, object]]:
    """The JSON list in what Helm printed; versions from 4.2.1 print other lines before it."""
    text = done.stdout.decode("utf-8", "replace")
    try:
        found = json.loads(text[text.index("[") :])
    except ValueError as error:
        raise FormatError(subject, "is not what helm prints as JSON") from error
    if not isinstance(found, list):
        raise FormatError(subject, "is no list")
    return found
